//! Load on a disk, over its socket, that keeps a ledger of what it writes.

use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost_user_btt::pmem::simulated::Random;

use super::driver::{Disk, wait_unless_gone};
use super::ledger::{Before, Ledger, Ticket, Violation};
use super::patience::PATIENCE;
use super::sectors::describe;

/// Descriptors of a queue; the driver takes three for a request.
const QUEUE_SIZE: u16 = 256;
/// Requests in flight per queue.
const DEPTH: usize = 24;
/// Most sectors of a request.
const MOST_SECTORS: usize = 8;

/// What to do to the disk.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub sector_size: usize,
    pub queues: usize,
    /// True if sectors are also zeroed and discarded.
    pub zeroes: bool,
    /// True if a sector may have several writes in flight.
    pub overlap: bool,
    /// True if sectors are also read, while they are being written.
    pub reads: bool,
}

/// Hears of writes that were acknowledged.
pub type Notice<'l> = Box<dyn FnMut(&[Ticket]) + 'l>;

/// A connected disk under load.
pub struct Load<'l> {
    disk: Disk,
    ledger: &'l mut Ledger,
    shape: Shape,
    in_flight: Vec<Option<Request>>,
    /// Sectors whose write was acknowledged.
    pub acknowledged: u64,
    /// Is told of them.
    pub on_acknowledged: Notice<'l>,
}

/// A request in flight.
enum Request {
    Write(Vec<Ticket>),
    Read(Vec<Before>),
}

impl<'l> Load<'l> {
    /// Connects to the disk at `socket`.
    pub fn connect(socket: &std::path::Path, shape: Shape, ledger: &'l mut Ledger) -> Load<'l> {
        let slots = shape.queues * DEPTH;
        let buffers = slots * MOST_SECTORS * shape.sector_size;
        Load {
            disk: Disk::connect(socket, shape.queues, QUEUE_SIZE, buffers),
            ledger,
            shape,
            in_flight: (0..slots).map(|_| None).collect(),
            acknowledged: 0,
            on_acknowledged: Box::new(|_| ()),
        }
    }

    /// Reads all sectors of the ledger, while nothing is in flight.
    pub fn read_all(&mut self, each: &mut dyn FnMut(u64, &[u8])) {
        self.read_until(None, &mut |_, sector, data| each(sector, data));
    }

    /// Checks all sectors of the ledger, while nothing is in flight.
    pub fn check_all(&mut self) -> Vec<Violation> {
        self.check(None).0
    }

    /// As [`check_all`](Self::check_all), of as many sectors as can be read before the daemon ends, of
    /// which `gone` tells. Also returns whether it has ended.
    pub fn check_until(&mut self, gone: BorrowedFd<'_>) -> (Vec<Violation>, bool) {
        self.check(Some(gone))
    }

    fn check(&mut self, gone: Option<BorrowedFd<'_>>) -> (Vec<Violation>, bool) {
        let mut violations = Vec::new();
        let is_gone = self.read_until(gone, &mut |ledger, sector, data| {
            violations.extend(ledger.check_settled(sector, data).err());
        });
        (violations, is_gone)
    }

    /// Reads the sectors of the ledger, until the daemon ends, of which `gone` tells. Returns whether it has
    /// ended.
    fn read_until(
        &mut self,
        gone: Option<BorrowedFd<'_>>,
        each: &mut dyn FnMut(&mut Ledger, u64, &[u8]),
    ) -> bool {
        let (size, first, end) =
            (self.shape.sector_size, self.ledger.first, self.ledger.first + self.ledger.count());
        for start in (first..end).step_by(MOST_SECTORS) {
            let count = ((end - start) as usize).min(MOST_SECTORS);
            let buffer = &mut self.disk.buffers[..count * size];
            self.disk.queues[0].read(start * size as u64, buffer, 0).unwrap();
            let Some(gone) = gone else {
                self.disk.finish(0, 1);
                self.each_sector(start, count, each);
                continue;
            };
            self.disk.kick(0);
            if !wait_unless_gone(&self.disk.completion_fd(0), gone) {
                return true;
            }
            let done: Vec<_> = self.disk.queues[0].completions().map(|done| done.ret).collect();
            assert_eq!(done, [0]);
            self.each_sector(start, count, each);
        }
        false
    }

    /// Hands out `count` sectors from `start` on that were read.
    fn each_sector(
        &mut self,
        start: u64,
        count: usize,
        each: &mut dyn FnMut(&mut Ledger, u64, &[u8]),
    ) {
        let size = self.shape.sector_size;
        for (sector, data) in (start..).zip(self.disk.buffers[..count * size].chunks(size)) {
            each(self.ledger, sector, data);
        }
    }

    /// Takes all sectors of the ledger for what they are, while nothing is in flight.
    pub fn adopt_all(&mut self) {
        for (sector, data) in self.contents() {
            self.ledger.adopt(sector, &data);
        }
    }

    fn contents(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut contents = Vec::new();
        self.read_all(&mut |sector, data| contents.push((sector, data.to_vec())));
        contents
    }

    /// Keeps requests in flight until `gone`, a descriptor of the daemon's process, is readable. What
    /// the daemon has completed by then is acknowledged.
    pub fn run_until(&mut self, gone: BorrowedFd<'_>, random: &mut Random) {
        loop {
            for slot in 0..self.in_flight.len() {
                if self.in_flight[slot].is_none() {
                    self.submit(slot, random);
                }
            }
            (0..self.shape.queues).for_each(|queue| self.disk.kick(queue));
            let is_gone = self.wait(gone);
            self.complete();
            if is_gone {
                return;
            }
        }
    }

    /// Waits for a completion, or for the end of the daemon: whether that has come.
    fn wait(&self, gone: BorrowedFd<'_>) -> bool {
        let completions: Vec<_> =
            (0..self.shape.queues).map(|queue| self.disk.completion_fd(queue)).collect();
        let mut fds: Vec<PollFd<'_>> =
            completions.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(gone, PollFlags::POLLIN));
        let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        assert!(ready > 0, "neither a completion nor an end");
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap();
        for (completion, _) in completions.iter().zip(&fds).filter(|(_, fd)| is_ready(fd)) {
            completion.read().unwrap();
        }
        fds.last().is_some_and(is_ready)
    }

