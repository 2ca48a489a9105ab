//! Steps of a worker whose guest or session changes things meanwhile, or whose ring is broken.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use vm_memory::Bytes;

use super::super::completions::{Completion, Told};
use super::super::counters::{Operation, Outcome};
use super::super::limiter::{BucketConfig, RateLimit};
use super::super::ring::RingPlaces;
use super::*;
use crate::pmem::GuestRegion;
use crate::virtio::{SyncError, anonymous_ram};

const RAM: GuestAddress = GuestAddress(0);
const RAM_SIZE: usize = 0x10000;
/// Memory that is plugged in while the ring is running.
const PLUGGED: GuestAddress = GuestAddress(0x10_0000);
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const PLACES: RingPlaces = RingPlaces { descriptors: 0x1000, available: AVAILABLE, used: USED };

/// A reply that fills nothing.
struct Nothing;

impl Reply for Nothing {
    fn store(self, _: Result<(), SyncError>, _: &GuestRam, _: &LimitedLog) -> Told {
        let outcome = Outcome { operation: Operation::Other, bytes: 0, failed: false };
        Told { length: 0, outcome }
    }
}

/// Carries requests out by calling a function, which says whether to go on.
struct Called<F>(F);

impl<F: FnMut(&Requests<'_>, u16) -> bool + Send> Handler for Called<F> {
    type Reply = Nothing;

    fn run(&mut self, requests: &Requests<'_>, completions: &mut Completions<Nothing>) -> usize {
        let mut done = 0;
        for head in requests.heads {
            if !(self.0)(requests, *head) {
                break;
            }
            completions.push(Completion { head: *head, reply: Nothing, flush: None });
            done += 1;
            if !requests.charge(0) {
                break;
            }
        }
        done
    }
}

fn worker<F: FnMut(&Requests<'_>, u16) -> bool + Send>(act: F) -> Worker<Called<F>> {
    Worker::new(LimitedLog::new("called"), Called(act), Arc::default())
}

struct Guest {
    ring: Ring,
    memory: Memory,
}

impl Guest {
    fn new(places: RingPlaces) -> Guest {
        let memory = Memory::new(anonymous_ram(&[(RAM, RAM_SIZE)]).unwrap());
        let ring = Ring::new(16).unwrap();
        ring.start(16, places, false).unwrap();
        Guest { ring, memory }
    }

    /// Offers requests up to index `end`; the head of each is its index.
    fn offer(&self, end: u16) {
        let ram = self.memory.memory();
        for index in 0..end {
            let slot = GuestAddress(AVAILABLE + 4 + 2 * u64::from(index));
            ram.write_obj(index, slot).unwrap();
        }
        ram.write_obj(end, GuestAddress(AVAILABLE + 2)).unwrap();
    }

