//! A guest is saved while it writes, and goes on in another QEMU.
//!
//! QEMU reads the pages of a running guest by the log of the daemon, as in a migration to another host. One that
//! is lost is found by the guest: what it reads back differs, or its ring is broken.

use std::path::{Path, PathBuf};

use crate::back_end_killed::WRITE_IN_ROUNDS;
use crate::harness::{Daemon, Guest, Qmp, Tool, scratch};
use crate::seeds;

/// Rounds of [`WRITE_IN_ROUNDS`].
const ROUNDS: u64 = 5;

/// Saves the guest to `state` in the middle of its writes, and restores it.
fn move_guest(guest: Guest, daemon: &mut Daemon, folder: &Path, number: u64) -> Guest {
    let [state, new] = ["state", "qmp"].map(|name| folder.join(format!("{name}-{number}")));
    let old = folder.join(format!("qmp-{}", number - 1));
    let saved = Qmp::connect(&old).migrate(&format!("exec:cat >{}", state.display()));
    assert_eq!(saved, "completed");
    daemon.wait_for_line("writes to guest memory are logged");
    guest.kill();
    let incoming = ["-incoming".to_owned(), format!("exec:cat {}", state.display())];
    let arguments = [Qmp::arguments(&new), incoming.to_vec()].concat();
    Guest::machine(folder).disk(daemon).arguments(&arguments).resume(WRITE_IN_ROUNDS)
}

#[test]
fn a_guest_that_writes_is_saved_and_restored_and_a_failed_migration_goes_back() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let mut daemon = Daemon::start(&file, 1);
    let first = scratch.path().join("qmp-0");
    let arguments = Qmp::arguments(&first);
    let machine = Guest::machine(scratch.path()).disk(&daemon).arguments(&arguments);
    let mut guest = machine.boot(WRITE_IN_ROUNDS);
    assert_eq!(guest.wait_for("writing"), "1");
    // The other side goes away in the middle.
    let failed = Qmp::connect(&first).migrate("exec:head -c 20000000 >/dev/null");
    assert_eq!(failed, "failed");
    daemon.wait_for_line("writes to guest memory are logged");
    daemon.wait_for_line("writes to guest memory are not logged any more");
    assert_eq!(guest.wait_for("written"), "1");
    let moves = seeds::number("GUEST_MOVES", 1).min(ROUNDS - 1);
    for round in 2..=ROUNDS {
        assert_eq!(guest.wait_for("writing"), round.to_string());
        if round < 2 + moves {
            guest = move_guest(guest, &mut daemon, scratch.path(), round - 1);
        }
        assert_eq!(guest.wait_for("written"), round.to_string());
    }
    let seen_by_guest = guest.wait_for("disk");
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), seen_by_guest);
}

/// Four writers fill 16 MiB anew in each of `rounds` rounds, and what was written is compared.
fn write_rounds(rounds: u64) -> String {
    let all = (1..=rounds).map(|round| round.to_string()).collect::<Vec<_>>().join(" ");
    WRITE_IN_ROUNDS.replace("1 2 3 4 5", &all)
}

/// A guest, the daemon that serves it, and the socket of its QEMU's management.
struct Moving<'a> {
    folder: &'a Path,
    daemons: [Daemon; 2],
    /// Which of them serves it.
    at: usize,
    qmp: PathBuf,
    number: u64,
}

