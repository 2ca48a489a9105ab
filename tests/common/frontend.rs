//! A frontend and a guest's driver in one, with every descriptor under control: for what a
//! well-behaved driver never does.

use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::patience::PATIENCE;

pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;
pub const F_INDIRECT: u64 = 1 << 28;
pub const F_EVENT_IDX: u64 = 1 << 29;
pub const BLK_F_FLUSH: u64 = 1 << 9;
pub const BLK_F_CONFIG_WCE: u64 = 1 << 11;

pub const T_IN: u32 = 0;
pub const T_OUT: u32 = 1;
pub const T_FLUSH: u32 = 4;
pub const T_GET_ID: u32 = 8;
pub const T_DISCARD: u32 = 11;
pub const T_WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Size of each queue.
pub const QUEUE_SIZE: u16 = 256;
/// Guest memory: two regions with a gap between.
const LOW: (u64, usize) = (0, 8 << 20);
const HIGH: (u64, usize) = (1 << 32, 8 << 20);
/// Rings, one queue each.
const RINGS: u64 = 0x10000;
const RING_SPACE: u64 = 0x10000;
/// Where buffers are.
pub const BUFFERS: u64 = 0x40_0000;

/// A descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

struct Queue {
    kick: EventFd,
    call: EventFd,
    next_avail: u16,
    next_used: u16,
}

/// A connected frontend with its guest's memory and rings.
pub struct Driver {
    pub frontend: Frontend,
    pub memory: GuestMemoryMmap,
    pub features: u64,
    queues: Vec<Queue>,
}

fn descriptors_at(queue: usize) -> u64 {
    RINGS + queue as u64 * RING_SPACE
}

pub fn avail_at(queue: usize) -> u64 {
    descriptors_at(queue) + 16 * u64::from(QUEUE_SIZE)
}

pub fn used_at(queue: usize) -> u64 {
    avail_at(queue) + 0x2000
}

pub fn new_memory() -> GuestMemoryMmap {
    let ranges = [LOW, HIGH].map(|(start, size)| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size as u64).unwrap();
        (GuestAddress(start), size, Some(FileOffset::new(file, 0)))
    });
    GuestMemoryMmap::from_ranges_with_files(&ranges).unwrap()
}

impl Driver {
    /// Connects and sets up `queues` queues, accepting all features that are offered.
    pub fn connect(stream: UnixStream, queues: usize) -> Driver {
        Driver::connect_with(stream, queues, u64::MAX)
    }

    /// As `connect`, accepting the features `wanted` alone.
    pub fn connect_with(stream: UnixStream, queues: usize, wanted: u64) -> Driver {
        Driver::resume(stream, queues, wanted, new_memory())
    }

    /// Connects with a guest that has run before: rings go on at their used index.
    pub fn resume(
        stream: UnixStream,
        queues: usize,
        wanted: u64,
        memory: GuestMemoryMmap,
    ) -> Driver {
        let mut driver = Driver::negotiate(stream, queues, wanted, memory);
        for queue in 0..queues {
            driver.start_queue(queue);
        }
        driver
    }

