//! What each frontend sends, in its order, and that a request is carried out at the end of it.
//!
//! The orders were written down from descriptions of the frontends, and not recorded. What differs is a row of
//! [`FRONTENDS`].

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use common::daemon::{Daemon, make_namespace};
use common::frontend::{T_FLUSH, T_IN, T_OUT, readable, writable};
use common::raw::{
    ADD_MEM_REG, DATA, GET_FEATURES, GET_MAX_MEM_SLOTS, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
    MEMORY, Raw, RawGuest, SET_FEATURES, SET_MEM_TABLE, SET_OWNER, SET_PROTOCOL_FEATURES, SIZE,
    USER_BASE, VERSION, halves, memory_table, new_eventfd, new_memory, words,
};
use uuid::Uuid;
use vhost_user_btt::btt::flog::FlogEntry;
use vhost_user_btt::btt::{Geometry, InfoBlock, LaneIndex, LbaSize, Version};
use vhost_user_btt::pmem::{DurabilityRequest, Mapping, PersistentMemory, Protection};

/// Bit of the feature.
const WRITE_ZEROES: u32 = 14;
const RESET_OWNER: u32 = 4;
const SET_VRING_NUM: u32 = 8;
const GET_CONFIG: u32 = 24;
const SET_CONFIG: u32 = 25;
const RESET_DEVICE: u32 = 34;
const SET_DEVICE_STATE_FD: u32 = 42;
const CHECK_DEVICE_STATE: u32 = 43;

/// Protocol features.
const MQ: u64 = 1 << 0;
const LOG_SHMFD: u64 = 1 << 1;
const REPLY_ACK: u64 = 1 << 3;
const BACKEND_REQ: u64 = 1 << 5;
const CONFIG: u64 = 1 << 9;
const INFLIGHT_SHMFD: u64 = 1 << 12;
const RESET: u64 = 1 << 13;
const MEM_SLOTS: u64 = 1 << 15;
const DEVICE_STATE: u64 = 1 << 19;

/// A part of the configuration space that a frontend reads: offset, bytes.
type ConfigRead = (u32, u32);

/// A frontend.
#[allow(clippy::struct_excessive_bools, reason = "each is a habit of its own")]
struct Kind {
    name: &'static str,
    /// It asks for features before it says that it owns the device.
    features_first: bool,
    /// It sets features before it asks for those of the protocol.
    protocol_last: bool,
    /// The protocol features that it knows.
    protocol: u64,
    /// It sets protocol features without asking for them, at a second connection.
    sets_protocol_blindly: bool,
    /// It wants an answer to each request.
    wants_replies: bool,
    reads: &'static [ConfigRead],
    /// It sets the cache mode by four bytes at 32.
    sets_cache_mode: bool,
    /// It sends `SET_OWNER` again when the guest's driver starts.
    owns_twice: bool,
    /// It shares memory region by region.
    adds_regions: bool,
    ring_size: u16,
    queues: u32,
    /// How it resets the device.
    reset: Option<u32>,
}

const PLAIN: Kind = Kind {
    name: "",
    features_first: false,
    protocol_last: false,
    protocol: CONFIG | MQ,
    sets_protocol_blindly: false,
    wants_replies: false,
    reads: &[(0, 60)],
    sets_cache_mode: false,
    owns_twice: false,
    adds_regions: false,
    ring_size: 256,
    queues: 1,
    reset: None,
};

/// In reads of four bytes.
const WORDS: &[ConfigRead] = &[(0, 4), (4, 4), (12, 4), (20, 4), (24, 4), (32, 4), (36, 4)];