    fn used(&self) -> u16 {
        self.memory.memory().read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Lets `worker` go on until it sleeps.
    fn serve<H: Handler>(&self, worker: &mut Worker<H>) -> Progress {
        let stop = AtomicBool::new(false);
        loop {
            let (progress, _) = worker.step(&self.ring, &self.memory, &stop);
            if progress != Progress::Busy {
                return progress;
            }
        }
    }
}

fn is_notified(eventfd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(eventfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn a_ring_that_is_not_all_guest_memory_is_given_up_until_it_is_set_up_anew() {
    // Flags, index, one element, and then the memory ends.
    let available = RAM_SIZE as u64 - 6;
    let guest = Guest::new(RingPlaces { available, ..PLACES });
    let error = EventFd::new().unwrap();
    let its_own = Eventfd::new(error.as_fd().try_clone_to_owned().unwrap()).unwrap();
    guest.ring.lock().error = Some(Arc::new(its_own));
    guest.memory.memory().write_obj(2u16, GuestAddress(available + 2)).unwrap();
    let mut worker = worker(|_, _| true);
    let stop = AtomicBool::new(false);
    let (progress, notified) = worker.step(&guest.ring, &guest.memory, &stop);
    assert_eq!(progress, Progress::Asleep);
    notified.unwrap().notify().unwrap();
    assert!(is_notified(&error));
    assert_eq!((guest.ring.next_available(), guest.used()), (0, 0));
    // It is not looked at again: the next step finds no fault.
    assert!(worker.step(&guest.ring, &guest.memory, &stop).1.is_none());
    guest.ring.start(16, PLACES, false).unwrap();
    guest.ring.lock().is_broken = false;
    guest.offer(2);
    guest.serve(&mut worker);
    assert_eq!(guest.used(), 2);
}

#[test]
fn a_request_may_use_memory_that_was_plugged_in_just_before() {
    let guest = Guest::new(PLACES);
    guest.offer(1);
    let found = Mutex::new(Vec::new());
    let mut worker = worker(|requests, head| {
        if head == 0 {
            let plugged = GuestRegion::anonymous(PLUGGED, RAM_SIZE).unwrap();
            let more = guest.memory.memory().insert_region(plugged.into()).unwrap();
            guest.memory.lock().unwrap().replace(more);
            guest.offer(2);
        }
        found.lock().unwrap().push(requests.memory.read_obj::<u8>(PLUGGED).is_ok());
        true
    });
    guest.serve(&mut worker);
    assert_eq!(guest.used(), 2);
    drop(worker);
    assert_eq!(found.into_inner().unwrap(), [false, true]);
}

#[test]
fn a_batch_that_is_interrupted_goes_back_to_the_ring() {
    let guest = Guest::new(PLACES);
    guest.offer(5);
    let carried_out = Mutex::new(Vec::new());
    let mut interruptions = 3;
    let mut worker = worker(|_, head| {
        let goes_on = head != 2 || interruptions == 0;
        if goes_on {
            carried_out.lock().unwrap().push(head);
        } else {
            interruptions -= 1;
        }
        goes_on
    });
    let stop = AtomicBool::new(false);
    worker.step(&guest.ring, &guest.memory, &stop);
    assert_eq!((guest.used(), guest.ring.next_available()), (2, 2));
    guest.serve(&mut worker);
    assert_eq!((guest.used(), guest.ring.next_available()), (5, 5));
    drop(worker);
    assert_eq!(carried_out.into_inner().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_batch_is_told_of_a_session_that_waits_and_of_a_stop() {
    let guest = Guest::new(PLACES);
    guest.offer(2);
    let stop = AtomicBool::new(false);
    let seen = Mutex::new(Vec::new());
    let mut worker = worker(|requests, head| {
        if head == 1 {
            stop.store(true, Ordering::Relaxed);
        }
        seen.lock().unwrap().push(requests.interrupt().is_due());
        true
    });
    worker.step(&guest.ring, &guest.memory, &stop);
    drop(worker);
    assert_eq!(seen.into_inner().unwrap(), [false, true]);
    let interrupt = Interrupt { ring: &guest.ring, stop: &AtomicBool::new(false) };
    let batch = guest.ring.lock_for_worker();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(guest.ring.lock()));
        while !interrupt.is_due() {
            std::thread::yield_now();
        }
        drop(batch);
    });
}

#[test]
fn memory_that_is_lost_ends_the_service() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let lost = GuestRegion::map(file.try_clone().unwrap(), 0, PLUGGED, 4096).unwrap();
    let guest = Guest::new(PLACES);
    let more = guest.memory.memory().insert_region(lost.into()).unwrap();
    guest.memory.lock().unwrap().replace(more);
    guest.offer(1);
    let mut worker = worker(|requests, _| requests.memory.read_obj::<u8>(PLUGGED).is_ok());
    assert_eq!(guest.serve(&mut worker), Progress::Asleep);
    file.set_len(0).unwrap();
    guest.offer(2);
    assert_eq!(guest.serve(&mut worker), Progress::MemoryLost);
}

#[test]
fn a_rate_limit_leaves_requests_in_the_ring_and_says_how_long_to_wait() {
    let guest = Guest::new(PLACES);
    let mut worker = worker(|_, _| true);
    let hour = Duration::from_secs(3600);
    let bucket = BucketConfig { size: 3, one_time_burst: 0, refill_time: hour };
    let limit = RateLimit { operations: Some(bucket), ..RateLimit::default() };
    worker.gate.limits().own().set(limit, Instant::now());
    guest.offer(5);
    let progress = guest.serve(&mut worker);
    assert!(matches!(progress, Progress::Throttled(wait) if wait <= hour), "{progress:?}");
    assert_eq!((guest.used(), guest.ring.next_available()), (3, 3));
    worker.gate.limits().own().set(RateLimit::default(), Instant::now());
    assert_eq!(guest.serve(&mut worker), Progress::Asleep);
    assert_eq!((guest.used(), worker.counters.throttles.get()), (5, 1));
}

#[test]
fn nothing_is_taken_while_the_gate_is_closed() {
    let guest = Guest::new(PLACES);
    let mut worker = worker(|_, _| true);
    guest.offer(2);
    worker.gate.close();
    assert_eq!(guest.serve(&mut worker), Progress::Asleep);
    assert_eq!((guest.used(), guest.ring.next_available()), (0, 0));
    worker.gate.open();
    guest.serve(&mut worker);
    assert_eq!(guest.used(), 2);
}

#[test]
fn requests_and_batches_are_counted() {
    let guest = Guest::new(PLACES);
    let mut worker = worker(|_, _| true);
    guest.offer(5);
    guest.serve(&mut worker);
    let others = worker.counters.of(Operation::Other);
    let latencies: u64 = others.latency.buckets().iter().map(|(_, count)| count).sum();
    assert_eq!((others.requests.get(), latencies), (5, 5));
    assert_eq!(worker.counters.batches[3].get(), 1);
}

/// The first request of a batch may still fail when the second is carried out.
#[test]
fn the_guest_is_not_told_of_a_batch_whose_handler_has_panicked() {
    let guest = Guest::new(PLACES);
    guest.offer(2);
    let mut worker = worker(|_, head| {
        assert_ne!(head, 1, "the handler is broken");
        true
    });
    catch_unwind(AssertUnwindSafe(|| guest.serve(&mut worker))).unwrap_err();
    worker.drain(&guest.ring, &guest.memory);
    assert_eq!(guest.used(), 0);
}