    /// Connects, and starts no ring yet.
    pub fn negotiate(
        stream: UnixStream,
        queues: usize,
        wanted: u64,
        memory: GuestMemoryMmap,
    ) -> Driver {
        let mut frontend = Frontend::from_stream(stream, queues as u64);
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let features = offered & (wanted | VIRTIO_F_VERSION_1 | F_PROTOCOL_FEATURES);
        frontend.set_features(features).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol).unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK));
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let mut driver = Driver { frontend, memory, features, queues: Vec::new() };
        driver.share_memory();
        driver
    }

    fn share_memory(&mut self) {
        let regions: Vec<_> = self
            .memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        self.frontend.set_mem_table(&regions).unwrap();
    }

    /// Sets a ring up, and lets it go on at its used index.
    pub fn start_queue(&mut self, queue: usize) {
        let base: u16 =
            self.memory.load(GuestAddress(used_at(queue) + 2), Ordering::Acquire).unwrap();
        let next_avail: u16 =
            self.memory.load(GuestAddress(avail_at(queue) + 2), Ordering::Acquire).unwrap();
        let to_host = |address| self.memory.get_host_address(GuestAddress(address)).unwrap() as u64;
        let config = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: to_host(descriptors_at(queue)),
            used_ring_addr: to_host(used_at(queue)),
            avail_ring_addr: to_host(avail_at(queue)),
            log_addr: None,
        };
        let eventfd = || EventFd::new(nix::libc::EFD_NONBLOCK).unwrap();
        let (kick, call) = (eventfd(), eventfd());
        self.frontend.set_vring_num(queue, QUEUE_SIZE).unwrap();
        self.frontend.set_vring_base(queue, base).unwrap();
        self.frontend.set_vring_addr(queue, &config).unwrap();
        self.frontend.set_vring_call(queue, &call).unwrap();
        self.frontend.set_vring_kick(queue, &kick).unwrap();
        self.frontend.set_vring_enable(queue, true).unwrap();
        let ring = Queue { kick, call, next_avail, next_used: base };
        if queue < self.queues.len() {
            self.queues[queue] = ring;
        } else {
            self.queues.push(ring);
        }
    }

    /// Stops a ring; returns where it would go on.
    pub fn stop_queue(&mut self, queue: usize) -> u32 {
        self.frontend.get_vring_base(queue).unwrap()
    }

    /// Makes the rings of a queue new, as a driver does after a reset.
    pub fn clear_queue(&mut self, queue: usize) {
        let zeroes = vec![0; (RING_SPACE - 0x1000) as usize];
        self.memory.write_slice(&zeroes, GuestAddress(descriptors_at(queue))).unwrap();
    }

    pub fn config(&mut self, offset: u32, size: u32) -> Vec<u8> {
        let bytes = vec![0; size as usize];
        let flags = VhostUserConfigFlags::WRITABLE;
        self.frontend.get_config(offset, size, flags, &bytes).unwrap().1
    }

    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), vhost::Error> {
        self.frontend.set_config(offset, VhostUserConfigFlags::WRITABLE, bytes)
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Writes a descriptor into a table.
    pub fn put_descriptor(&self, table: u64, index: u16, descriptor: Descriptor) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        self.put(table + 16 * u64::from(index), &bytes);
    }

    /// Puts descriptors into the queue's table from `head` on; they are linked as they say.
    pub fn put_chain(&self, queue: usize, head: u16, chain: &[Descriptor]) {
        for (descriptor, index) in chain.iter().zip(head..) {
            self.put_descriptor(descriptors_at(queue), index, *descriptor);
        }
    }

    /// Makes the chain at `head` available, without a kick.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let slot = avail_at(queue) + 4 + 2 * u64::from(ring.next_avail % QUEUE_SIZE);
        ring.next_avail = ring.next_avail.wrapping_add(1);
        self.memory.store(head, GuestAddress(slot), Ordering::Relaxed).unwrap();
        let index = GuestAddress(avail_at(queue) + 2);
        self.memory.store(ring.next_avail, index, Ordering::Release).unwrap();
    }

    /// Sets the available index to whatever.
    pub fn set_avail_index(&mut self, queue: usize, index: u16) {
        self.memory.store(index, GuestAddress(avail_at(queue) + 2), Ordering::Release).unwrap();
    }

    /// The event index up to which the device wants no kick.
    pub fn avail_event(&self, queue: usize) -> u16 {
        let place = used_at(queue) + 4 + 8 * u64::from(QUEUE_SIZE);
        self.memory.load(GuestAddress(place), Ordering::Acquire).unwrap()
    }

    /// Sets the event index at which the device is to interrupt.
    pub fn set_used_event(&self, queue: usize, index: u16) {
        let place = avail_at(queue) + 4 + 2 * u64::from(QUEUE_SIZE);
        self.memory.store(index, GuestAddress(place), Ordering::Release).unwrap();
    }

    /// Says whether interrupts are wanted, to a device that does not know event indexes.
    pub fn want_interrupts(&self, queue: usize, wanted: bool) {
        let flags = u16::from(!wanted);
        self.memory.store(flags, GuestAddress(avail_at(queue)), Ordering::Release).unwrap();
    }

    pub fn kick(&self, queue: usize) {
        self.queues[queue].kick.write(1).unwrap();
    }

    pub fn next_avail(&self, queue: usize) -> u16 {
        self.queues[queue].next_avail
    }

    /// Takes no notice of the completions so far.
    pub fn forget_completions(&mut self, queue: usize) {
        self.queues[queue].next_used = self.used_index(queue);
    }

    pub fn used_index(&self, queue: usize) -> u16 {
        used_index_in(&self.memory, queue)
    }

    /// Returns whether the device interrupts within `time`.
    pub fn interrupted(&self, queue: usize, time: Duration) -> bool {
        let call = &self.queues[queue].call;
        // Readable means that the device has written to it.
        let ready = {
            use std::os::fd::AsRawFd;
            let fd = call.as_raw_fd();
            // SAFETY: the descriptor belongs to `call`, which outlives this block.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(time).unwrap()).unwrap() == 1
        };
        ready && call.read().is_ok()
    }

    /// Waits for the next completion: the head of its chain, and the length.
    pub fn wait_used(&mut self, queue: usize) -> (u32, u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.used_index(queue) == self.queues[queue].next_used {
            assert!(Instant::now() < deadline, "no completion on queue {queue}");
            std::thread::sleep(Duration::from_micros(50));
        }
        let ring = &mut self.queues[queue];
        let slot = used_at(queue) + 4 + 8 * u64::from(ring.next_used % QUEUE_SIZE);
        ring.next_used = ring.next_used.wrapping_add(1);
        let element = self.get(slot, 8);
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        (word(&element[..4]), word(&element[4..]))
    }

    /// Sends a chain and waits for it.
    pub fn run_chain(&mut self, queue: usize, chain: &[Descriptor]) -> u32 {
        self.put_chain(queue, 0, chain);
        self.offer(queue, 0);
        self.kick(queue);
        let (head, length) = self.wait_used(queue);
        assert_eq!(head, 0);
        length
    }

    /// A request in the usual layout: header, data, status. Returns the status byte, and what was
    /// read.
    pub fn request(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        data_out: &[u8],
        data_in: usize,
    ) -> (u8, Vec<u8>) {
        let (header, out) = (BUFFERS, BUFFERS + 0x1000);
        let (into, status) = (out + 0x10_0000, BUFFERS + 0x800);
        self.put(header, &request_header(kind, sector));
        self.put(out, data_out);
        self.put(status, &[0xee]);
        let mut chain = vec![readable(header, 16)];
        if !data_out.is_empty() {
            chain.push(readable(out, data_out.len() as u32));
        }
        if data_in > 0 {
            chain.push(writable(into, data_in as u32));
        }
        chain.push(writable(status, 1));
        let length = self.run_chain(queue, &linked(0, chain));
        let status = self.get(status, 1)[0];
        if status == OK {
            assert_eq!(length as usize, data_in + 1);
        }
        (status, self.get(into, data_in))
    }

    pub fn write(&mut self, queue: usize, sector: u64, data: &[u8]) -> u8 {
        self.request(queue, T_OUT, sector, data, 0).0
    }

    pub fn read(&mut self, queue: usize, sector: u64, length: usize) -> Vec<u8> {
        let (status, data) = self.request(queue, T_IN, sector, &[], length);
        assert_eq!(status, OK);
        data
    }

    /// Sends a `DISCARD` or `WRITE_ZEROES` of segments (sector, count, flags).
    pub fn clear(&mut self, kind: u32, segments: &[(u64, u32, u32)]) -> u8 {
        let mut data = Vec::new();
        for (sector, count, flags) in segments {
            data.extend(sector.to_le_bytes());
            data.extend(count.to_le_bytes());
            data.extend(flags.to_le_bytes());
        }
        self.request(0, kind, 0, &data, 0).0
    }
}

/// How far the completions of a queue have come.
pub fn used_index_in(memory: &GuestMemoryMmap, queue: usize) -> u16 {
    memory.load(GuestAddress(used_at(queue) + 2), Ordering::Acquire).unwrap()
}

/// The header of a request.
pub fn request_header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

pub fn readable(address: u64, length: u32) -> Descriptor {
    Descriptor { address, length, flags: 0, next: 0 }
}

pub fn writable(address: u64, length: u32) -> Descriptor {
    Descriptor { address, length, flags: WRITE, next: 0 }
}

/// Links descriptors that stand one after another from `head` on.
pub fn linked(head: u16, mut chain: Vec<Descriptor>) -> Vec<Descriptor> {
    let last = chain.len() - 1;
    for (descriptor, index) in chain[..last].iter_mut().zip(head..) {
        descriptor.flags |= NEXT;
        descriptor.next = index + 1;
    }
    chain
}
