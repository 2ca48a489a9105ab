//! The published user-space driver `virtio-driver`: a client that we have not written.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use memmap2::MmapMut;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_driver::{EventFd, VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};

use super::patience::PATIENCE;

/// A connected disk: its queues, and buffers that it can see.
pub struct Disk {
    // Dropped in this order: queues refer to memory of the transport.
    pub queues: Vec<VirtioBlkQueue<'static, usize>>,
    pub transport: Box<VirtioBlkTransport>,
    pub buffers: MmapMut,
}

/// What `virtio-driver` calls its features, all that there are.
fn wanted_features() -> u64 {
    use virtio_driver::VirtioBlkFeatureFlags as Blk;
    VirtioFeatureFlags::VERSION_1.bits()
        | VirtioFeatureFlags::RING_EVENT_IDX.bits()
        | (Blk::all() - Blk::RO).bits()
}

impl Disk {
    /// Connects with `queues` queues of `queue_size` descriptors and `buffers` bytes of memory.
    pub fn connect(socket: &Path, queues: usize, queue_size: u16, buffers: usize) -> Disk {
        let transport = VhostUser::new(socket.to_str().unwrap(), wanted_features()).unwrap();
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let mut queues =
            VirtioBlkQueue::<usize>::setup_queues(&mut *transport, queues, queue_size).unwrap();
        // Or it would hear of the first completion alone.
        for queue in &mut queues {
            queue.set_used_notif_enabled(true);
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(buffers as u64).unwrap();
        // SAFETY: nobody else changes the file but the device, through the mapping that it is told
        // of next, and only into buffers of requests in flight.
        let memory = unsafe { MmapMut::map_mut(&file) }.unwrap();
        let (address, length) = (memory.as_ptr() as usize, memory.len());
        transport.map_mem_region(address, length, file.as_raw_fd(), 0).unwrap();
        Disk { queues, transport, buffers: memory }
    }

    pub fn features(&self) -> u64 {
        self.transport.get_features()
    }

    pub fn config(&self) -> virtio_driver::VirtioBlkConfig {
        self.transport.get_config().unwrap()
    }

    pub fn kick(&self, queue: usize) {
        self.transport.get_submission_notifier(queue).notify().unwrap();
    }

    pub fn completion_fd(&self, queue: usize) -> std::sync::Arc<EventFd> {
        self.transport.get_completion_fd(queue)
    }

    /// Kicks, and waits for `count` completions on `queue`; all succeed.
    pub fn finish(&mut self, queue: usize, count: usize) -> Vec<usize> {
        self.kick(queue);
        let mut done = Vec::new();
        while done.len() < count {
            wait_for(&self.completion_fd(queue));
            for completion in self.queues[queue].completions() {
                assert_eq!(completion.ret, 0, "request {}", completion.context);
                done.push(completion.context);
            }
        }
        done
    }
}

/// Waits for a completion, or for the end of the daemon, of which `gone` tells. Returns whether it has completed.
pub fn wait_unless_gone(completion: &EventFd, gone: BorrowedFd<'_>) -> bool {
    let mut fds = [completion.as_fd(), gone].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    assert!(ready > 0, "neither a completion nor an end");
    let has_completed = fds[0].any().unwrap();
    if has_completed {
        completion.read().unwrap();
    }
    has_completed
}

/// Waits for a completion.
pub fn wait_for(completion: &EventFd) {
    let mut fds = [PollFd::new(completion.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    assert_eq!(ready, 1, "no completion");
    completion.read().unwrap();
}
