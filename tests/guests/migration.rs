//! A guest is saved while it writes, and goes on in another QEMU.
//!
//! QEMU reads the pages of a running guest by the log of the daemon, as in a migration to another host. One that
//! is lost is found by the guest: what it reads back differs, or its ring is broken.

use std::path::Path;

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
