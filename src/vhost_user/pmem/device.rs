//! The persistent memory device that a session serves.

use std::sync::Arc;

use super::super::device::{DeviceBackend, DeviceModel, VhostDevice};
use super::super::queue::{Flusher, SyncCounters};
use super::super::windows::{Window, Windows};
use super::handler::PmemHandler;
use crate::virtio::pmem::{Device, REGION_ID};
use crate::virtio::{SyncError, Syncs};

/// Most descriptors of the flush queue. Linux has one request in flight per CPU that syncs.
const QUEUE_SIZE: u16 = 1024;

/// What makes a device persistent memory.
pub(in crate::vhost_user) struct PmemModel {
    /// One: the device's memory.
    windows: Arc<Windows>,
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

/// The device whose memory is the only one of `windows`; the log calls it `name`.
pub(super) fn pmem_device(name: &str, windows: Arc<Windows>) -> Arc<dyn VhostDevice> {
    let syncs: Arc<SyncCounters> = Arc::default();
    let flusher = Arc::new(Flusher::new(Arc::new(Memory(windows.clone())), syncs.clone()));
    let model = PmemModel { windows: windows.clone() };
    Arc::new(DeviceBackend::new(name, model, [PmemHandler::new(flusher)], syncs, windows))
}

impl PmemModel {
    /// The device as it is now.
    fn device(&self) -> Device {
        self.windows.attach();
        let window = self.windows.all().get(usize::from(REGION_ID));
        Device { size: window.map_or(0, Window::size) }
    }
}

impl DeviceModel for PmemModel {
    type Handler = PmemHandler;

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.device().features()
    }

    fn read_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.device().config(offset, size)
    }

    fn sync(&self) -> Result<(), SyncError> {
        self.windows.sync()
    }
}
