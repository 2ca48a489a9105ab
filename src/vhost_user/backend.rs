//! The device as the `vhost-user-backend` crate wants it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, info, warn};
use vhost::vhost_user::Backend as Frontend;
use vhost::vhost_user::message::{
    VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures,
};
use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use super::guest_log::GuestLog;
use super::ring::{Memory, Ring};
use super::server::{Served, exit_event};
use super::windows::Windows;
use super::worker::Worker;
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
    /// The `writeback` byte of the configuration space.
    writeback: AtomicBool,
    /// What the guest can map.
    windows: Arc<Windows>,
}

impl<Q: DiskQueue> Backend<Q> {
    /// The device `device`, served by one worker for each of the `queues` of its disk; the log
    /// calls it `title`.
    #[must_use]
    pub fn new(title: &str, device: Device, queues: Vec<Q>) -> Backend<Q> {
        let (title, device): (Arc<str>, _) = (title.into(), Arc::new(device));
        let worker = |(number, queue)| {
            let log = GuestLog::new(title.clone(), number);
            Mutex::new(Worker::new(log, queue, device.clone()))
        };
        Backend {
            workers: queues.into_iter().enumerate().map(worker).collect(),
            memory: Memory::new(GuestRam::new()),
            accepted: AtomicU64::new(0),
            writeback: AtomicBool::new(!device.is_write_through),
            device,
            windows: Arc::new(Windows::new(&title, Vec::new())),
            title,
        }
    }

    /// Number of sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.device.sectors
    }

    /// The device with windows beside its sectors.
    #[must_use]
    pub(super) fn with_windows(self, windows: Arc<Windows>) -> Backend<Q> {
        Backend { windows, ..self }
    }

    /// Whether a write has to be synced before it completes.
    fn has_to_sync(&self) -> bool {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let writeback = self.writeback.load(Ordering::Relaxed);
        !self.device.is_write_through && self.device.must_write_through(accepted, writeback)
    }
}

impl<Q: DiskQueue + 'static> Served for Backend<Q> {
    fn title(&self) -> &str {
        &self.title
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn reset(&self) {
        self.windows.disconnect();
        // The lock only orders those who replace the memory; each does so in one go.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(GuestRam::new());
        self.accepted.store(0, Ordering::Relaxed);
        self.writeback.store(!self.device.is_write_through, Ordering::Relaxed);
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

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        self.windows.stop_ring(queue);
        Ok(())
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The crate has told the rings.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        Config::read(&self.device, self.writeback.load(Ordering::Relaxed), offset, size)
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        // An error here would end the connection, and it is the guest that writes.
        match Config::written_writeback(offset, bytes) {
            Some(writeback) => {
                let mode = if writeback { "back" } else { "through" };
                info!("{}: the guest chooses write-{mode}", self.title);
                self.writeback.store(writeback, Ordering::Relaxed);
            }
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
        let (Some(ring), Some(worker)) = (rings.get(usize::from(event)), self.workers.get(thread))
        else {
            warn!("unexpected event {event} ({set:?}) on thread {thread}");
            return Ok(());
        };
        self.windows.start(thread, ring);
        // A panic while a worker is locked would end its thread; the state it leaves is that
        // between two requests.
        let mut worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.serve(ring, &self.memory, &|| self.has_to_sync());
        Ok(())
    }
}
