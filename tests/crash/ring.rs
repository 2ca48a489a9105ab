//! Requests through a ring, the power cut at every point: what the guest was told is true.
//!
//! The guest is told by the used index. So it is looked at before anything is done to the medium, and a
//! request counts as acknowledged from the first such moment on at which the index has moved past it.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::{self, ThreadId};

use vhost_user_btt::btt::{Queue, mutant};
use vhost_user_btt::pmem::simulated::{CrashModel, Event};
use vhost_user_btt::vhost_user::{BlockDevice, Memory, Ring, RingPlaces, mutant as worker_mutant};
use vhost_user_btt::virtio::block::{Device, DeviceOptions, Discard, Serial};
use vhost_user_btt::virtio::{GuestRam, anonymous_ram};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::cuts::{Cutter, Violation};
use super::exhaust::ONE_QUEUE;
use super::figures::Figures;
use super::medium::{Medium, Watcher};
use super::mutants::AnyMutant;
use super::oracle::{Effect, History, Operation};
use super::scenario::{Disk, Scenario, open};
use super::trace::{Marks, Start, Trace};
use super::verify::Verified;
use super::worker::{mark_of, written};

/// Where the guest has what.
const RAM_SIZE: usize = 1 << 20;
const QUEUE_SIZE: u16 = 64;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADERS: u64 = 0x4000;
const STATUSES: u64 = 0x5000;
const DATA: u64 = 0x1_0000;
/// Descriptor flags (VIRTIO 1.2, 2.7.5), request types and features (5.2).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const F_FLUSH: u64 = 1 << 9;

/// What a guest asks for.
#[derive(Debug, Clone)]
enum Request {
    Write(Range<u64>),
    Flush,
}

use Request::Flush;

/// What stands between a write and the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// Nothing: flushes and fences are real.
    None,
    /// A page cache, and a guest that wants its writes to be durable.
    WriteThrough,
    /// A page cache, and a guest that flushes.
    WriteBack,
}

/// What a guest asks for, one kick after another.
pub struct RingScenario {
    scenario: Scenario,
    cache: Cache,
    kicks: Vec<Vec<Request>>,
}

impl fmt::Display for RingScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scenario)
    }
}

pub fn all() -> Vec<RingScenario> {
    let write = |sectors: Range<u64>| Request::Write(sectors);
    let new = |name: &str, disk: Disk, lanes: usize, cache, kicks: Vec<Vec<Request>>| {
        let disk = if cache == Cache::None { disk } else { disk.page_cache(512) };
        let name = format!("ring: {name} ({disk})");
        let scenario = Scenario::new(&name, disk, Vec::new()).lanes(lanes);
        RingScenario { scenario, cache, kicks }
    };
    let mut all = Vec::new();
    for disk in [512, 4096].map(Disk::of) {
        let batches = vec![vec![write(0..1), write(5..6)], vec![write(1..3), Flush, write(0..1)]];
        all.push(new("batches", disk, 4, Cache::None, batches));
        // With one lane, and with a sector that comes again, rounds end within a turn.
        let rounds = vec![vec![write(0..2), write(1..2)]];
        all.push(new("rounds of one lane", disk, 1, Cache::None, rounds));
        let writes = vec![vec![write(0..1), write(1..2)], vec![write(0..1)]];
        all.push(new("write-through", disk, 16, Cache::WriteThrough, writes));
        let flushes = vec![
            vec![write(0..1), Flush, write(1..2)],
            vec![Flush],
            vec![write(2..3), write(0..1), Flush, Flush],
        ];
        all.push(new("write-back", disk, 16, Cache::WriteBack, flushes));
    }
    all
}

impl RingScenario {
    /// The first violation there is.
    pub fn exhaust(&self, mutant: AnyMutant, figures: &mut Figures) -> Option<Violation> {
        figures.traces += 1;
        let trace = self.run(mutant);
        if let Some(fault) = trace.faults.first() {
            return Some(Violation { position: None, what: fault.clone() });
        }
        Cutter::new(&self.scenario, mutant, &trace).everywhere(
            &ONE_QUEUE,
            &mut Verified::default(),
            figures,
        )
    }

