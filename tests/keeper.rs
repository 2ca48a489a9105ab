//! The keeper: the process that serves is killed and replaced, and a frontend that cannot reconnect does not
//! notice. `KEEPER_KILLS` says how often it is killed.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, PATIENCE, make_namespace, nvdimmctl_ok};
use common::frontend::{T_IN, T_OUT, readable, writable};
use common::ledger::{Ledger, Violation};
use common::load::{Load, Shape};
use common::raw::{
    DATA, GET_FEATURES, GET_PROTOCOL_FEATURES, GET_VRING_BASE, MEMORY, NEED_REPLY, Raw, RawGuest,
    SET_FEATURES, SET_MEM_TABLE, SET_OWNER, SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE,
    SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK, SET_VRING_NUM, USER_BASE, VERSION, addresses,
    halves, memory_table, new_eventfd, new_memory, words,
};
use common::seeds::{figures, number};
use nix::sys::signal::{Signal, kill};
use vhost_user_btt::pmem::simulated::Random;

const AGAIN: &str = "the frontend is served again";
const GET_CONFIG: u32 = 24;
const SET_CONFIG: u32 = 25;

struct Disk {
    folder: tempfile::TempDir,
    file: std::path::PathBuf,
    daemon: Daemon,
}

impl Disk {
    fn new(options: &[&str]) -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        let daemon = Daemon::start(&file, &[&["--keeper"], options].concat());
        Disk { folder, file, daemon }
    }

    fn guest(&self) -> RawGuest {
        RawGuest::start(&self.daemon.socket, 2)
    }

    /// Kills the process that serves, the `number`th, and waits until the next one serves the frontend.
    fn kill(&self, number: usize) {
        kill(self.daemon.serving_pid(number), Signal::SIGKILL).unwrap();
        self.daemon.wait_for_count(AGAIN, number);
    }

    /// Ends the keeper, and looks whether the disk is what it has to be.
    fn end(self) -> String {
        let pids = self.daemon.serving_pids();
        let (status, log) = self.daemon.terminate();
        assert!(status.success(), "{log}");
        let last = *pids.last().unwrap();
        assert!(!Path::new(&format!("/proc/{last}")).exists(), "the serving process is left over");
        nvdimmctl_ok(&["check-namespace", self.file.to_str().unwrap()]);
        log
    }
}

fn write(guest: &mut RawGuest, ring: usize, sector: u64, byte: u8) {
    guest.put(DATA, &[byte; 4096]);
    assert_eq!(guest.request(ring, T_OUT, sector, Some(readable(DATA, 4096))), 0);
}

#[track_caller]
fn assert_holds(guest: &mut RawGuest, ring: usize, sector: u64, byte: u8) {
    guest.put(DATA, &[0xee; 4096]);
    assert_eq!(guest.request(ring, T_IN, sector, Some(writable(DATA, 4096))), 0);
    assert_eq!(guest.get(DATA, 4096), [byte; 4096]);
}

#[test]
fn a_frontend_is_served_by_one_process_after_another_over_one_connection() {
    let disk = Disk::new(&[]);
    let mut guest = disk.guest();
    for round in 1..=4u8 {
        write(&mut guest, 0, 8, round);
        write(&mut guest, 1, 16, round + 100);
        disk.kill(round.into());
        assert_holds(&mut guest, 1, 8, round);
        assert_holds(&mut guest, 0, 16, round + 100);
        assert_ne!(guest.raw.ask_number(GET_FEATURES), 0);
    }
    // A ring that was stopped stays so, and goes on where it was.
    let base = guest.stop_ring(1);
    disk.kill(5);
    let answer = guest.raw.ask(GET_VRING_BASE, &halves(&[1, 0])).unwrap();
    assert_eq!(answer, halves(&[1, base]));
    assert_holds(&mut guest, 0, 8, 4);
    drop(guest);
    // The next frontend is none that is handed over.
    let mut guest = disk.guest();
    assert_holds(&mut guest, 0, 8, 4);
    let log = disk.end();
    assert_eq!(log.matches(AGAIN).count(), 5, "{log}");
    assert!(!log.contains("refuse"), "{log}");
}