const FRONTENDS: &[Kind] = &[
    Kind {
        name: "QEMU",
        protocol: MQ
            | LOG_SHMFD
            | REPLY_ACK
            | BACKEND_REQ
            | CONFIG
            | INFLIGHT_SHMFD
            | RESET
            | MEM_SLOTS,
        ring_size: 128,
        queues: 4,
        reset: Some(RESET_DEVICE),
        ..PLAIN
    },
    Kind { name: "QEMU before RESET_DEVICE", queues: 4, reset: Some(RESET_OWNER), ..PLAIN },
    Kind {
        name: "cloud-hypervisor up to 50",
        protocol: MQ | CONFIG | REPLY_ACK | INFLIGHT_SHMFD | MEM_SLOTS,
        sets_protocol_blindly: true,
        wants_replies: true,
        reads: &[(0x100, 60)],
        queues: 2,
        ..PLAIN
    },
    Kind {
        name: "cloud-hypervisor",
        protocol: MQ | CONFIG | REPLY_ACK | INFLIGHT_SHMFD | MEM_SLOTS | DEVICE_STATE,
        sets_protocol_blindly: true,
        wants_replies: true,
        queues: 2,
        ..PLAIN
    },
    Kind { name: "Kata's Dragonball", reads: &[(0x100, 60)], ring_size: 128, ..PLAIN },
    Kind { name: "Firecracker", protocol: CONFIG, ..PLAIN },
    Kind {
        name: "crosvm",
        protocol: MQ | CONFIG | BACKEND_REQ | DEVICE_STATE,
        ring_size: 32768,
        queues: 4,
        ..PLAIN
    },
    Kind { name: "OpenVMM", features_first: true, reads: WORDS, sets_cache_mode: true, ..PLAIN },
    Kind { name: "libkrun", owns_twice: true, queues: 4, ..PLAIN },
    // Also of QEMU's block driver virtio-blk-vhost-user, as in qemu-img and qemu-storage-daemon. Its order is that of
    // the crate virtio-driver.
    Kind {
        name: "libblkio",
        protocol_last: true,
        protocol: MQ | CONFIG | REPLY_ACK | MEM_SLOTS,
        wants_replies: true,
        adds_regions: true,
        queues: 2,
        ..PLAIN
    },
];

/// A connection of a frontend of some kind.
struct Frontend<'a> {
    kind: &'a Kind,
    raw: Raw,
}

impl Frontend<'_> {
    fn tell(&self, request: u32, body: &[u8]) {
        if self.kind.wants_replies {
            assert!(self.raw.call(request, body, &[]), "{}: request {request}", self.kind.name);
        } else {
            assert!(self.raw.send(request, VERSION, body, &[]));
        }
    }

    /// The part of the configuration space.
    fn read_config(&self, (offset, size): ConfigRead) -> Vec<u8> {
        let body = [halves(&[offset, size, 0]), vec![0; size as usize]].concat();
        let answer = self.raw.ask(GET_CONFIG, &body).expect("an open connection");
        assert_eq!(answer[..12], halves(&[offset, size, 0])[..12], "{}", self.kind.name);
        answer[12..].to_vec()
    }

    /// From the first message to the configuration space.
    fn negotiate(&self, is_first: bool) {
        let kind = self.kind;
        // Before REPLY_ACK is set, no frontend asks for answers.
        let say = |request, body: &[u8]| assert!(self.raw.send(request, VERSION, body, &[]));
        if !kind.features_first {
            say(SET_OWNER, &[]);
        }
        let features = self.raw.ask_number(GET_FEATURES);
        if kind.features_first {
            say(SET_OWNER, &[]);
        }
        if kind.protocol_last {
            say(SET_FEATURES, &words(&[features]));
        }
        let offered = if is_first || !kind.sets_protocol_blindly {
            self.raw.ask_number(GET_PROTOCOL_FEATURES)
        } else {
            // What it remembers of its first connection.
            MQ | CONFIG | REPLY_ACK | MEM_SLOTS
        };
        say(SET_PROTOCOL_FEATURES, &words(&[offered & kind.protocol]));
        if kind.protocol & MQ != 0 {
            assert!(self.raw.ask_number(GET_QUEUE_NUM) >= kind.queues.into(), "{}", kind.name);
        }
        if !kind.protocol_last {
            self.tell(SET_FEATURES, &words(&[features]));
        }
    }

    /// Shares `memory`.
    fn share(&self, memory: &File) {
        let region = [0, MEMORY, USER_BASE, 0];
        let (request, body) = if self.kind.adds_regions {
            assert!(self.raw.ask_number(GET_MAX_MEM_SLOTS) > 0, "{}", self.kind.name);
            (ADD_MEM_REG, words(&[&[0], &region[..]].concat()))
        } else {
            (SET_MEM_TABLE, memory_table(&[region]))
        };
        if self.kind.wants_replies {
            assert!(self.raw.call(request, &body, &[memory.as_fd()]), "{}", self.kind.name);
        } else {
            assert!(self.raw.send(request, VERSION, &body, &[memory.as_fd()]));
        }
    }

    /// What the configuration says of the size of the disk, in 512 bytes.
    fn capacity(&self) -> u64 {
        let mut config = [0; 60];
        for (offset, size) in self.kind.reads {
            let at = (offset % 0x100) as usize;
            config[at..at + *size as usize].copy_from_slice(&self.read_config((*offset, *size)));
        }
        u64::from_le_bytes(config[..8].try_into().unwrap())
    }
}