    fn run(&self, mutant: AnyMutant) -> Trace {
        mutant::activate(None);
        let start = Start::of(&self.scenario);
        let recorder = CrashModel::new(self.scenario.disk.medium, &start.base).open();
        let medium = Medium::new(recorder, &start.base, None);
        let (_, mut queues) = open(medium.clone(), self.scenario.queue_count()).unwrap();
        queues.truncate(1);
        let mut guest = Guest::new(&medium, queues, self.cache);
        drop(medium.recorder.take_trace());
        worker_mutant::activate(mutant.of_worker());
        let mut first = 0;
        for requests in &self.kicks {
            for (index, request) in (first..).zip(requests) {
                guest.offer(&self.scenario, index, request);
            }
            guest.kick();
            first += requests.len();
        }
        worker_mutant::activate(None);
        let faults = guest.faults(first);
        drop(guest);
        let events = medium.recorder.take_trace();
        let histories = self.histories(&events);
        let (base, poison, seen) = (start.base, Vec::new(), Vec::new());
        Trace { base, poison, events, seen, histories, pages: Vec::new(), faults }
    }

    /// What happens to each sector, told from the marks in the trace.
    fn histories(&self, events: &[Event]) -> Vec<History> {
        let requests: Vec<&Request> = self.kicks.iter().flatten().collect();
        // What a write waits for until it has to be durable.
        let last = |index: usize| match self.cache {
            Cache::None | Cache::WriteThrough => Some(index),
            Cache::WriteBack => {
                (index..requests.len()).find(|flush| matches!(requests[*flush], Flush))
            }
        };
        let writes_to = |index: usize, sector| match requests[index] {
            Request::Write(sectors) => sectors.contains(&sector),
            Flush => false,
        };
        let marks = Marks::of(events);
        let write = |index, sector| Operation {
            begin: marks.position(mark_of(0, index)).expect("it was offered"),
            end: last(index).and_then(|last| marks.position(mark_of(0, last) + 1)),
            effect: Effect::Set(written(&self.scenario, 0, index, sector)),
        };
        let history = |sector| {
            let writes = (0..requests.len()).filter(|index| writes_to(*index, sector));
            let operations = writes.map(|index| write(index, sector)).collect();
            History { sector, initial: self.scenario.initial(sector), operations }
        };
        let mut sectors = self.scenario.sectors();
        sectors.extend(requests.iter().flat_map(|request| match request {
            Request::Write(sectors) => sectors.clone(),
            Flush => 0..0,
        }));
        sectors.sort_unstable();
        sectors.dedup();
        sectors.into_iter().map(history).collect()
    }
}

/// What the guest has been told, as the medium's trace knows it.
struct Told {
    memory: GuestRam,
    medium: Weak<Medium>,
    /// Requests that it has been told of; each has a mark in the trace.
    count: Mutex<u16>,
    /// The thread of the worker.
    worker: ThreadId,
    /// A sync beside the worker may begin.
    may_sync: Mutex<bool>,
    changed: Condvar,
}

impl Told {
    fn index(&self) -> u16 {
        self.memory.load(GuestAddress(USED + 2), Ordering::Acquire).unwrap()
    }

    fn look(&self) {
        let mut count = self.count.lock().unwrap();
        let Some(medium) = self.medium.upgrade() else { return };
        while *count != self.index() {
            medium.recorder.mark(mark_of(0, (*count).into()) + 1);
            *count += 1;
        }
    }

    fn let_sync(&self, may: bool) {
        *self.may_sync.lock().unwrap() = may;
        self.changed.notify_all();
    }
}

impl Watcher for Arc<Told> {
    fn before(&self) {
        self.look();
    }

    /// A flush that has not begun when its worker's turn ends cannot be over before.
    fn before_sync(&self) {
        if thread::current().id() != self.worker {
            let may = self.may_sync.lock().unwrap();
            drop(self.changed.wait_while(may, |may| !*may).unwrap());
        }
        self.look();
    }
}

/// A guest with one ring, and its device in the same thread.
struct Guest {
    device: BlockDevice<Queue<Arc<Medium>>>,
    ring: Ring,
    memory: Memory,
    medium: Arc<Medium>,
    told: Arc<Told>,
    next_descriptor: u16,
    next_data: u64,
    index: u16,
}

