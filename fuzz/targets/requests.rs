//! A guest whose rings and requests are anything: what the worker of a queue does with them, on a
//! small disk.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vhost_user_btt::btt::{Btt, OpenOptions, check};
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt::virtio::block::{
    Chain, Config, Device, DeviceOptions, Discard, Executor, RequestError, Serial,
};
use vhost_user_btt::virtio::{GuestRam, store_byte};
use vhost_user_btt_fuzz::originals;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory: two regions that touch, and one apart.
const REGIONS: [(u64, usize); 3] = [(0, 0x1_0000), (0x1_0000, 0x1_0000), (1 << 32, 0x1_0000)];
const QUEUE_SIZE: u16 = 16;
/// Where the parts of the ring are.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Tables of indirect descriptors, and headers of requests, 16 bytes each.
const TABLES: u64 = 0x3000;
const HEADERS: u64 = 0x4000;
/// Most requests of a turn.
const TURN: usize = 64;

#[derive(Debug, Arbitrary)]
struct Input {
    original: u8,
    read_only: bool,
    discard: u8,
    event_index: bool,
    poisoned: Option<u8>,
    full: Option<u8>,
    descriptors: Vec<Descriptor>,
    tables: Vec<Descriptor>,
    headers: Vec<Header>,
    heads: Vec<u16>,
    available: u16,
    /// Bytes of the guest's, anywhere.
    patches: Vec<(Address, [u8; 8])>,
    config: (u32, u16),
}

#[derive(Debug, Arbitrary)]
struct Descriptor {
    address: Address,
    length: Length,
    flags: u8,
    next: u8,
}

#[derive(Debug, Arbitrary)]
enum Address {
    Header(u8),
    Table(u8),
    Ring(u16),
    Low(u16),
    /// Around the place where two regions touch.
    Border(u8),
    High(u16),
    Any(u64),
}

#[derive(Debug, Arbitrary)]
enum Length {
    Header,
    Sectors(u8),
    Segments(u8),
    Small(u8),
    Any(u32),
}

#[derive(Debug, Arbitrary)]
struct Header {
    kind: u8,
    sector: Sector,
}

/// A sector number; as part of a segment, the bytes that follow are its length and flags.
#[derive(Debug, Arbitrary)]
enum Sector {
    Near { sector: u8, count: u8, flags: u8 },
    Any(u64, u32, u32),
}

impl Address {
    fn get(&self) -> u64 {
        match *self {
            Address::Header(number) => HEADERS + 16 * u64::from(number),
            Address::Table(number) => TABLES + 16 * u64::from(number),
            Address::Ring(offset) => u64::from(offset % 0x3000),
            Address::Low(offset) => u64::from(offset),
            Address::Border(offset) => 0x1_0000 - 128 + u64::from(offset),
            Address::High(offset) => (1 << 32) + u64::from(offset),
            Address::Any(address) => address,
        }
    }
}

impl Descriptor {
    fn encode(&self) -> [u8; 16] {
        let length = match self.length {
            Length::Header => 16,
            Length::Sectors(count) => 512 * u32::from(count % 32),
            Length::Segments(count) => 16 * u32::from(count),
            Length::Small(length) => length.into(),
            Length::Any(length) => length,
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.get().to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&u16::from(self.flags).to_le_bytes());
        bytes[14..].copy_from_slice(&u16::from(self.next).to_le_bytes());
        bytes
    }
}

impl Header {
    /// As the header of a request; as a segment of one, the sector comes first.
    fn encode(&self) -> [u8; 32] {
        let (sector, count, flags) = match self.sector {
            Sector::Near { sector, count, flags } => (sector.into(), count.into(), flags.into()),
            Sector::Any(sector, count, flags) => (sector, count, flags),
        };
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&u32::from(self.kind).to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        bytes[16..24].copy_from_slice(&sector.to_le_bytes());
        bytes[24..28].copy_from_slice(&count.to_le_bytes());
        bytes[28..].copy_from_slice(&flags.to_le_bytes());
        bytes
    }
}