/// Connects as `kind` does, starts its rings, and returns its guest.
fn start(kind: &Kind, socket: &Path, is_first: bool) -> RawGuest {
    let frontend = Frontend { kind, raw: Raw::connect(socket) };
    frontend.negotiate(is_first);
    assert!(frontend.capacity() > 1000, "{}: {}", kind.name, frontend.capacity());
    if kind.sets_cache_mode {
        let write = [halves(&[32, 4, 0]), vec![0, 0, 0, 0]].concat();
        frontend.tell(SET_CONFIG, &write);
        assert_eq!(frontend.read_config((32, 4))[0], 0, "{}: the write cache stays on", kind.name);
    }
    if kind.owns_twice {
        frontend.tell(SET_OWNER, &[]);
    }
    let memory = new_memory(MEMORY);
    frontend.share(&memory);
    // The size that the frontend offers its guest by default; the test's own rings are smaller.
    frontend.tell(SET_VRING_NUM, &halves(&[0, kind.ring_size.into()]));
    let mut guest = RawGuest::on(frontend.raw, memory, kind.wants_replies);
    for _ in 0..kind.queues {
        guest.start_next_ring(new_eventfd(), new_eventfd());
    }
    guest
}

/// Writes to the disk, flushes and reads back, on each ring.
fn use_disk(kind: &Kind, guest: &mut RawGuest, byte: u8) {
    for ring in 0..kind.queues as usize {
        let sector = 8 * ring as u64;
        guest.put(DATA, &[byte + ring as u8; 4096]);
        assert_eq!(
            guest.request(ring, T_OUT, sector, Some(readable(DATA, 4096))),
            0,
            "{}",
            kind.name
        );
        assert_eq!(guest.request(ring, T_FLUSH, 0, None), 0, "{}", kind.name);
        guest.put(DATA, &[0; 4096]);
        assert_eq!(
            guest.request(ring, T_IN, sector, Some(writable(DATA, 4096))),
            0,
            "{}",
            kind.name
        );
        assert_eq!(guest.get(DATA, 4096), [byte + ring as u8; 4096], "{}", kind.name);
    }
}

#[test]
fn every_frontend_is_served_as_it_asks() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    // Nothing but the socket and the file: what the defaults are has to fit each of them.
    let daemon = Daemon::start(&file, &[]);
    for kind in FRONTENDS {
        for (round, is_first) in [(1, true), (50, false)] {
            let mut guest = start(kind, &daemon.socket, is_first);
            use_disk(kind, &mut guest, round);
        }
    }
    assert!(!daemon.log().contains("refused"), "{}", daemon.log());
    assert!(!daemon.log().contains("the connection has ended"), "{}", daemon.log());
}

#[test]
fn a_device_that_is_reset_starts_anew_on_the_same_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&file, &[]);
    for kind in FRONTENDS.iter().filter(|kind| kind.reset.is_some()) {
        let mut guest = start(kind, &daemon.socket, true);
        use_disk(kind, &mut guest, 1);
        let reset = kind.reset.unwrap();
        assert!(guest.raw.send(reset, VERSION, &[], &[]));
        if reset == RESET_DEVICE {
            guest.forget_rings();
            for _ in 0..kind.queues {
                guest.start_next_ring(new_eventfd(), new_eventfd());
            }
            use_disk(kind, &mut guest, 2);
        }
        assert!(guest.raw.ask_number(GET_FEATURES) != 0, "{}: the connection is gone", kind.name);
    }
}