/// What a frontend may have said before the process ends: its first messages one by one, each with an end of the
/// process before the next, and with an answer that is still awaited where there is one.
#[test]
fn a_process_may_end_between_any_two_messages_and_before_any_answer() {
    let disk = Disk::new(&["--most-starts=1000"]);
    for awaits in [false, true] {
        let raw = Raw::connect(&disk.daemon.socket);
        let mut deaths = disk.daemon.serving_pids().len();
        let mut end = || {
            kill(disk.daemon.serving_pid(deaths), Signal::SIGKILL).unwrap();
            deaths += 1;
            disk.daemon.serving_pid(deaths);
        };
        // Stopped, a process takes messages and answers none; it is killed with the answer outstanding.
        let ask = |request: u32, flags: u32, body: &[u8], fds: &[_], end: &mut dyn FnMut()| {
            if awaits {
                let pid = disk.daemon.serving_pid(disk.daemon.serving_pids().len());
                kill(pid, Signal::SIGSTOP).unwrap();
            }
            assert!(raw.send(request, flags, body, fds));
            if awaits {
                end();
            }
            let answer = raw.receive().expect("an open connection");
            if !awaits {
                end();
            }
            answer
        };
        let number = |bytes: Vec<u8>| u64::from_ne_bytes(bytes.try_into().unwrap());
        raw.send(SET_OWNER, VERSION, &[], &[]);
        let features = number(ask(GET_FEATURES, VERSION, &[], &[], &mut end));
        let protocol = number(ask(GET_PROTOCOL_FEATURES, VERSION, &[], &[], &mut end));
        raw.send(SET_PROTOCOL_FEATURES, VERSION, &words(&[protocol]), &[]);
        let mut done = |request, body: &[u8], fds: &[_]| {
            let answer = ask(request, VERSION | NEED_REPLY, body, fds, &mut end);
            assert_eq!(answer, words(&[0]), "request {request}");
        };
        done(SET_FEATURES, &words(&[features & !(1 << 26)]), &[]);
        let memory = new_memory(MEMORY);
        done(SET_MEM_TABLE, &memory_table(&[[0, MEMORY, USER_BASE, 0]]), &[memory.as_fd()]);
        // Write-through, by the configuration space.
        done(SET_CONFIG, &[halves(&[32, 1, 0]), vec![0]].concat(), &[]);
        let (kick, call) = (new_eventfd(), new_eventfd());
        done(SET_VRING_NUM, &halves(&[0, 64]), &[]);
        done(SET_VRING_BASE, &halves(&[0, 0]), &[]);
        done(SET_VRING_ADDR, &addresses(0), &[]);
        done(SET_VRING_CALL, &words(&[0]), &[call.as_fd()]);
        done(SET_VRING_KICK, &words(&[0]), &[kick.as_fd()]);
        done(SET_VRING_ENABLE, &halves(&[0, 1]), &[]);
        let config = [halves(&[32, 1, 0]), vec![1]].concat();
        let answer = ask(GET_CONFIG, VERSION, &config, &[], &mut end);
        assert_eq!(answer[12..], [0], "the write cache is on");
        let mut guest = RawGuest::of_started_ring(raw, memory, kick, call);
        write(&mut guest, 0, 8, 7);
        end();
        assert_holds(&mut guest, 0, 8, 7);
    }
    let log = disk.end();
    assert!(!log.contains("refuse") && !log.contains("is disconnected"), "{log}");
}

