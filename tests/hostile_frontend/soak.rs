//! Many honest connections of every kind, one after another, each with many requests: what the daemon
//! holds stays the same. `SOAK_CONNECTIONS` and `SOAK_REQUESTS` say how many.

use std::os::fd::AsFd;

use crate::common::frontend::{OK, T_FLUSH, T_IN, T_OUT, readable, writable};
use crate::common::raw::*;
use crate::common::seeds::{figures, number};
use crate::common::shmem::Regions;
use crate::common::usage::Usage;
use crate::setup::{House, QUEUES};

/// Connections before the first look.
const FIRST: u64 = 40;
/// Anonymous memory may grow by this much, in KiB: the allocator keeps some for each thread that was.
const SLACK: usize = 2048;

#[test]
fn a_soak_leaves_descriptors_threads_and_memory_as_they_were() {
    let (connections, requests) =
        (number("SOAK_CONNECTIONS", 200), number("SOAK_REQUESTS", 20_000));
    let mut soak = Soak { house: House::new(), batches: requests.div_ceil(connections * 64) };
    let mut done = 0;
    for turn in 0..FIRST {
        soak.connection(turn);
    }
    soak.house.serves();
    soak.house.settle();
    let pid = soak.house.daemon.pid();
    let before = Usage::of(pid);
    for turn in 0..connections {
        done += soak.connection(turn);
    }
    soak.house.serves();
    let after = before.wait_until_no_more(pid);
    assert!(done >= requests, "{done} requests");
    assert!(after.anonymous_kib < before.anonymous_kib + SLACK, "{before:?} {after:?}");
    figures(&format!(
        "soak connections={connections} requests={done} descriptors-before={} descriptors-after={} \
         threads-before={} threads-after={} anonymous-kib-before={} anonymous-kib-after={}",
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
        before.anonymous_kib,
        after.anonymous_kib
    ));
    soak.house.stands();
}

struct Soak {
    house: House,
    /// Batches of 64 requests of each connection of a disk.
    batches: u64,
}

impl Soak {
    /// A connection of one of the kinds; returns how many requests it has made.
    fn connection(&mut self, turn: u64) -> u64 {
        match turn % 8 {
            0 => self.house.pmem_answers(),
            1 => self.house.control_answers(),
            _ => return self.disk(turn),
        }
        // The disks make up for the others.
        1
    }

    /// A connection of the disk, with its window mapped every other time.
    fn disk(&self, turn: u64) -> u64 {
        let mut guest = self.house.guest(QUEUES);
        let regions = Regions::default();
        if turn.is_multiple_of(2) {
            let channel = regions.serve();
            assert!(guest.raw.call(SET_BACKEND_REQ_FD, &[], &[channel.as_fd()]));
        }
        // Three of four connections are of a disk, roughly.
        let batches = self.batches * 4 / 3 + 1;
        for batch in 0..batches {
            let ring = (batch % QUEUES as u64) as usize;
            let (kind, data) = match batch % 8 {
                0 => (T_FLUSH, None),
                1 | 2 => (T_OUT, Some(readable(DATA, 4096))),
                _ => (T_IN, Some(writable(DATA, 4096))),
            };
            guest.put_request(ring, kind, batch % 1000 * 8, data);
            guest.offer(ring, &[0; SIZE as usize]);
            guest.wait(ring);
            assert_eq!(guest.get(STATUS, 1), [OK]);
        }
        batches * u64::from(SIZE)
    }
}
