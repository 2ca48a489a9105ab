//! The block device that a session serves.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::device::{DeviceBackend, DeviceModel, VhostDevice};
use super::super::feature_names;
use super::super::guest_log::LimitedLog;
use super::super::queue::{Flusher, Memory, Progress, Ring, Serve, SyncCounters, lock};
use super::super::server::Server;
use super::super::socket::Endpoint;
use super::super::stop::Stop;
use super::super::wakeup::Wakeup;
use super::super::windows::Windows;
use super::cache_mode::CacheMode;
use super::handler::BlockHandler;
use crate::virtio::SyncError;
use crate::virtio::block::{Config, Device, DiskQueue};

/// A block device and the workers of its queues; outlives the connections to it.
pub struct BlockDevice<Q: DiskQueue + 'static>(DeviceBackend<BlockModel<Q>>);

/// What makes a device a disk.
pub(in crate::vhost_user) struct BlockModel<Q> {
    shared: Arc<Shared>,
    queue: PhantomData<fn() -> Q>,
}

/// What the queues of a device have in common.
pub(super) struct Shared {
    pub log: LimitedLog,
    /// As it was opened first.
    pub device: Arc<Device>,
    /// Number of sectors, which can grow.
    sectors: AtomicU64,
    /// Feature bits that the driver has accepted.
    accepted: AtomicU64,
    pub cache_mode: CacheMode,
    /// Makes the sectors durable, and what is beside them; there is one as soon as there is a queue.
    flusher: Mutex<Option<Arc<Flusher>>>,
}

impl Shared {
    /// Returns whether a write has to be durable when it completes. A guest that keeps its rings full can
    /// change that at any time.
    pub(super) fn must_sync(&self) -> bool {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let writeback = self.cache_mode.is_writeback();
        !self.device.is_write_through && self.device.must_write_through(accepted, writeback)
    }
}

impl<Q: DiskQueue + 'static> BlockDevice<Q> {
    /// The device `device`, served by one worker for each of the `queues` of its disk; the log calls it
    /// `name`.
    #[must_use]
    pub fn new(name: &str, device: Device, queues: Vec<Q>) -> BlockDevice<Q> {
        let log = LimitedLog::new(name);
        let cache_mode = CacheMode::new(!device.is_write_through);
        let (accepted, device) = (AtomicU64::new(0), Arc::new(device));
        let syncs: Arc<SyncCounters> = Arc::default();
        // Without a queue there is nothing that would flush.
        let flusher =
            queues.first().map(|queue| Arc::new(Flusher::new(queue.syncs(), syncs.clone())));
        let flushers: Vec<_> = queues.iter().filter_map(|_| flusher.clone()).collect();
        let (sectors, flusher) = (AtomicU64::new(device.sectors), Mutex::new(flusher));
        let shared = Shared { log, device, sectors, accepted, cache_mode, flusher };
        let shared = Arc::new(shared);
        let handler = |(queue, flusher)| BlockHandler::new(queue, shared.clone(), flusher);
        let handlers: Vec<_> = queues.into_iter().zip(flushers).map(handler).collect();
        let windows = Arc::new(Windows::new(name, Vec::new()));
        let model = BlockModel { shared, queue: PhantomData };
        BlockDevice(DeviceBackend::new(name, model, handlers, syncs, windows))
    }

    /// Lets each worker wait for up to `most` for requests, at an empty ring, before it goes to sleep.
    #[must_use]
    pub fn polling(self, most: Duration) -> BlockDevice<Q> {
        self.0.poll_for(most);
        self
    }

    /// A server of the device at `endpoint`, which `stop` stops.
    #[must_use]
    pub fn serve_at(self, endpoint: Endpoint, stop: Stop) -> Server {
        Server::new(self.into_device(), endpoint, stop)
    }

    /// Begins to serve a guest in the same process, whose driver has accepted `features`.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn connect_guest(&self, features: u64) -> io::Result<()> {
        self.0.accept_features(features);
        for worker in self.0.workers() {
            worker.connect(Arc::new(Wakeup::new()?));
        }
        Ok(())
    }

    /// Carries out what waits in `ring`, in this thread, until nothing does, for queue `number` of a guest
    /// in the same process.
    pub fn serve_guest(&self, number: usize, ring: &Ring, memory: &Memory) {
        let (worker, stop) = (self.0.worker(number), AtomicBool::new(false));
        worker.woken();
        while worker.step(ring, memory, &stop).0 == Progress::Busy {}
    }

    /// The device, to be served.
    pub(in crate::vhost_user) fn into_device(self) -> Arc<dyn VhostDevice> {
        Arc::new(self.0)
    }

    /// The device, to be served, and to be given more sectors meanwhile.
    pub(in crate::vhost_user) fn share(self) -> Arc<DeviceBackend<BlockModel<Q>>> {
        Arc::new(self.0)
    }

    /// What it consists of: what its guest sees, and its queues.
    pub(in crate::vhost_user) fn into_parts(self) -> (Device, Vec<Q>) {
        let device = (*self.0.model().shared.device).clone();
        (device, self.0.into_handlers().map(BlockHandler::into_queue).collect())
    }

    /// The device with windows in addition to its sectors; its flushes cover both.
    #[must_use]
    pub(in crate::vhost_user) fn with_windows(self, windows: Arc<Windows>) -> BlockDevice<Q> {
        let workers = self.0.workers();
        let mut flusher = self.0.model().flusher();
        if let Some(flusher) = flusher.as_mut().filter(|_| !windows.is_empty()) {
            *flusher = Arc::new(flusher.with(windows.clone()));
            for worker in workers {
                lock(worker).handler_mut().flush_by(flusher.clone());
            }
        }
        drop(flusher);
        BlockDevice(self.0.with_windows(windows))
    }
}