#[test]
fn a_frontend_that_the_process_ends_with_is_told_so() {
    let disk = Disk::new(&[]);
    let mut guest = disk.guest();
    write(&mut guest, 0, 8, 1);
    // A request that cannot be answered.
    assert!(guest.raw.send(31, VERSION, &[], &[]));
    guest.raw.wait_until_closed();
    // Bytes that are no message do not even reach it.
    let raw = Raw::connect(&disk.daemon.socket);
    assert!(raw.send_bytes(&[0xff; 12], &[]));
    raw.wait_until_closed();
    assert_holds(&mut disk.guest(), 0, 8, 1);
    assert_eq!(disk.daemon.serving_pids().len(), 1);
    disk.end();
}

#[test]
fn a_second_frontend_is_served_when_the_first_has_gone_whichever_process_serves() {
    let disk = Disk::new(&[]);
    let mut first = disk.guest();
    write(&mut first, 0, 8, 3);
    let second = Raw::connect(&disk.daemon.socket);
    second.send(GET_FEATURES, VERSION, &[], &[]);
    let _third = UnixStream::connect(&disk.daemon.socket).unwrap();
    disk.kill(1);
    assert_holds(&mut first, 0, 8, 3);
    drop(first);
    assert!(second.receive().is_some());
    disk.end();
}

#[test]
fn another_program_takes_over_at_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let (program, next) = (folder.path().join("program"), folder.path().join("next"));
    fs::copy(env!("CARGO_BIN_EXE_vhost-user-btt"), &program).unwrap();
    let socket = file.with_extension("sock");
    let mut command = Command::new(&program);
    command.arg("--keeper").arg("--socket-path").arg(&socket).arg("--blk-file").arg(&file);
    let mut daemon = Daemon::spawn(command, socket);
    daemon.wait_for_log("serving ");
    let mut guest = RawGuest::start(&daemon.socket, 2);
    write(&mut guest, 0, 8, 9);
    // As a package manager replaces a program.
    fs::copy(env!("CARGO_BIN_EXE_vhost-user-btt"), &next).unwrap();
    fs::rename(&next, &program).unwrap();
    let inode = |pid: nix::unistd::Pid| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
    };
    let before = inode(daemon.serving_pid(1));
    kill(nix::unistd::Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGHUP).unwrap();
    daemon.wait_for_count(AGAIN, 1);
    assert_ne!(inode(daemon.serving_pid(2)), before);
    assert_holds(&mut guest, 1, 8, 9);
    let (status, log) = daemon.terminate();
    assert!(status.success() && log.contains("the serving process is replaced"), "{log}");
}

#[test]
fn a_process_that_ends_again_and_again_ends_the_keeper() {
    let disk = Disk::new(&["--most-starts=4"]);
    let mut guest = disk.guest();
    for number in 1..4 {
        disk.kill(number);
        assert_holds(&mut guest, 0, 8, 0);
    }
    kill(disk.daemon.serving_pid(4), Signal::SIGKILL).unwrap();
    let Disk { mut daemon, folder: _folder, .. } = disk;
    assert_eq!(daemon.wait().code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("was started 4 times within a minute"), "{log}");
    assert!(log.contains("the serving process is started again in 200 ms"), "{log}");
    assert!(log.contains("signal: 9"), "{log}");
    guest.raw.wait_until_closed();
    assert!(!daemon.socket.exists());
}

