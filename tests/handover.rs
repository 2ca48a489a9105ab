//! Two daemons serve one disk to the two ends of a migration (`--claim=running`): at no time do both have the
//! claim, and one of them has it whenever rings run.

mod common;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use common::daemon::{Daemon, make_namespace, nvdimmctl, nvdimmctl_ok};
use common::frontend::{T_FLUSH, T_IN, T_OUT, readable, writable};
use common::raw::{
    DATA, GET_FEATURES, MEMORY, NEED_REPLY, Raw, RawGuest, SET_FEATURES, SET_MEM_TABLE,
    SET_VRING_ENABLE, USER_BASE, VERSION, halves, memory_table, words,
};

const GET_CONFIG: u32 = 24;
const F_LOG_ALL: u64 = 1 << 26;

struct Place {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        Place { _folder: folder, file }
    }

    /// A daemon that listens on the socket `name`.
    fn serve(&self, name: &str) -> Daemon {
        let socket = self.file.with_extension(name);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
        command.args(["--claim=running", "--num-queues=2", "--socket-path"]).arg(&socket);
        command.arg("--nvdimm").arg(&self.file);
        let mut daemon = Daemon::spawn(command, socket);
        daemon.wait_for_log("serving");
        daemon
    }

    /// The number of the process that has the claim.
    fn holder(&self) -> Option<u32> {
        let image = self.file.with_extension("image");
        let output = nvdimmctl(&["export", text(&self.file), text(&image)]);
        // There is none if the disk is claimed.
        let _ = std::fs::remove_file(image);
        let message = String::from_utf8(output.stderr).unwrap();
        let (_, rest) = message.split_once("(pid ")?;
        rest.split(')').next()?.parse().ok()
    }

    fn check(&self) {
        nvdimmctl_ok(&["check-namespace", text(&self.file)]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A frontend with memory of another one, whose rings are stopped; all but their start.
fn incoming(daemon: &Daemon, source: &RawGuest) -> RawGuest {
    let raw = Raw::connect(&daemon.socket);
    raw.negotiate();
    // As QEMU does when the device is realized.
    let config = raw.ask(GET_CONFIG, &[halves(&[0, 60, 0]), vec![0; 60]].concat()).unwrap();
    assert!(u64::from_ne_bytes(config[12..20].try_into().unwrap()) > 1000);
    let memory = source.memory.try_clone().unwrap();
    let table = memory_table(&[[0, MEMORY, USER_BASE, 0]]);
    assert!(raw.call(SET_MEM_TABLE, &table, &[memory.as_fd()]));
    RawGuest::on(raw, memory, true)
}

/// Stops the rings of `source`, which has as many as `bases` gets.
fn stop(source: &RawGuest) -> Vec<(u32, u16)> {
    (0..2).map(|ring| (source.stop_ring(ring), source.offered(ring as usize))).collect()
}

fn go_on(guest: &mut RawGuest, rings: &[(u32, u16)]) {
    for (base, offered) in rings {
        guest.restore_next_ring(*base, *offered);
    }
}

fn write(guest: &mut RawGuest, ring: usize, sector: u64, byte: u8) {
    guest.put(DATA, &[byte; 4096]);
    assert_eq!(guest.request(ring, T_OUT, sector, Some(readable(DATA, 4096))), 0);
}

#[track_caller]
fn assert_holds(guest: &mut RawGuest, sector: u64, byte: u8) {
    guest.put(DATA, &[0xee; 4096]);
    assert_eq!(guest.request(0, T_IN, sector, Some(writable(DATA, 4096))), 0);
    assert_eq!(guest.get(DATA, 4096), [byte; 4096]);
}

#[test]
fn a_disk_goes_to_another_daemon_and_back_with_the_rings_that_run() {
    let place = Place::new();
    let daemons = [place.serve("one"), place.serve("two")];
    assert_eq!(place.holder(), None, "nothing runs");
    let mut guest = RawGuest::start(&daemons[0].socket, 2);
    for round in 1..=10u8 {
        let [from, to] = if round % 2 == 1 { [0, 1] } else { [1, 0] };
        assert_eq!(place.holder(), Some(daemons[from].pid()));
        write(&mut guest, 0, 8, round);
        write(&mut guest, 1, 16, round);
        let mut next = incoming(&daemons[to], &guest);
        assert_eq!(place.holder(), Some(daemons[from].pid()), "nothing runs there yet");
        let rings = stop(&guest);
        assert_eq!(place.holder(), None);
        go_on(&mut next, &rings);
        assert_eq!(place.holder(), Some(daemons[to].pid()));
        assert_holds(&mut next, 8, round);
        assert_holds(&mut next, 16, round);
        assert_eq!(next.request(1, T_FLUSH, 0, None), 0);
        guest = next;
    }
    drop(guest);
    for daemon in daemons {
        assert!(daemon.terminate().0.success());
    }
    place.check();
}

#[test]
fn rings_do_not_start_while_another_daemon_has_the_disk() {
    let place = Place::new();
    let (source, destination) = (place.serve("one"), place.serve("two"));
    let mut guest = RawGuest::start(&source.socket, 2);
    write(&mut guest, 0, 8, 1);
    // A destination that starts too early is told so, and the source goes on.
    let mut early = incoming(&destination, &guest);
    let ring = early.set_up_ring_anew();
    assert!(!early.raw.call(SET_VRING_ENABLE, &halves(&[ring, 1]), &[]));
    destination.wait_for_count("refused: ring 0: it cannot run", 1);
    destination.wait_for_count("is busy", 1);
    write(&mut guest, 0, 8, 2);
    // A frontend that does not ask whether it was done loses its connection.
    let mut silent = incoming(destination_after(&destination, early), &guest);
    let ring = silent.set_up_ring_anew();
    assert!(silent.raw.send(SET_VRING_ENABLE, VERSION, &halves(&[ring, 1]), &[]));
    silent.raw.wait_until_closed();
    assert_holds(&mut guest, 8, 2);
    // A migration that is cancelled: the source takes the disk back.
    let rings = stop(&guest);
    assert_eq!(place.holder(), None);
    let mut again = guest.with_rings_stopped();
    go_on(&mut again, &rings);
    assert_eq!(place.holder(), Some(source.pid()));
    assert_holds(&mut again, 8, 2);
    // A device that was reset, and a frontend that has gone, hold nothing.
    drop(again);
    let mut next = RawGuest::start(&destination.socket, 2);
    assert_holds(&mut next, 8, 2);
    assert!(next.raw.call(34, &[], &[]), "RESET_DEVICE");
    assert_eq!(place.holder(), None);
    place.check();
}

/// The frontend has gone, and the daemon serves the next.
fn destination_after(daemon: &Daemon, guest: RawGuest) -> &Daemon {
    drop(guest);
    daemon
}

/// The steps of a migration, one after another, and the daemons that may have the claim after each.
#[test]
fn either_daemon_may_be_killed_after_any_step_and_the_other_can_have_the_disk() {
    for (step, victim) in (0..6).flat_map(|step| [(step, 0), (step, 1)]) {
        let place = Place::new();
        let (source, destination) = (place.serve("one"), place.serve("two"));
        let mut guest = RawGuest::start(&source.socket, 2);
        write(&mut guest, 0, 8, 1);
        let mut daemons = [Some(source), Some(destination)];
        let mut next = None;
        let mut rings = Vec::new();
        for at in 0..=step {
            match at {
                0 => {}
                1 => next = Some(incoming(daemons[1].as_ref().unwrap(), &guest)),
                2 => rings.push((guest.stop_ring(0), guest.offered(0))),
                3 => rings.push((guest.stop_ring(1), guest.offered(1))),
                4 => next.as_mut().unwrap().restore_next_ring(rings[0].0, rings[0].1),
                _ => next.as_mut().unwrap().restore_next_ring(rings[1].0, rings[1].1),
            }
        }
        let holder = match step {
            0..=2 => Some(0),
            3 => None,
            _ => Some(1),
        };
        let pid = |of: usize, daemons: &[Option<Daemon>; 2]| daemons[of].as_ref().unwrap().pid();
        assert_eq!(place.holder(), holder.map(|of| pid(of, &daemons)), "step {step}");
        daemons[victim].take().unwrap().kill();
        let left = 1 - victim;
        let expected = holder.filter(|of| *of == left).map(|of| pid(of, &daemons));
        assert_eq!(place.holder(), expected, "step {step}, {victim} killed");
        // The guest goes on where it is, or at the other daemon.
        drop((guest, next));
        let survivor = daemons[left].as_ref().unwrap();
        let mut guest = RawGuest::start(&survivor.socket, 2);
        assert_holds(&mut guest, 8, 1);
        write(&mut guest, 1, 8, 2);
        assert_eq!(guest.request(0, T_FLUSH, 0, None), 0);
        drop(guest);
        drop(daemons);
        place.check();
    }
}

#[test]
fn rings_that_are_enabled_by_features_have_the_claim_too() {
    let place = Place::new();
    let (one, two) = (place.serve("one"), place.serve("two"));
    let holder = RawGuest::start(&one.socket, 1);
    // Without protocol features, rings are enabled from the beginning: that is, with their kick.
    let mut early = incoming(&two, &holder);
    let features = early.raw.ask_number(GET_FEATURES) & !F_LOG_ALL;
    let without = features & !(1 << 30);
    early.set_up_ring_anew();
    assert!(early.raw.send(SET_FEATURES, VERSION | NEED_REPLY, &words(&[without]), &[]));
    assert_ne!(early.raw.receive().unwrap(), words(&[0]));
    assert_eq!(place.holder(), Some(one.pid()));
}