/// Saves the state of the device, or loads it. It has none.
fn transfer_state(kind: &Kind, raw: &Raw, is_saved: bool) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let direction = u32::from(!is_saved);
    let pipe = if is_saved { writer.as_fd() } else { reader.as_fd() };
    assert!(raw.send(SET_DEVICE_STATE_FD, VERSION, &halves(&[direction, 0]), &[pipe]));
    // No other pipe is used, and it has worked.
    assert_eq!(raw.receive(), Some(0x100u64.to_ne_bytes().to_vec()), "{}", kind.name);
    drop(writer);
    if is_saved {
        let mut state = Vec::new();
        reader.read_to_end(&mut state).unwrap();
        assert!(state.is_empty(), "{}", kind.name);
    }
    assert_eq!(raw.ask_number(CHECK_DEVICE_STATE), 0, "{}", kind.name);
}

#[test]
fn a_snapshot_has_all_requests_that_were_offered_and_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&file, &[]);
    let mut tried = 0;
    for kind in FRONTENDS.iter().filter(|kind| kind.protocol & DEVICE_STATE != 0) {
        let mut guest = start(kind, &daemon.socket, true);
        use_disk(kind, &mut guest, 7);
        let rings = 0..kind.queues as usize;
        let bases: Vec<u32> = rings.clone().map(|ring| guest.stop_ring(ring as u32)).collect();
        // The guest offers a request that the device does not take any more.
        guest.put(DATA, &[0; 4096]);
        guest.put_request(0, T_IN, 0, Some(writable(DATA, 4096)));
        guest.offer(0, &[0]);
        transfer_state(kind, &guest.raw, true);
        assert_eq!(guest.get(DATA, 4096), [0; 4096], "{}: a stopped ring was served", kind.name);
        let offered: Vec<u16> = rings.clone().map(|ring| guest.offered(ring)).collect();
        // Another process restores it.
        let memory = guest.memory.try_clone().unwrap();
        drop(guest);
        let frontend = Frontend { kind, raw: Raw::connect(&daemon.socket) };
        frontend.negotiate(true);
        frontend.share(&memory);
        transfer_state(kind, &frontend.raw, false);
        let mut guest = RawGuest::on(frontend.raw, memory, kind.wants_replies);
        for ring in rings {
            guest.restore_next_ring(bases[ring], offered[ring]);
        }
        guest.wait(0);
        assert_eq!(guest.get(DATA, 4096), [7; 4096], "{}", kind.name);
        use_disk(kind, &mut guest, 8);
        tried += 1;
    }
    assert_eq!(tried, 2);
    assert!(!daemon.log().contains("refused"), "{}", daemon.log());
}

#[test]
fn a_refused_request_leaves_the_connection_and_the_rings_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let mut daemon = Daemon::start(&file, &[]);
    let mut guest = start(&FRONTENDS[0], &daemon.socket, true);
    // A feature that was not offered, a request that is unknown, and a ring that is not there.
    assert!(!guest.raw.call(SET_FEATURES, &words(&[u64::MAX]), &[]));
    assert!(!guest.raw.call(99, &[], &[]));
    assert!(!guest.raw.call(SET_VRING_NUM, &halves(&[200, SIZE.into()]), &[]));
    use_disk(&FRONTENDS[0], &mut guest, 3);
    daemon.wait_for_log("refused");
}

/// Logical block size, exponent of the physical block, and the least request, as the guest reads them.
fn blocks(daemon: &Daemon) -> (u32, u8, u16) {
    let frontend = Frontend { kind: &PLAIN, raw: Raw::connect(&daemon.socket) };
    frontend.negotiate(true);
    let config = frontend.read_config((0, 60));
    let size = u32::from_le_bytes(config[20..24].try_into().unwrap());
    (size, config[24], u16::from_le_bytes(config[26..28].try_into().unwrap()))
}