    fn submit(&mut self, slot: usize, random: &mut Random) {
        let Shape { sector_size: size, zeroes, overlap, reads, .. } = self.shape;
        let count = if random.one_in(3) { random.within(2..MOST_SECTORS as u64 + 1) } else { 1 };
        let first = self.ledger.first + random.within(0..self.ledger.count() - count + 1);
        let sectors = first..first + count;
        let (offset, length) = (first * size as u64, count as usize * size);
        let start = slot * MOST_SECTORS * size;
        let buffer = &mut self.disk.buffers[start..start + length];
        let queue = &mut self.disk.queues[slot / DEPTH];
        let kind = random.within(0..16);
        if reads && kind < 4 {
            queue.read(offset, buffer, slot).unwrap();
            let before = sectors.map(|sector| self.ledger.before_read(sector)).collect();
            self.in_flight[slot] = Some(Request::Read(before));
            return;
        }
        if !overlap && sectors.clone().any(|sector| self.ledger.is_in_flight(sector)) {
            return;
        }
        let is_zeroes = zeroes && kind == 4;
        let tickets: Vec<Ticket> =
            sectors.map(|sector| self.ledger.submit(sector, is_zeroes)).collect();
        if !is_zeroes {
            for (ticket, into) in tickets.iter().zip(buffer.chunks_mut(size)) {
                describe(ticket.sector, ticket.version, into);
            }
            queue.write(offset, buffer, slot).unwrap();
        } else if size == 4096 && random.one_in(2) {
            queue.discard(offset, length as u64, slot).unwrap();
        } else {
            queue.write_zeroes(offset, length as u64, true, slot).unwrap();
        }
        self.in_flight[slot] = Some(Request::Write(tickets));
    }

    /// Takes notice of all completions.
    fn complete(&mut self) {
        let size = self.shape.sector_size;
        let done: Vec<usize> = self
            .disk
            .queues
            .iter_mut()
            .flat_map(|queue| queue.completions().collect::<Vec<_>>())
            .map(|completion| {
                assert_eq!(completion.ret, 0, "request {}", completion.context);
                completion.context
            })
            .collect();
        let mut acknowledged = Vec::new();
        for slot in done {
            match self.in_flight[slot].take().expect("a request that was submitted") {
                Request::Write(tickets) => acknowledged.extend(tickets),
                Request::Read(before) => {
                    let start = slot * MOST_SECTORS * size;
                    let data = self.disk.buffers[start..].chunks(size);
                    for (before, data) in before.iter().zip(data) {
                        if let Err(violation) = self.ledger.check_read(before, data) {
                            panic!("read while being written: {violation}");
                        }
                    }
                }
            }
        }
        for ticket in &acknowledged {
            self.ledger.acknowledge(*ticket);
        }
        self.acknowledged += acknowledged.len() as u64;
        if !acknowledged.is_empty() {
            (self.on_acknowledged)(&acknowledged);
        }
    }
}
