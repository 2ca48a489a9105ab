//! A guest that has chosen write-through counts on every write, whatever becomes of the back end.

use crate::harness::{Daemon, Guest, Tool, scratch};
use crate::syncs::Syncs;

/// Writes one sector after another, in write-through mode. The second lot takes long enough for the back
/// end to be killed in the middle of it.
const WRITE: &str = r#"
cache_type=$(find /sys/devices -path '*/vda/cache_type')
write() { dd if=/dev/zero of=/dev/vda bs=4k count="$1" oflag=direct conv=notrunc 2>/dev/null; }
echo 'write through' >"$cache_type"
say mode "$(cat "$cache_type")"
write 9
say before
write 2000
say after
echo 'write back' >"$cache_type"
say mode "$(cat "$cache_type")"
write 500
say cached
no_disk_errors
"#;

#[test]
fn a_guest_that_chose_write_through_has_every_write_synced_after_its_back_end_was_killed() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let syncs = Syncs::of(&file);
    let daemon = Daemon::start_with_syncs(&file, 1, &syncs);

    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(WRITE);
    assert_eq!(guest.wait_for("mode"), "write through");
    guest.wait_for("before");
    let daemon = daemon.kill_and_restart();
    let (after, ()) = syncs.during(|| drop(guest.wait_for("after")));
    let all = syncs.count();
    assert!(all >= 2009, "{all} syncs for 2009 writes");
    assert!(after > 0, "the back end was killed after the last write");
    assert_eq!(guest.wait_for("mode"), "write back");
    let (cached, ()) = syncs.during(|| drop(guest.wait_for("cached")));
    assert!(cached < 100, "{cached} syncs for 500 writes that need none");
    println!(
        "figures: write-through writes=2009 syncs={all} after-the-kill={after} cached={cached}"
    );
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
}