#[test]
fn blocks_of_512_bytes_over_larger_sectors_can_be_written_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let daemon = Daemon::start(&file, &[]);
    assert_eq!(blocks(&daemon), (4096, 0, 1));
    assert!(daemon.terminate().0.success());
    let daemon = Daemon::start(&file, &["--logical-block-size=512"]);
    assert_eq!(blocks(&daemon), (512, 3, 8));
    let mut guest = RawGuest::start(&daemon.socket, 1);
    guest.put(DATA, &[1; 4096]);
    assert_eq!(guest.request(0, T_OUT, 8, Some(readable(DATA, 4096))), 0);
    guest.put(DATA, &[2; 512]);
    assert_eq!(guest.request(0, T_OUT, 11, Some(readable(DATA, 512))), 0);
    guest.put(DATA, &[0; 4096]);
    assert_eq!(guest.request(0, T_IN, 8, Some(writable(DATA, 4096))), 0);
    let expected = [vec![1; 3 * 512], vec![2; 512], vec![1; 4 * 512]].concat();
    assert_eq!(guest.get(DATA, 4096), expected);
}

#[test]
fn blocks_larger_than_a_sector_are_refused_since_they_would_tear() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 512);
    for (options, reason) in [
        (&["--logical-block-size=4096", "--atomic=off"][..], "could tear; it takes --atomic=4096"),
        (&["--logical-block-size=8192", "--atomic=off"], "could tear; it takes --atomic=8192"),
        (&["--logical-block-size=32768", "--num-queues=5"], "with 4 queues or fewer"),
        (&["--atomic=64K", "--num-queues=2"], "of 32768 bytes at most"),
        (&["--atomic-hint", "--atomic=32K", "--num-queues=1"], "logical blocks of 4096 bytes"),
    ] {
        let mut daemon = Daemon::begin(&file, options);
        assert_eq!(daemon.wait().code(), Some(1), "{options:?}");
        assert!(daemon.log().contains(reason), "{}", daemon.log());
    }
}

#[test]
fn blocks_of_several_sectors_are_served_where_they_are_all_or_nothing() {
    const BLOCK: u32 = 16384;
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let options = ["--logical-block-size=16384", "--discard=on"];
    let daemon = Daemon::start(&file, &options);
    assert_eq!(blocks(&daemon), (BLOCK, 0, 1));
    let frontend = Frontend { kind: &PLAIN, raw: Raw::connect(&daemon.socket) };
    let features = frontend.raw.ask_number(GET_FEATURES);
    assert_eq!(features & 1 << WRITE_ZEROES, 0, "it would not be all or nothing");
    frontend.negotiate(true);
    let config = frontend.read_config((0, 60));
    let capacity = u64::from_le_bytes(config[..8].try_into().unwrap());
    assert!(capacity > 0 && capacity.is_multiple_of(32), "whole blocks");
    assert_eq!(config[44..48], 32_u32.to_le_bytes(), "whole blocks are discarded");
    drop(frontend);
    let mut guest = RawGuest::start(&daemon.socket, 1);
    guest.put(DATA, &[1; BLOCK as usize]);
    assert_eq!(guest.request(0, T_OUT, 32, Some(readable(DATA, BLOCK))), 0);
    for (sector, length) in [(8, BLOCK), (32, 4096), (40, 8192)] {
        assert_eq!(guest.request(0, T_OUT, sector, Some(readable(DATA, length))), 1, "{sector}");
        assert_eq!(guest.request(0, T_IN, sector, Some(writable(DATA, length))), 1, "{sector}");
    }
    guest.put(DATA, &[0; BLOCK as usize]);
    assert_eq!(guest.request(0, T_IN, 32, Some(writable(DATA, BLOCK))), 0);
    assert_eq!(guest.get(DATA, BLOCK as usize), [1; BLOCK as usize]);
}

#[test]
fn a_guest_is_told_which_writes_to_prefer_only_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    for (options, preferred) in [
        (&[][..], 0),
        (&["--atomic-hint"], 4),
        (&["--atomic=64K", "--atomic-hint=32K", "--num-queues=4"], 8),
    ] {
        let daemon = Daemon::start(&file, options);
        assert_eq!(blocks(&daemon), (4096, 0, 1), "of nothing else");
        let frontend = Frontend { kind: &PLAIN, raw: Raw::connect(&daemon.socket) };
        frontend.negotiate(true);
        let config = frontend.read_config((0, 60));
        assert_eq!(u32::from_le_bytes(config[28..32].try_into().unwrap()), preferred);
    }
}