impl Input {
    fn memory(&self) -> GuestRam {
        let regions = REGIONS.map(|(start, size)| (GuestAddress(start), size));
        let memory = GuestRam::from_ranges(&regions).expect("the regions are apart");
        let put = |address: u64, bytes: &[u8]| {
            // What lies outside memory is left out.
            let _ = memory.write_slice(bytes, GuestAddress(address));
        };
        for (descriptor, place) in self.descriptors.iter().take(QUEUE_SIZE.into()).zip(0..) {
            put(DESCRIPTORS + 16 * place, &descriptor.encode());
        }
        for (descriptor, place) in self.tables.iter().take(256).zip(0..) {
            put(TABLES + 16 * place, &descriptor.encode());
        }
        for (header, place) in self.headers.iter().take(128).zip(0..) {
            put(HEADERS + 32 * place, &header.encode());
        }
        for (head, place) in self.heads.iter().take(QUEUE_SIZE.into()).zip(0..) {
            put(AVAILABLE + 4 + 2 * place, &(head % (QUEUE_SIZE + 1)).to_le_bytes());
        }
        // Usually as many as there are.
        let available = match self.available {
            0..=0xff => self.heads.len().min(QUEUE_SIZE.into()) as u16,
            wild => wild,
        };
        put(AVAILABLE + 2, &available.to_le_bytes());
        for (address, bytes) in self.patches.iter().take(64) {
            put(address.get(), bytes);
        }
        memory
    }

    fn ring(&self) -> Queue {
        let mut ring = Queue::new(QUEUE_SIZE).expect("a power of two");
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(DESCRIPTORS);
        ring.set_desc_table_address(low, high);
        let (low, high) = halves(AVAILABLE);
        ring.set_avail_ring_address(low, high);
        let (low, high) = halves(USED);
        ring.set_used_ring_address(low, high);
        ring.set_event_idx(self.event_index);
        ring.set_ready(true);
        ring
    }

    fn options(&self) -> DeviceOptions {
        let discard = [Discard::Auto, Discard::On, Discard::Off][usize::from(self.discard % 3)];
        let serial = Serial::new("fuzz").expect("four letters");
        let (queues, queue_size) = (1, QUEUE_SIZE);
        DeviceOptions { read_only: self.read_only, discard, serial, queues, queue_size }
    }
}

fuzz_target!(|input: Input| {
    log::set_max_level(log::LevelFilter::Off);
    let originals = originals();
    let image = &originals[usize::from(input.original) % originals.len()];
    let medium = Arc::new(Simulated::of(image.contents.clone()));
    let (start, geometry) = image.arenas[0];
    let line = |block: u8| {
        let offset = start + geometry.dataoff + u64::from(block) * 512;
        offset..offset + 64
    };
    let options = OpenOptions { version: None, namespace: None, read_only: false, queues: 1 };
    let (btt, mut queues) = Btt::open(medium.clone(), &options).expect("the originals are intact");
    input.poisoned.into_iter().for_each(|block| medium.poison(line(block)));
    input.full.into_iter().for_each(|block| medium.fill_up(line(block)));

    let device = Arc::new(Device::new(&*btt, &input.options()));
    let (offset, length) = input.config;
    assert_eq!(Config::read(&device, true, offset, length.into()).len(), usize::from(length));
    let (memory, mut ring) = (input.memory(), input.ring());
    let (mut executor, mut chain) = (Executor::new(device), Chain::default());
    let mut taken = Vec::new();
    let mut batch = queues[0].batch();
    // A broken ring is the guest's: its worker stops.
    let Ok(descriptors) = ring.iter(&memory) else { return };
    for (mut descriptors, tag) in descriptors.take(TURN).zip(0..) {
        chain.take(&mut descriptors);
        let result = chain
            .request(&memory)
            .and_then(|request| executor.execute(&mut batch, &memory, &request, tag));
        taken.push((descriptors.head_index(), chain.status(), result));
    }
    batch.commit();
    for (tag, error) in batch.take_failures() {
        assert!(taken[tag].2.is_ok() || input.full.is_some());
        taken[tag].2 = Err(error.into());
    }
    drop(batch);
    for (head, status, result) in taken {
        if let Some(address) = status {
            let _ = store_byte(&memory, address, result.as_ref().map_or_else(RequestError::status, |_| 0));
        }
        let _ = ring.add_used(&memory, head, result.unwrap_or(0));
    }
    drop((btt, queues));

    // Whatever the guest has done, its disk is whole; a medium that fails may leave traces.
    if input.poisoned.is_none() && input.full.is_none() {
        let report = check::check(&medium, &check::CheckOptions::default(), &mut |_, _| {});
        assert_eq!(report.verdict(), check::Verdict::Clean, "{:?}", report.findings);
    }
});
