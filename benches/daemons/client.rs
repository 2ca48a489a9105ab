//! The load of a cell on one daemon.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost_user_btt::pmem::simulated::Random;
use virtio_driver::EventFd;

use crate::cell::{Cell, Group, MOST_DEPTH, Operation, Order};
use crate::patience::PATIENCE;
use crate::peer::Peer;

/// One measurement.
#[derive(Debug, Clone)]
pub struct Sample {
    pub requests: u64,
    pub elapsed: Duration,
    /// CPU time of the daemon.
    pub cpu: Duration,
    /// Of every request, in nanoseconds, ascending.
    pub latencies: Vec<u32>,
}

/// Puts the load of `cell` on `peer` for `duration`.
pub fn measure(peer: &mut Peer, cell: Cell, duration: Duration) -> Sample {
    for queue in &mut peer.disk.queues {
        queue.set_used_notif_enabled(!cell.polling);
    }
    let mut load = Load::new(peer, cell);
    // A daemon that has slept wakes up first, and caches get warm.
    load.run(duration / 10);
    load.latencies.clear();
    let before = load.peer.cpu_time();
    let begun = Instant::now();
    load.run(duration);
    let elapsed = begun.elapsed();
    let cpu = load.peer.cpu_time().saturating_sub(before);
    let mut latencies = load.latencies;
    latencies.sort_unstable();
    Sample { requests: latencies.len() as u64, elapsed, cpu, latencies }
}

/// Writes as many sectors of a disk at random as it has, so that sectors that follow one another are scattered.
pub fn age(peer: &mut Peer, group: Group) {
    let Group { medium, sector_size, queues } = group;
    let (operation, length) = (Operation::RandWrite, sector_size as usize);
    let (depth, polling, order) = (32, true, Order::Aged);
    let cell = Cell { operation, length, sector_size, depth, queues, polling, order, medium };
    let sectors = peer.size / u64::from(sector_size);
    let mut load = Load::new(peer, cell);
    while (load.latencies.len() as u64) < sectors {
        load.run(Duration::from_millis(50));
    }
}

struct Load<'p> {
    peer: &'p mut Peer,
    cell: Cell,
    random: Random,
    /// Where the next sequential request goes, by queue.
    next: Vec<u64>,
    /// When each request was submitted, by slot.
    submitted: Vec<Instant>,
    latencies: Vec<u32>,
    completions: Vec<Arc<EventFd>>,
}

impl<'p> Load<'p> {
    fn new(peer: &'p mut Peer, cell: Cell) -> Load<'p> {
        let completions =
            (0..cell.queues).map(|queue| peer.disk.completion_fd(queue)).collect::<Vec<_>>();
        let part = peer.size / cell.queues as u64;
        let now = Instant::now();
        Load {
            next: (0..cell.queues as u64).map(|queue| queue * part).collect(),
            submitted: vec![now; cell.queues * MOST_DEPTH],
            latencies: Vec::with_capacity(1 << 20),
            random: Random::new(1),
            peer,
            cell,
            completions,
        }
    }

    /// Keeps requests in flight for `duration`, and then waits for the last of them.
    fn run(&mut self, duration: Duration) {
        let mut now = Instant::now();
        let end = now + duration;
        let mut in_flight = self.cell.queues * self.cell.depth;
        for queue in 0..self.cell.queues {
            (0..self.cell.depth).for_each(|slot| self.submit(queue, slot, now));
            self.kick(queue);
        }
        let mut done = Vec::with_capacity(MOST_DEPTH);
        while in_flight > 0 {
            let mut is_idle = true;
            for queue in 0..self.cell.queues {
                let completions = self.peer.disk.queues[queue].completions();
                done.extend(completions.map(|completion| {
                    assert_eq!(completion.ret, 0, "a request failed");
                    completion.context
                }));
                if done.is_empty() {
                    continue;
                }
                is_idle = false;
                now = Instant::now();
                self.complete(&done, queue, now);
                if now < end {
                    for &slot in &done {
                        self.submit(queue, slot, now);
                    }
                    self.kick(queue);
                } else {
                    in_flight -= done.len();
                }
                done.clear();
            }
            match (is_idle, self.cell.polling) {
                // Two workers need the CPUs when the client has nothing to do.
                (true, true) if self.cell.queues > 1 => std::thread::yield_now(),
                (true, true) => std::hint::spin_loop(),
                (true, false) => self.sleep(),
                (false, _) => {}
            }
        }
    }

    fn complete(&mut self, done: &[usize], queue: usize, now: Instant) {
        let latency = |&slot| {
            let submitted: Instant = self.submitted[queue * MOST_DEPTH + slot];
            u32::try_from((now - submitted).as_nanos()).unwrap_or(u32::MAX)
        };
        self.latencies.extend(done.iter().map(latency));
    }

    fn submit(&mut self, queue: usize, slot: usize, now: Instant) {
        let writes = match self.cell.operation {
            Operation::RandRead | Operation::SeqRead => false,
            Operation::RandWrite | Operation::SeqWrite => true,
            Operation::Mixed => self.random.one_in(2),
        };
        let offset = self.offset(queue);
        let (disk, length) = (&mut self.peer.disk, self.cell.length);
        let start = (queue * MOST_DEPTH + slot) * length;
        let buffer = &mut disk.buffers[start..start + length];
        let submitted = if writes {
            disk.queues[queue].write(offset, buffer, slot)
        } else {
            disk.queues[queue].read(offset, buffer, slot)
        };
        submitted.expect("the queue has room for every slot");
        self.submitted[queue * MOST_DEPTH + slot] = now;
    }

    /// Where the next request goes.
    fn offset(&mut self, queue: usize) -> u64 {
        let length = self.cell.length as u64;
        let count = self.peer.size / length;
        if !self.cell.is_sequential() {
            return self.random.within(0..count) * length;
        }
        let offset = self.next[queue];
        self.next[queue] = if offset + 2 * length > self.peer.size { 0 } else { offset + length };
        offset
    }

    fn kick(&mut self, queue: usize) {
        if self.peer.disk.queues[queue].avail_notif_needed() {
            self.peer.disk.kick(queue);
        }
    }

    /// Sleeps until a queue interrupts, unless one has a completion already.
    fn sleep(&mut self) {
        if self.peer.disk.queues.iter_mut().any(|queue| queue.completions().has_next()) {
            return;
        }
        let mut fds: Vec<PollFd<'_>> =
            self.completions.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(PATIENCE).expect("less than the longest timeout");
        let ready = poll(&mut fds, timeout).expect("descriptors that are open");
        assert!(ready > 0, "no completion");
        let is_ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        for (completion, _) in self.completions.iter().zip(is_ready).filter(|(_, ready)| *ready) {
            completion.read().expect("it was readable");
        }
    }
}
