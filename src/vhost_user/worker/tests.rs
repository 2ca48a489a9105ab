//! Turns of a worker whose guest changes things meanwhile, or has broken its ring.

use vhost_user_backend::VringT;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::btt::{Btt, CreateOptions, LbaSize, OpenOptions, Version, create};
use crate::pmem::simulated::Simulated;
use crate::virtio::block::{DeviceOptions, Discard, Serial, Syncs};

const RAM: GuestAddress = GuestAddress(0);
const RAM_SIZE: usize = 0x10000;
/// Memory that is plugged in while the ring is running.
const PLUGGED: GuestAddress = GuestAddress(0x10_0000);
const DESCRIPTORS: GuestAddress = GuestAddress(0x1000);
const AVAILABLE: GuestAddress = GuestAddress(0x2000);
const USED: GuestAddress = GuestAddress(0x3000);
const HEADER: GuestAddress = GuestAddress(0x8000);
const STATUS: GuestAddress = GuestAddress(0x9000);
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A device at work, without anything special.
struct AtWork;

impl Conditions for AtWork {
    fn must_sync(&self) -> bool {
        false
    }

    fn ring_starts(&self, _is_resumed: bool) {}

    fn flushed(&self) {}

    fn is_stopping(&self) -> bool {
        false
    }
}

/// A queue of a BTT; something happens between the moment when the worker begins a turn and the one
/// when it looks at the ring.
struct Interrupted<F> {
    queue: crate::btt::Queue<Simulated>,
    interrupt: F,
}

impl<F: FnMut() + Send> DiskQueue for Interrupted<F> {
    type Batch<'q>
        = crate::btt::Batch<'q, Simulated>
    where
        F: 'q;

    fn batch(&mut self) -> Self::Batch<'_> {
        (self.interrupt)();
        self.queue.batch()
    }

    fn syncs(&self) -> Arc<dyn Syncs> {
        self.queue.btt().clone()
    }
}

fn disk() -> (Arc<Device>, crate::btt::Queue<Simulated>) {
    let medium = Simulated::new(17 << 20);
    let options = CreateOptions {
        lba_size: LbaSize::new(512).unwrap(),
        version: Version::V1_1,
        uuid: uuid::Uuid::max(),
        parent_uuid: uuid::Uuid::nil(),
        arena_size: 1 << 39,
        force: false,
    };
    create(&medium, &options, |_, _| {}).unwrap();
    let options = OpenOptions { version: None, namespace: None, read_only: false, queues: 1 };
    let (btt, mut queues) = Btt::open(medium, &options).unwrap();
    let options = DeviceOptions {
        read_only: false,
        discard: Discard::Off,
        serial: Serial::new("interrupted").unwrap(),
        queues: 1,
        queue_size: 16,
    };
    (Arc::new(Device::new(&*btt, &options)), queues.remove(0))
}

/// A worker of a disk of its own; `interrupt` happens when it is about to look at the ring.
fn worker<F: FnMut() + Send>(interrupt: F) -> Worker<Interrupted<F>> {
    let (device, queue) = disk();
    let flusher = Arc::new(Flusher::new(queue.btt().clone()));
    let log = GuestLog::new("interrupted".into(), 0);
    Worker::new(log, Interrupted { queue, interrupt }, device, flusher)
}

#[test]
fn a_ring_that_is_not_all_guest_memory_ends_its_worker_and_not_the_thread() {
    let memory = Memory::new(GuestRam::from_ranges(&[(RAM, RAM_SIZE)]).unwrap());
    let ram = memory.memory();
    let ring = Ring::new(memory.clone(), 16).unwrap();
    // Flags, index, one element, and then the memory ends.
    let available = RAM_SIZE as u64 - 6;
    ring.set_queue_size(16);
    ring.set_queue_info(DESCRIPTORS.0, available, USED.0).unwrap();
    ring.set_queue_ready(true);
    ring.set_enabled(true);
    ram.write_obj(2u16, GuestAddress(available + 2)).unwrap();
    worker(|| {}).serve(&ring, &memory, &AtWork);
    assert_eq!(ring.queue_next_avail(), 0);
    assert_eq!(ram.read_obj::<u16>(GuestAddress(USED.0 + 2)).unwrap(), 0);
}

#[test]
fn a_request_may_use_memory_that_was_plugged_in_just_before() {
    let memory = Memory::new(GuestRam::from_ranges(&[(RAM, RAM_SIZE)]).unwrap());
    let ram = memory.memory();
    let ring = Ring::new(memory.clone(), 16).unwrap();
    ring.set_queue_size(16);
    ring.set_queue_info(DESCRIPTORS.0, AVAILABLE.0, USED.0).unwrap();
    ring.set_queue_ready(true);
    ring.set_enabled(true);

    // A read of sector 0 into memory that is not there yet; not offered yet, either.
    ram.write_slice(&[0; 16], HEADER).unwrap();
    ram.write_obj(0xffu8, STATUS).unwrap();
    let chain = [(HEADER, 16, NEXT, 1), (PLUGGED, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)];
    for (place, (address, length, flags, next)) in (DESCRIPTORS.0..).step_by(16).zip(chain) {
        let descriptor = Descriptor::new(address.0, length, flags, next);
        ram.write_obj(descriptor, GuestAddress(place)).unwrap();
    }
    let offer = || {
        let more = GuestRam::from_ranges(&[(PLUGGED, RAM_SIZE)]).unwrap();
        let (_, region) = more.remove_region(PLUGGED, RAM_SIZE as u64).unwrap();
        if let Ok(plugged) = memory.memory().insert_region(region) {
            memory.lock().unwrap().replace(plugged);
            ram.write_obj(1u16, GuestAddress(AVAILABLE.0 + 2)).unwrap();
        }
    };
    worker(offer).serve(&ring, &memory, &AtWork);
    assert_eq!(ram.read_obj::<u16>(GuestAddress(USED.0 + 2)).unwrap(), 1, "not completed");
    assert_eq!(ram.read_obj::<u8>(STATUS).unwrap(), 0, "the request failed");
}