/// Most segments of a request, as the configuration space has it.
fn most_segments(frontend: &Frontend) -> u32 {
    let config = frontend.read_config((0, 60));
    u32::from_le_bytes(config[12..16].try_into().unwrap())
}

#[test]
fn long_requests_are_cut_between_what_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    for (options, segments, said) in [
        (&["--num-queues=4"][..], 112, "aligned writes of up to 65536 bytes all or nothing"),
        (&["--num-queues=64"], 124, "aligned writes of up to 16384 bytes all or nothing"),
        (&["--atomic=off"], 126, "durability"),
        (&["--read-only"], 112, "read-only"),
    ] {
        let daemon = Daemon::start(&file, options);
        let frontend = Frontend { kind: &PLAIN, raw: Raw::connect(&daemon.socket) };
        frontend.negotiate(true);
        assert_eq!(most_segments(&frontend), segments, "{options:?}");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(": serving ")).unwrap();
        assert!(line.ends_with(said), "{options:?}: {line}");
    }
}

/// A disk whose last block ends where its map begins: there is no room for records.
fn without_slack(path: &Path) {
    const SIZE: u64 = 17 << 20;
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(SIZE).unwrap();
    let (protection, durability) = (Protection::ReadWrite, DurabilityRequest::PageCache);
    let medium = Mapping::new(file, 0..SIZE, protection, durability).unwrap();
    let mut geometry = Geometry::new(SIZE, LbaSize::new(4096).unwrap(), true);
    geometry.internal_nlba = ((geometry.mapoff - geometry.dataoff) / 4096) as u32;
    geometry.external_nlba = geometry.internal_nlba - geometry.nfree;
    for lane in (0..geometry.nfree).map(LaneIndex) {
        let [place, commit] = FlogEntry::initial(lane, geometry.external_nlba).halves();
        medium.store_u64_pair(geometry.flog_offset(lane), place, commit).unwrap();
    }
    let (uuid, parent_uuid) = (Uuid::max(), Uuid::nil());
    let info = InfoBlock { uuid, parent_uuid, error: false, version: Version::V2_0, geometry };
    info.write(&medium, geometry.info2off).unwrap();
    info.write(&medium, 0).unwrap();
}

#[test]
fn a_disk_without_room_for_records_is_served_as_ever_unless_a_size_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvdimm");
    without_slack(&file);
    let mut refused = Daemon::begin(&file, &["--atomic=16K"]);
    assert_eq!(refused.wait().code(), Some(1));
    assert!(refused.log().contains("of 4096 bytes at most"), "{}", refused.log());

    let daemon = Daemon::start(&file, &["--num-queues=4"]);
    let mut guest = RawGuest::start(&daemon.socket, 1);
    guest.put(DATA, &[1; 16384]);
    assert_eq!(guest.request(0, T_OUT, 0, Some(readable(DATA, 16384))), 0);
    drop(guest);
    let frontend = Frontend { kind: &PLAIN, raw: Raw::connect(&daemon.socket) };
    frontend.negotiate(true);
    assert_eq!(most_segments(&frontend), 126);
    let log = daemon.log();
    let said = "with 4 queues, this disk cannot make writes of several sectors all or nothing";
    let line = log.lines().find(|line| line.ends_with(said));
    assert!(line.is_some_and(|line| line.contains("INFO")), "{log}");
}

/// The configuration space is read before the disk is claimed, and holds until it is let go.
#[test]
fn a_disk_that_is_claimed_as_rings_run_says_the_same_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let mut daemon = Daemon::start(&file, &["--claim=running", "--num-queues=16"]);
    let frontend = Frontend { kind: &PLAIN, raw: Raw::connect(&daemon.socket) };
    frontend.negotiate(true);
    assert_eq!(most_segments(&frontend), 112);
    drop(frontend);
    let guest = RawGuest::start(&daemon.socket, 1);
    daemon.wait_for_log("the disk is claimed, as its rings run");
    assert_eq!(most_segments(&Frontend { kind: &PLAIN, raw: guest.raw }), 112);
}
