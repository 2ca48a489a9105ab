//! The device as the `vhost-user-backend` crate wants it.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{debug, warn};
use vhost::vhost_user::Backend as Frontend;
use vhost::vhost_user::message::{
    VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures,
};
use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use super::cache_mode::CacheMode;
use super::flusher::Flusher;
use super::guest_log::GuestLog;
use super::ring::{Memory, Ring};
use super::server::{Served, exit_event, wake_event};
use super::windows::Windows;
use super::worker::{Conditions, Worker};
use crate::virtio::GuestRam;
use crate::virtio::block::{Config, Device, DiskQueue};

/// A block device and its workers; outlives the connections to it.
pub struct Backend<Q> {
    /// What the log calls the device.
    title: Arc<str>,
    device: Arc<Device>,
    /// One per queue, and one queue per thread.
    workers: Vec<Mutex<Worker<Q>>>,
    /// Guest memory, as the connection has set it up.
    memory: Memory,
    /// Feature bits that the driver has accepted.
    accepted: AtomicU64,
    cache_mode: CacheMode,
    /// No more requests are to be taken off the rings.
    stopping: AtomicBool,
    /// What the guest can map.
    windows: Arc<Windows>,
}

impl<Q: DiskQueue> Backend<Q> {
    /// The device `device`, served by one worker for each of the `queues` of its disk; the log
    /// calls it `title`.
    #[must_use]
    pub fn new(title: &str, device: Device, queues: Vec<Q>) -> Backend<Q> {
        let (title, device): (Arc<str>, _) = (title.into(), Arc::new(device));
        // Without a queue there is nobody who would flush.
        let flusher = queues.first().map(|queue| Arc::new(Flusher::new(queue.syncs())));
        let worker = |((number, queue), flusher)| {
            let log = GuestLog::new(title.clone(), number);
            Mutex::new(Worker::new(log, queue, device.clone(), flusher))
        };
        let flushers = flusher.iter().cycle().cloned();
        Backend {
            workers: queues.into_iter().enumerate().zip(flushers).map(worker).collect(),
            memory: Memory::new(GuestRam::new()),
            accepted: AtomicU64::new(0),
            cache_mode: CacheMode::new(title.clone(), !device.is_write_through),
            stopping: AtomicBool::new(false),
            device,
            windows: Arc::new(Windows::new(&title, Vec::new())),
            title,
        }
    }

    /// Lets each worker wait for up to `most` for requests, at an empty ring, before it goes to sleep.
    #[must_use]
    pub fn polling(self, most: Duration) -> Backend<Q> {
        self.workers().for_each(|mut worker| worker.poll_for(most));
        self
    }

    /// The workers, one after another, once each comes to rest.
    fn workers(&self) -> impl Iterator<Item = MutexGuard<'_, Worker<Q>>> {
        self.workers.iter().map(lock)
    }

    /// Number of sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.device.sectors
    }

    /// Guest memory, as the frontend has set it up.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The device with windows beside its sectors, which its flushes are about, too.
    #[must_use]
    pub(super) fn with_windows(self, windows: Arc<Windows>) -> Backend<Q> {
        if !windows.is_empty() {
            let first = self.workers().next();
            let flusher = first.map(|first| Arc::new(first.flusher().with(windows.clone())));
            for (mut worker, flusher) in self.workers().zip(flusher.iter().cycle()) {
                worker.flush_by(flusher.clone());
            }
        }
        Backend { windows, ..self }
    }
}

/// A worker, once it comes to rest.
fn lock<Q>(worker: &Mutex<Worker<Q>>) -> MutexGuard<'_, Worker<Q>> {
    // A panic while a worker is locked would end its thread; the state it leaves is that between two
    // requests.
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Q: DiskQueue> Conditions for Backend<Q> {
    fn must_sync(&self) -> bool {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let writeback = self.cache_mode.is_writeback();
        !self.device.is_write_through && self.device.must_write_through(accepted, writeback)
    }

    fn ring_starts(&self, is_resumed: bool) {
        self.cache_mode.ring_starts(is_resumed);
    }

    fn flushed(&self) {
        self.cache_mode.flushed();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl<Q: DiskQueue + 'static> Served for Backend<Q> {
    fn title(&self) -> &str {
        &self.title
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn wakes(&self) -> io::Result<Vec<RawFd>> {
        self.workers().map(|mut worker| worker.connect()).collect()
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.workers().for_each(|mut worker| worker.disconnect(&self.memory));
        self.windows.disconnect();
        // The lock only orders those who replace the memory; each does so in one go.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(GuestRam::new());
        self.accepted.store(0, Ordering::Relaxed);
        self.cache_mode.disconnect();
        self.stopping.store(false, Ordering::Relaxed);
    }
}

impl<Q: DiskQueue> VhostUserBackend for Backend<Q> {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        self.workers.len()
    }

    fn max_queue_size(&self) -> usize {
        self.device.queue_size.into()
    }

    fn features(&self) -> u64 {
        self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        debug!("{}: the driver accepts the features {features:#x}", self.title);
        self.accepted.store(features, Ordering::Relaxed);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let disk = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        if self.windows.is_empty() { disk } else { disk | Windows::PROTOCOL_FEATURES }
    }

    fn reset_device(&self) {
        self.windows.stop();
    }

    fn set_backend_req_fd(&self, frontend: Frontend) {
        self.windows.connect(frontend);
    }

    fn get_shmem_config(&self) -> io::Result<VhostUserShMemConfig> {
        Ok(self.windows.config())
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The crate has told the rings.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        Config::read(&self.device, self.cache_mode.is_writeback(), offset, size)
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        // An error here would end the connection, and it is the guest that writes.
        match Config::written_writeback(offset, bytes) {
            Some(writeback) => self.cache_mode.choose(writeback),
            None => debug!("the guest writes {bytes:?} to its configuration at {offset}"),
        }
        Ok(())
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // The connection was given ours, and has replaced what is in it.
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.workers.len()).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        exit_event()
    }

    fn handle_event(
        &self,
        event: u16,
        set: EventSet,
        rings: &[Ring],
        thread: usize,
    ) -> io::Result<()> {
        // Each thread has one ring, which is its first.
        let is_wake = usize::from(event) == wake_event(self.workers.len());
        let ring = if is_wake { rings.first() } else { rings.get(usize::from(event)) };
        let (Some(ring), Some(worker)) = (ring, self.workers.get(thread)) else {
            warn!("unexpected event {event} ({set:?}) on thread {thread}");
            return Ok(());
        };
        self.windows.start(thread, ring, &self.memory);
        let mut worker = lock(worker);
        if is_wake {
            worker.woken();
        }
        worker.serve(ring, &self.memory, self);
        Ok(())
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        // The ring is not ready any more, so the worker comes to rest.
        if let Some(worker) = self.workers.get(queue as usize) {
            lock(worker).settle(&self.memory);
        }
        self.windows.stop_ring(queue);
        Ok(())
    }
}