#[test]
fn what_is_wrong_with_the_first_start_is_said_and_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.arg("--keeper").args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    };
    let output = run(&["--socket-path", socket.to_str().unwrap(), "--nvdimm", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(log.matches("the serving process is ").count(), 1, "{log}");
    assert!(!socket.exists());
    assert_eq!(run(&["--nvdimm", "/nonexistent"]).status.code(), Some(2));
}

#[test]
fn the_serving_process_ends_with_its_keeper() {
    let disk = Disk::new(&[]);
    let mut guest = disk.guest();
    write(&mut guest, 0, 8, 1);
    let serving = disk.daemon.serving_pid(1);
    let Disk { daemon, file, folder: _folder } = disk;
    daemon.kill();
    guest.raw.wait_until_closed();
    let deadline = Instant::now() + PATIENCE;
    while kill(serving, None).is_ok() && !is_zombie(serving) {
        assert!(Instant::now() < deadline, "the serving process is left over");
        thread::sleep(Duration::from_millis(5));
    }
    nvdimmctl_ok(&["check-namespace", file.to_str().unwrap()]);
}

fn is_zombie(pid: nix::unistd::Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// The relay can neither open files nor start programs, and has no capabilities; the rest of the keeper starts the
/// process that serves.
#[test]
fn the_thread_that_talks_to_frontends_is_in_a_sandbox_of_its_own() {
    let disk = Disk::new(&["--sandbox=on"]);
    let folder = format!("/proc/{}/task", disk.daemon.pid());
    let mut relays = 0;
    for thread in fs::read_dir(folder).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        if field("Name:") == "relay" {
            relays += 1;
            assert_eq!((&*field("Seccomp:"), &*field("NoNewPrivs:")), ("2", "1"));
            assert_eq!(u64::from_str_radix(&field("CapEff:"), 16).unwrap(), 0);
        }
    }
    assert_eq!(relays, 1);
    disk.end();
}

/// Kills the process that serves at random, under load from a driver that cannot reconnect: nothing is lost, and
/// nothing is torn.
#[test]
fn a_driver_that_cannot_reconnect_loses_nothing_by_kills_and_upgrades_under_load() {
    let kills = number("KEEPER_KILLS", 5) as usize;
    let begun = Instant::now();
    let disk = Disk::new(&["--num-queues=2", "--most-starts=100000"]);
    let keeper = nix::unistd::Pid::from_raw(disk.daemon.pid().cast_signed());
    let shape = Shape { sector_size: 4096, queues: 2, zeroes: true, overlap: true, reads: true };
    let mut ledger = Ledger::new(0, 256);
    let mut random = Random::new(number("CRASH_SEED", 1));
    let mut waits: Vec<_> = (0..kills).map(|_| random.within(0..60_000)).collect();
    let mut load = Load::connect(&disk.daemon.socket, shape, &mut ledger);
    let (over, end) = std::io::pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for (number, wait) in (1..).zip(waits.drain(..)) {
                thread::sleep(Duration::from_micros(wait));
                if number % 5 == 0 {
                    kill(keeper, Signal::SIGHUP).unwrap();
                } else {
                    kill(disk.daemon.serving_pid(number), Signal::SIGKILL).unwrap();
                }
                disk.daemon.wait_for_count(AGAIN, number);
            }
            thread::sleep(Duration::from_millis(50));
            drop(end);
        });
        load.run_until(over.as_fd(), &mut random);
    });
    let acknowledged = load.acknowledged;
    drop(load);
    let mut load = Load::connect(&disk.daemon.socket, shape, &mut ledger);
    assert_eq!(load.check_all(), Vec::<Violation>::new());
    drop(load);
    let log = disk.end();
    assert!(!log.contains("refuse"), "{log}");
    assert!(acknowledged > 0, "there was no load");
    let seconds = begun.elapsed().as_secs();
    figures(&format!(
        "keeper kills={kills} acknowledged={acknowledged} violations=0 {} seconds={seconds}",
        stalls(&log)
    ));
}

/// The median and the longest of the times in the log: from the end of a process, and from when the next could
/// serve.
fn stalls(log: &str) -> String {
    let times = |before: &str| {
        let found = log.split(before).skip(1);
        let mut found: Vec<f64> =
            found.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect();
        found.sort_by(f64::total_cmp);
        (found[found.len() / 2], found[found.len() - 1])
    };
    let ((whole, most), (own, most_own)) =
        (times("is served again, "), times("of the process before, and "));
    format!("stall_ms={whole:.1}/{most:.1} beyond_start_ms={own:.1}/{most_own:.1}")
}
