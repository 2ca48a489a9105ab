//! Guest memory that is not there, or not for long.

use std::fs::File;
use std::os::fd::AsFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::common::frontend::{OK, T_FLUSH, T_IN, T_OUT, readable, writable};
use crate::common::raw::*;
use crate::setup::House;

#[test]
fn guest_memory_that_shrinks_ends_its_connection_alone() {
    let house = House::new();
    // Under data that are written and read, under the status byte, under the ring.
    for (length, kind) in [(DATA, T_OUT), (DATA, T_IN), (STATUS, T_FLUSH), (0, T_FLUSH)] {
        let mut guest = house.guest(1);
        let data = match kind {
            T_OUT => Some(readable(DATA, 4096)),
            T_IN => Some(writable(DATA, 4096)),
            _ => None,
        };
        assert_eq!(guest.request(0, kind, 0, data), OK);
        guest.put_request(0, kind, 0, data);
        if length == 0 {
            guest.memory.set_len(0).unwrap();
            guest.kick(0);
        } else {
            // The index is below the end; only the buffers are gone.
            guest.memory.set_len(length).unwrap();
            guest.offer(0, &[0]);
        }
        guest.raw.wait_until_closed();
    }
    house.stands();
}

#[test]
fn memory_that_shrinks_without_a_request_is_survived() {
    let house = House::new();
    for _ in 0..20 {
        let guest = house.guest(2);
        guest.memory.set_len(0).unwrap();
        drop(guest);
    }
    house.stands();
}

#[test]
fn regions_that_are_longer_than_their_files_are_refused() {
    let house = House::new();
    let raw = Raw::connect(&house.victim());
    raw.negotiate();
    let file = new_memory(1 << 20);
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let regions = [
        [0, 2 << 20, USER_BASE, 0],
        [0, 1 << 20, USER_BASE, 4096],
        [0, 1 << 20, USER_BASE, u64::MAX - 4095],
        [0, u64::MAX, USER_BASE, 0],
        [u64::MAX - 4095, 1 << 20, USER_BASE, 0],
        [0, 0, USER_BASE, 0],
    ];
    for region in regions {
        assert!(!raw.call(SET_MEM_TABLE, &memory_table(&[region]), &[file.as_fd()]), "{region:x?}");
        assert!(!raw.call(ADD_MEM_REG, &words(&[&[0], &region[..]].concat()), &[file.as_fd()]));
    }
    let whole = memory_table(&[[0, 1 << 20, USER_BASE, 0]]);
    for no_memory in [null.as_fd(), reader.as_fd(), new_eventfd().as_fd()] {
        assert!(!raw.call(SET_MEM_TABLE, &whole, &[no_memory]));
    }
    // Of two regions, one over the other.
    let two = memory_table(&[[0, 1 << 20, USER_BASE, 0], [4096, 1 << 19, USER_BASE, 0]]);
    assert!(!raw.call(SET_MEM_TABLE, &two, &[file.as_fd(), file.as_fd()]));
    assert!(raw.call(SET_MEM_TABLE, &whole, &[file.as_fd()]));
    drop(raw);
    house.stands();
}

/// Pages of a hugetlbfs are handed out as they are touched, and a host has no more than were set aside.
#[test]
fn huge_pages_that_run_out_end_their_connection_alone() {
    let Some(_pages) = HugePages::set_aside(1) else {
        eprintln!("huge pages cannot be set aside here: nothing was tested");
        return;
    };
    let house = House::new();
    let raw = Raw::connect(&house.victim());
    raw.negotiate();
    let (memory, huge) = (new_memory(MEMORY), new_huge_memory(8 << 20));
    let table =
        memory_table(&[[0, MEMORY, USER_BASE, 0], [MEMORY, 8 << 20, USER_BASE + MEMORY, 0]]);
    assert!(raw.call(SET_MEM_TABLE, &table, &[memory.as_fd(), huge.as_fd()]));
    let mut guest = RawGuest::on(raw, memory, true);
    guest.start_next_ring(new_eventfd(), new_eventfd());
    // The first page is there; the second one is not.
    assert_eq!(guest.request(0, T_IN, 0, Some(writable(MEMORY, 4096))), OK);
    guest.put_request(0, T_IN, 0, Some(writable(MEMORY + (2 << 20), 4096)));
    guest.offer(0, &[0]);
    guest.raw.wait_until_closed();
    house.stands();
}

/// Huge pages of 2 MiB that were set aside for a test, in addition to those that there were.
struct HugePages {
    before: u64,
}

const SET_ASIDE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl HugePages {
    /// Returns `None` where other pages are free already, or none can be had.
    fn set_aside(pages: u64) -> Option<HugePages> {
        let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let free = SET_ASIDE.replace("nr_hugepages", "free_hugepages");
        let before = read(SET_ASIDE).filter(|_| read(&free) == Some(0))?;
        std::fs::write(SET_ASIDE, (before + pages).to_string()).ok()?;
        let set_aside = HugePages { before };
        (read(&free) == Some(pages)).then_some(set_aside)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        std::fs::write(SET_ASIDE, self.before.to_string()).unwrap();
    }
}

fn new_huge_memory(size: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = File::from(memfd_create("guest", flags).unwrap());
    file.set_len(size).unwrap();
    file
}

#[test]
fn a_sigbus_that_a_process_sends_changes_nothing() {
    let house = House::new();
    let pid = Pid::from_raw(house.daemon.pid().cast_signed());
    for _ in 0..3 {
        kill(pid, Signal::SIGBUS).unwrap();
    }
    // The handler is still there.
    let mut guest = house.guest(1);
    guest.put_request(0, T_OUT, 0, Some(readable(DATA, 4096)));
    guest.memory.set_len(DATA).unwrap();
    guest.offer(0, &[0]);
    guest.raw.wait_until_closed();
    house.stands();
}
