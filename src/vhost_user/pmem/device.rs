//! The persistent memory device, as sessions serve it.

use std::sync::{Arc, Mutex};

use log::{Level, debug};

use super::super::device::VhostDevice;
use super::super::guest_log::LimitedLog;
use super::super::queue::{Flusher, Serve, Worker};
use super::super::windows::{Window, Windows};
use super::handler::PmemHandler;
use crate::virtio::pmem::{Device, REGION_ID};
use crate::virtio::{SyncError, Syncs};

/// Most descriptors of the flush queue. Linux has one request in flight per CPU that syncs.
const QUEUE_SIZE: u16 = 1024;

/// A persistent memory device; outlives the connections to it.
pub(in crate::vhost_user) struct PmemDevice {
    log: LimitedLog,
    /// One: the device's memory.
    windows: Arc<Windows>,
    worker: Mutex<Worker<PmemHandler>>,
}

/// The memory of a device, to be made durable.
struct Memory(Arc<Windows>);

impl Syncs for Memory {
    fn sync(&self) -> Result<(), SyncError> {
        // Rather an error than a promise about memory that the guest does not have.
        if !self.0.wait_until_mapped() {
            return Err(SyncError::NotMapped);
        }
        self.0.sync()
    }

    fn sync_takes_time(&self) -> bool {
        true
    }
}

impl PmemDevice {
    /// The device whose memory is the only one of `windows`; the log calls it `name`.
    pub(super) fn new(name: &str, windows: Arc<Windows>) -> PmemDevice {
        let flusher = Arc::new(Flusher::new(Arc::new(Memory(windows.clone()))));
        let log = LimitedLog::new(format!("{name}: queue 0"));
        let worker = Mutex::new(Worker::new(log, PmemHandler::new(flusher)));
        PmemDevice { log: LimitedLog::new(name), windows, worker }
    }

    /// The device as it is now.
    fn device(&self) -> Device {
        self.windows.attach();
        let window = self.windows.all().get(usize::from(REGION_ID));
        Device { size: window.map_or(0, Window::size) }
    }
}

impl VhostDevice for PmemDevice {
    fn log(&self) -> &LimitedLog {
        &self.log
    }

    fn queues(&self) -> usize {
        1
    }

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.device().features()
    }

    fn accept_features(&self, features: u64) {
        debug!("{}: the driver accepts the features {features:#x}", self.log.name());
    }

    fn protocol_features(&self) -> u64 {
        Windows::PROTOCOL_FEATURES
    }

    fn read_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.device().config(offset, size)
    }

    fn write_config(&self, offset: u32, bytes: &[u8]) {
        let message = format_args!("the guest writes {bytes:?} to its configuration at {offset}");
        self.log.line(Level::Debug, &message);
    }

    fn windows(&self) -> &Windows {
        &self.windows
    }

    fn worker(&self, _queue: usize) -> &dyn Serve {
        &self.worker
    }

    fn disconnect(&self) {}
}