impl Moving<'_> {
    /// Another QEMU, which waits for the guest at the other daemon.
    fn incoming(&mut self, script: &str) -> (Guest, PathBuf, String) {
        self.number += 1;
        let [qmp, way] =
            ["qmp", "way"].map(|name| self.folder.join(format!("{name}-live-{}", self.number)));
        let uri = format!("unix:{}", way.display());
        let incoming = ["-incoming".to_owned(), uri.clone()];
        let arguments = [Qmp::arguments(&qmp), incoming.to_vec()].concat();
        let machine = Guest::machine(self.folder).disk(&self.daemons[1 - self.at]);
        (machine.arguments(&arguments).resume(script), qmp, uri)
    }

    /// Moves the running guest to the other daemon.
    fn live(&mut self, old: Guest, script: &str) -> Guest {
        let (mut guest, qmp, uri) = self.incoming(script);
        // It listens for the guest before it can be asked anything.
        drop(Qmp::connect(&qmp));
        assert_eq!(Qmp::connect(&self.qmp).migrate(&uri), "completed");
        self.daemons[self.at].wait_for_line("the claim is given up, as no ring runs");
        self.at = 1 - self.at;
        self.daemons[self.at].wait_for_line("the disk is claimed, as its rings run");
        guest.succeed(old);
        self.qmp = qmp;
        guest
    }
}

/// `GUEST_MOVES` moves, each in the middle of a round; before the first, one that fails.
#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_guest_that_writes_moves_between_two_daemons_on_one_file() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let daemons = ["one", "two"].map(|name| Daemon::start_at(&file, name, 1, &["--claim=running"]));
    let moves = seeds::number("GUEST_MOVES", 1);
    let script = write_rounds(moves + 1);
    let qmp = scratch.path().join("qmp-live-0");
    let mut moving = Moving { folder: scratch.path(), daemons, at: 0, qmp, number: 0 };
    let arguments = Qmp::arguments(&moving.qmp);
    let machine = Guest::machine(scratch.path()).disk(&moving.daemons[0]).arguments(&arguments);
    let mut guest = machine.boot(&script);
    assert_eq!(guest.wait_for("writing"), "1");
    // The other side goes away in the middle.
    let failed = Qmp::connect(&moving.qmp).migrate("exec:head -c 20000000 >/dev/null");
    assert_eq!(failed, "failed");
    assert_eq!(guest.wait_for("written"), "1");
    for round in 2..=moves + 1 {
        assert_eq!(guest.wait_for("writing"), round.to_string());
        guest = moving.live(guest, &script);
        assert_eq!(guest.wait_for("written"), round.to_string());
    }
    let seen_by_guest = guest.wait_for("disk");
    guest.finish();
    moving.daemons.into_iter().for_each(Daemon::stop);
    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), seen_by_guest);
}

/// To another host, that is to a copy of the file: the guest is stopped, the file copied, and the guest goes on
/// at the copy.
#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_guest_goes_on_at_a_copy_of_its_disk() {
    let scratch = scratch();
    let [file, copy] = ["disk.nvdimm", "copy.nvdimm"].map(|name| scratch.path().join(name));
    Tool::on(&file).create_disk("32M", 4096);
    let daemon = Daemon::start_with(&file, 1, &["--claim=running"]);
    let qmp = scratch.path().join("qmp-copied-0");
    let arguments = Qmp::arguments(&qmp);
    let machine = Guest::machine(scratch.path()).disk(&daemon).arguments(&arguments);
    let script = write_rounds(2);
    let mut guest = machine.boot(&script);
    assert_eq!(guest.wait_for("written"), "1");
    assert_eq!(guest.wait_for("writing"), "2");
    let state = scratch.path().join("state-copied");
    let saved = Qmp::connect(&qmp).migrate(&format!("exec:cat >{}", state.display()));
    assert_eq!(saved, "completed");
    std::fs::copy(&file, &copy).expect("a copy");
    let elsewhere = Daemon::start_at(&copy, "elsewhere", 1, &[]);
    let incoming = ["-incoming".to_owned(), format!("exec:cat {}", state.display())];
    let machine = Guest::machine(scratch.path()).disk(&elsewhere).arguments(&incoming);
    let mut next = machine.resume(&script);
    next.succeed(guest);
    assert_eq!(next.wait_for("written"), "2");
    let seen_by_guest = next.wait_for("disk");
    next.finish();
    daemon.stop();
    elsewhere.stop();
    Tool::on(&copy).assert_clean();
    assert_eq!(Tool::on(&copy).sha256_of_export(), seen_by_guest);
}
