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
use vhost_user_btt::virtio::{DescriptorTable, GuestRam, anonymous_ram, store};
use vhost_user_btt_fuzz::originals;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory: two regions that touch, and one apart.
const REGIONS: [(u64, usize); 3] = [(0, 0x1_0000), (0x1_0000, 0x1_0000), (1 << 32, 0x1_0000)];
const QUEUE_SIZE: u16 = 64;
/// Where the parts of the ring are.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Tables of indirect descriptors, 16 for each request.
const TABLES: u64 = 0x3000;
/// Headers of requests, and segments, 16 bytes each.
const HEADERS: u64 = 0x4000;
/// Status bytes.
const STATUS: u64 = 0x5000;
/// Most requests that are put together well.
const REQUESTS: usize = 16;
/// Most pieces of their data.
const PIECES: usize = 8;
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
    /// Requests as a driver makes them, each in a chain of its own.
    requests: Vec<Asked>,
    /// Descriptors that stand in place of theirs, in the ring's table and behind it in those of
    /// indirect ones.
    descriptors: Vec<(u8, Descriptor)>,
    tables: Vec<(u8, Descriptor)>,
    /// Chains that are offered beside theirs.
    heads: Vec<u8>,
    /// Where the available index is, if not behind all of them.
    available: Option<u16>,
    /// Bytes of the guest's, anywhere.
    patches: Vec<(Address, [u8; 8])>,
    config: (u32, u16),
}

#[derive(Debug, Arbitrary)]
struct Asked {
    header: Header,
    data: Vec<(Address, Length)>,
    reads: bool,
    indirect: bool,
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

impl Length {
    fn get(&self) -> u32 {
        match *self {
            Length::Header => 16,
            Length::Sectors(count) => 512 * u32::from(count % 32),
            Length::Segments(count) => 16 * u32::from(count),
            Length::Small(length) => length.into(),
            Length::Any(length) => length,
        }
    }
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

impl Descriptor {
    fn encode(&self) -> [u8; 16] {
        let (address, length) = (self.address.get(), self.length.get());
        descriptor(address, length, self.flags.into(), self.next.into())
    }
}

impl Asked {
    /// The chain of request `number`, whose first descriptor has the index `first`.
    fn chain(&self, number: u64, first: u16) -> Vec<[u8; 16]> {
        let data_flags = if self.reads { WRITE } else { 0 };
        let data = self.data.iter().take(PIECES);
        let mut parts = vec![(HEADERS + 32 * number, 16, 0)];
        parts.extend(data.map(|(address, length)| (address.get(), length.get(), data_flags)));
        parts.push((STATUS + number, 1, WRITE));
        let last = parts.len() - 1;
        let linked = parts.into_iter().enumerate().map(|(index, (address, length, flags))| {
            let next = if index < last { NEXT } else { 0 };
            descriptor(address, length, flags | next, first + index as u16 + 1)
        });
        linked.collect()
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
        let memory = anonymous_ram(&regions).expect("the regions are apart");
        let put = |address: u64, bytes: &[u8]| {
            // What lies outside memory is left out.
            let _ = memory.write_slice(bytes, GuestAddress(address));
        };
        let mut heads: Vec<u16> = Vec::new();
        let mut free = 0;
        for (asked, number) in self.requests.iter().take(REQUESTS).zip(0u64..) {
            put(HEADERS + 32 * number, &asked.header.encode());
            let table = TABLES + 256 * number;
            let (at, chain) = if asked.indirect {
                let chain = asked.chain(number, 0);
                let length = 16 * chain.len() as u32;
                put(DESCRIPTORS + 16 * u64::from(free), &descriptor(table, length, INDIRECT, 0));
                (table, chain)
            } else {
                (DESCRIPTORS + 16 * u64::from(free), asked.chain(number, free))
            };
            let needed = if asked.indirect { 1 } else { chain.len() as u16 };
            if free + needed > QUEUE_SIZE {
                break;
            }
            put(at, chain.as_flattened());
            heads.push(free);
            free += needed;
        }
        for (place, descriptor) in self.descriptors.iter().take(64) {
            put(DESCRIPTORS + 16 * u64::from(*place), &descriptor.encode());
        }
        for (place, descriptor) in self.tables.iter().take(64) {
            put(TABLES + 16 * u64::from(*place), &descriptor.encode());
        }
        heads.extend(self.heads.iter().map(|head| u16::from(*head)));
        heads.truncate(QUEUE_SIZE.into());
        for (head, place) in heads.iter().zip(0..) {
            put(AVAILABLE + 4 + 2 * place, &head.to_le_bytes());
        }
        let available = self.available.unwrap_or(heads.len() as u16);
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
    let options =
        OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 0 };
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
    let Ok(heads) = ring.iter(&memory) else { return };
    let heads: Vec<u16> = heads.take(TURN).map(|chain| chain.head_index()).collect();
    let table = DescriptorTable::new(&memory, GuestAddress(DESCRIPTORS), QUEUE_SIZE);
    for (head, tag) in heads.into_iter().zip(0..) {
        chain.take(table.chain(head));
        chain.parse(&memory);
        executor.announce(&batch, &chain);
        executor.prepare(&batch, &chain);
        let result = chain
            .request()
            .map_err(Clone::clone)
            .and_then(|request| executor.execute(&mut batch, &memory, &request, tag, &|| false));
        taken.push((head, chain.status(), result));
    }
    batch.commit();
    for (tag, error) in batch.take_failures() {
        assert!(taken[tag].2.is_ok() || input.full.is_some());
        taken[tag].2 = Err(error.into());
    }
    drop(batch);
    for (head, status, result) in taken {
        if let Some(address) = status {
            let _ =
                store(&memory, address, result.as_ref().map_or_else(RequestError::status, |_| 0));
        }
        let _ = ring.add_used(&memory, head, result.map_or(0, |done| done.filled));
    }
    drop((btt, queues));

    // Whatever the guest has done, its disk is whole; a medium that fails may leave traces.
    if input.poisoned.is_none() && input.full.is_none() {
        let report = check::check(&medium, &check::CheckOptions::default(), &mut |_, _| {});
        assert_eq!(report.verdict(), check::Verdict::Clean, "{:?}", report.findings);
    }
});
