//! A guest with one ring, and its device in the same thread: no socket, no event loop.

use vhost_user_btt::btt::Queue;
use vhost_user_btt::pmem::Mapping;
use vhost_user_btt::vhost_user::{BlockDevice, Memory, Ring, RingPlaces};
use vhost_user_btt::virtio::block::{Device, DeviceOptions, Discard, Serial};
use vhost_user_btt::virtio::{GuestRam, anonymous_ram};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::Shuffled;

const RAM_SIZE: usize = 4 << 20;
const QUEUE_SIZE: u16 = 256;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x3000;
const USED: u64 = 0x4000;
const HEADERS: u64 = 0x10000;
const STATUSES: u64 = 0x20000;
const DATA: u64 = 0x10_0000;
/// Descriptor flags (VIRTIO 1.2, 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A guest.
pub struct Guest {
    device: BlockDevice<Queue<Mapping>>,
    ring: Ring,
    memory: Memory,
    ram: GuestRam,
    /// Bytes of a request.
    size: u32,
    /// How many requests cover the disk.
    places: u64,
    index: u16,
}

impl Guest {
    /// A guest of the disk with these queues, the first of which it uses, for requests of `size` bytes.
    pub fn new(queues: Vec<Queue<Mapping>>, size: u32) -> Guest {
        let btt = queues[0].btt().clone();
        let options = DeviceOptions {
            read_only: false,
            discard: Discard::Off,
            serial: Serial::new("bench").expect("five letters"),
            queues: 1,
            queue_size: QUEUE_SIZE,
        };
        let device = BlockDevice::new("bench", Device::new(&*btt, &options), queues);
        let ram = anonymous_ram(&[(GuestAddress(0), RAM_SIZE)]).expect("room");
        let (memory, ring) = (Memory::new(ram.clone()), Ring::new(QUEUE_SIZE));
        let ring = ring.expect("a power of two");
        let places = RingPlaces { descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
        ring.start(QUEUE_SIZE, places, true).expect("aligned");
        let places = btt.sectors() / u64::from(size / btt.sector_size());
        Guest { device, ring, memory, ram, size, places, index: 0 }
    }

    /// Offers `count` requests, each at a multiple of its size.
    pub fn offer(&mut self, count: u16, writes: bool, shuffled: &mut Shuffled) {
        for number in 0..count {
            let sector = shuffled.below(self.places) * u64::from(self.size / 512);
            let header = [u64::from(writes).to_le_bytes(), sector.to_le_bytes()].concat();
            let at = |base: u64, size: u64| base + u64::from(number) * size;
            let (place, status) = (at(HEADERS, 16), at(STATUSES, 1));
            self.put(&header, place);
            self.put(&[0xee], status);
            let data = if writes { NEXT } else { NEXT | WRITE };
            let parts = [
                (place, 16, NEXT),
                (at(DATA, self.size.into()), self.size, data),
                (status, 1, WRITE),
            ];
            let head = number * 3;
            for ((address, length, flags), index) in parts.into_iter().zip(head..) {
                let descriptor = Descriptor::new(address, length, flags, index + 1);
                let place = GuestAddress(DESCRIPTORS + 16 * u64::from(index));
                self.ram.write_obj(descriptor, place).expect("inside");
            }
            let slot = u64::from(self.index.wrapping_add(number) % QUEUE_SIZE);
            self.put(&head.to_le_bytes(), AVAILABLE + 4 + 2 * slot);
        }
        self.index = self.index.wrapping_add(count);
        self.put(&self.index.to_le_bytes(), AVAILABLE + 2);
    }

    /// Lets the device carry out what is offered.
    pub fn kick(&self) {
        self.device.serve_guest(0, &self.ring, &self.memory);
    }

    /// Makes sure that everything is completed, and went well.
    pub fn check(&self) {
        let index: u16 = self.ram.read_obj(GuestAddress(USED + 2)).expect("inside");
        assert_eq!(index, self.index);
        let status: u8 = self.ram.read_obj(GuestAddress(STATUSES)).expect("inside");
        assert_eq!(status, 0);
    }

    fn put(&self, bytes: &[u8], place: u64) {
        self.ram.write_slice(bytes, GuestAddress(place)).expect("inside");
    }
}