impl Guest {
    fn new(medium: &Arc<Medium>, queues: Vec<Queue<Arc<Medium>>>, cache: Cache) -> Guest {
        let btt = queues[0].btt().clone();
        let serial = Serial::new("crash").unwrap();
        let discard = Discard::Off;
        let options =
            DeviceOptions { read_only: false, discard, serial, queues: 1, queue_size: QUEUE_SIZE };
        let device = BlockDevice::new("crash", Device::new(&*btt, &options), queues);
        device.connect_guest(if cache == Cache::WriteBack { F_FLUSH } else { 0 }).unwrap();
        let ram = anonymous_ram(&[(GuestAddress(0), RAM_SIZE)]).unwrap();
        let (memory, ring) = (Memory::new(ram.clone()), Ring::new(QUEUE_SIZE).unwrap());
        let places = RingPlaces { descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
        ring.start(QUEUE_SIZE, places, false).unwrap();
        let told = Arc::new(Told {
            memory: ram,
            medium: Arc::downgrade(medium),
            count: Mutex::new(0),
            worker: thread::current().id(),
            may_sync: Mutex::new(false),
            changed: Condvar::new(),
        });
        medium.watch(told.clone());
        let (medium, next_data) = (medium.clone(), DATA);
        Guest { device, ring, memory, medium, told, next_descriptor: 0, next_data, index: 0 }
    }

    fn put(&self, bytes: &[u8], place: u64) {
        self.told.memory.write_slice(bytes, GuestAddress(place)).unwrap();
    }

    /// Offers a request; the next kick tells of it.
    fn offer(&mut self, scenario: &Scenario, index: usize, request: &Request) {
        self.medium.recorder.mark(mark_of(0, index));
        let (kind, sectors) = match request {
            Request::Write(sectors) => (T_OUT, sectors.clone()),
            Flush => (T_FLUSH, 0..0),
        };
        let bytes =
            sectors.clone().flat_map(|sector| written(scenario, 0, index, sector).bytes().to_vec());
        let data: Vec<u8> = bytes.collect();
        let first = sectors.start * (scenario.disk.sector_size() / 512) as u64;
        let [header, status] = [HEADERS + 16 * index as u64, STATUSES + index as u64];
        self.put(&[u64::from(kind).to_le_bytes(), first.to_le_bytes()].concat(), header);
        self.put(&[0xee], status);
        self.put(&data, self.next_data);
        let mut parts =
            vec![(header, 16, NEXT), (self.next_data, data.len() as u32, NEXT), (status, 1, WRITE)];
        parts.retain(|(_, length, _)| *length > 0);
        self.next_data += data.len() as u64;
        let head = self.next_descriptor;
        for (address, length, flags) in parts {
            let descriptor = Descriptor::new(address, length, flags, self.next_descriptor + 1);
            let place = DESCRIPTORS + 16 * u64::from(self.next_descriptor);
            self.told.memory.write_obj(descriptor, GuestAddress(place)).unwrap();
            self.next_descriptor += 1;
        }
        self.put(&head.to_le_bytes(), AVAILABLE + 4 + 2 * u64::from(self.index));
        self.index += 1;
    }

    /// Lets the device carry out what is offered, to the last flush.
    fn kick(&self) {
        self.told.let_sync(false);
        self.put(&self.index.to_le_bytes(), AVAILABLE + 2);
        self.device.serve_guest(0, &self.ring, &self.memory);
        self.told.look();
        self.told.let_sync(true);
        while self.told.index() != self.index {
            thread::yield_now();
            self.device.serve_guest(0, &self.ring, &self.memory);
            self.told.look();
        }
    }

    /// What is wrong with the answers to `count` requests.
    fn faults(&self, count: usize) -> Vec<String> {
        let status = |index: usize| -> u8 {
            self.told.memory.read_obj(GuestAddress(STATUSES + index as u64)).unwrap()
        };
        let failed = (0..count).filter(|index| status(*index) != 0);
        failed.map(|index| format!("request {index} has the status {}", status(index))).collect()
    }
}