impl<Q: DiskQueue + 'static> DeviceBackend<BlockModel<Q>> {
    /// Number of sectors.
    pub(in crate::vhost_user) fn sectors(&self) -> u64 {
        self.model().shared.sectors.load(Ordering::Relaxed)
    }

    /// Serves `queues`, as many as before, of the same disk after it has grown to what `device` says. The gate
    /// is closed, the workers are idle, and all that they have written is durable.
    pub(in crate::vhost_user) fn take_over(&self, device: Device, queues: Vec<Q>) {
        let Some(first) = queues.first() else { return };
        let flusher = Flusher::new(first.syncs(), self.sync_counters().clone());
        let windows = self.windows();
        let flusher = if windows.is_empty() { flusher } else { flusher.with(windows.clone()) };
        let (flusher, device) = (Arc::new(flusher), Arc::new(device));
        *self.model().flusher() = Some(flusher.clone());
        for (worker, queue) in self.workers().iter().zip(queues) {
            lock(worker).handler_mut().take_over(queue, &device, flusher.clone());
        }
        self.model().shared.sectors.store(device.sectors, Ordering::Relaxed);
    }
}

impl<Q> BlockModel<Q> {
    fn flusher(&self) -> MutexGuard<'_, Option<Arc<Flusher>>> {
        // Replaced as a whole.
        self.shared.flusher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: DiskQueue + 'static> DeviceModel for BlockModel<Q> {
    type Handler = BlockHandler<Q>;

    fn queue_size(&self) -> u16 {
        self.shared.device.queue_size
    }

    fn features(&self) -> u64 {
        self.shared.device.features()
    }

    fn feature_names(&self) -> &'static [(u32, &'static str)] {
        feature_names::BLOCK
    }

    fn accept_features(&self, features: u64) {
        self.shared.accepted.store(features, Ordering::Relaxed);
    }

    fn read_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let Shared { device, sectors, cache_mode, .. } = &*self.shared;
        let device = Device { sectors: sectors.load(Ordering::Relaxed), ..(**device).clone() };
        Config::read(&device, cache_mode.is_writeback(), offset, size)
    }

    fn write_config(&self, offset: u32, bytes: &[u8], log: &LimitedLog) -> bool {
        let written = Config::written_writeback(offset, bytes);
        if let Some(writeback) = written {
            self.shared.cache_mode.choose(writeback, log);
        }
        written.is_some()
    }

    fn sync(&self) -> Result<(), SyncError> {
        let flusher = self.flusher().clone();
        flusher.map_or(Ok(()), |flusher| flusher.flush_now())
    }

    fn disconnect(&self) {
        self.shared.accepted.store(0, Ordering::Relaxed);
        self.shared.cache_mode.disconnect();
    }
}
