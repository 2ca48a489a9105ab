//! The device as the `vhost-user-backend` crate wants it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use log::{debug, warn};
use vhost::vhost_user::Backend as Frontend;
use vhost::vhost_user::message::{
    VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures,
};
use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use super::super::guest_log::GuestLog;
use super::super::ring::{Memory, Ring};
use super::super::server::{Served, exit_event};
use super::super::windows::{Window, Windows};
use super::worker::Worker;
use crate::virtio::GuestRam;
use crate::virtio::block::Syncs;
use crate::virtio::pmem::{Device, REGION_ID, Unsynced};

/// Most descriptors of the flush queue. Linux has one request in flight per CPU that syncs.
const QUEUE_SIZE: usize = 1024;

/// A persistent memory device; outlives the connections to it.
pub struct Backend {
    /// What the log calls the device.
    title: String,
    /// One: the device's memory.
    windows: Arc<Windows>,
    /// Guest memory, as the connection has set it up.
    memory: Memory,
    worker: Mutex<Worker>,
}

impl Backend {
    /// The device whose memory is the only one of `windows`; the log calls it `title`.
    pub fn new(title: &str, windows: Arc<Windows>) -> Backend {
        Backend {
            title: title.to_owned(),
            windows,
            memory: Memory::new(GuestRam::new()),
            worker: Mutex::new(Worker::new(GuestLog::new(title.into(), 0))),
        }
    }

    /// The device as it is now.
    fn device(&self) -> Device {
        self.windows.attach();
        let window = self.windows.all().get(usize::from(REGION_ID));
        Device { size: window.map_or(0, Window::size) }
    }
}

impl Backend {
    /// Makes durable what the guest has stored.
    fn sync(&self) -> Result<(), Unsynced> {
        // Rather an error than a promise about memory that the guest does not have.
        if self.windows.has_gaps() {
            return Err(Unsynced::NotMapped);
        }
        Ok(self.windows.sync()?)
    }
}

impl Served for Backend {
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
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.device().features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        debug!("{}: the driver accepts the features {features:#x}", self.title);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | Windows::PROTOCOL_FEATURES
    }

    fn reset_device(&self) {
        self.windows.stop();
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The crate has told the ring.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.device().config(offset, size)
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        // An error here would end the connection, and it is the guest that writes.
        debug!("the guest writes {bytes:?} to its configuration at {offset}");
        Ok(())
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // The connection was given ours, and has replaced what is in it.
        Ok(())
    }

    fn set_backend_req_fd(&self, frontend: Frontend) {
        self.windows.connect(frontend);
    }

    fn get_shmem_config(&self) -> io::Result<VhostUserShMemConfig> {
        Ok(self.windows.config())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        exit_event()
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        self.windows.stop_ring(queue);
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        set: EventSet,
        rings: &[Ring],
        thread: usize,
    ) -> io::Result<()> {
        let Some(ring) = rings.get(usize::from(event)) else {
            warn!("{}: unexpected event {event} ({set:?})", self.title);
            return Ok(());
        };
        self.windows.start(thread, ring, &self.memory);
        // The state that a panic leaves is that between two requests.
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.serve(ring, &self.memory, &|| self.sync());
        Ok(())
    }
}
