//! The process that serves dies under a running guest, and a keeper holds the guest's disk meanwhile.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::back_end_killed::WRITE_IN_ROUNDS;
use crate::harness::{Daemon, Guest, Tool, programs, scratch};
use crate::seeds;
use crate::windows::{make, place};

/// The process that serves, which the keeper has just started.
fn serving(daemon: &mut Daemon) -> Pid {
    let line = daemon.wait_for_line("the serving process is ");
    let pid = line.rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a number");
    Pid::from_raw(pid)
}

/// Kills it, and waits until the next one serves the guest.
fn kill_serving(daemon: &mut Daemon, pid: Pid) -> Pid {
    kill(pid, Signal::SIGKILL).expect("a process that serves");
    let next = serving(daemon);
    daemon.wait_for_line("the frontend is served again");
    next
}

/// The guest writes; `GUEST_KILLS` in each of its five rounds.
#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_guest_does_not_notice_that_the_process_is_killed_while_it_writes() {
    let kills = seeds::number("GUEST_KILLS", 1);
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let mut daemon = Daemon::start_with(&file, 2, &["--keeper", "--most-starts=100000"]);
    let mut pid = serving(&mut daemon);
    let mut guest = Guest::machine(scratch.path()).cpus(2).disk(&daemon).boot(WRITE_IN_ROUNDS);
    for round in 1..=5 {
        assert_eq!(guest.wait_for("writing"), round.to_string());
        for _ in 0..kills {
            pid = kill_serving(&mut daemon, pid);
        }
        assert_eq!(guest.wait_for("written"), round.to_string());
    }
    let seen_by_guest = guest.wait_for("disk");
    guest.finish();
    daemon.stop();
    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), seen_by_guest);
}

const USE_WINDOW: &str = r"
/opt/guest-load window 0 put 16777214 across
random 64k >/tmp/sectors
dd if=/tmp/sectors of=/dev/vda oflag=direct bs=64k 2>/dev/null
say before
/opt/guest-load window 0 wait 4194304 fromhost
/opt/guest-load window 0 put 8388600 thelast8
dd if=/dev/vda iflag=direct bs=64k count=1 2>/dev/null | cmp - /tmp/sectors
no_disk_errors
";

/// QEMU 11.1, whose device with windows cannot reconnect.
#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_guest_keeps_its_window_when_the_process_is_killed() {
    let scratch = scratch();
    let file = make(scratch.path());
    let socket = file.with_extension("disk");
    let disk = format!("--disk=socket={},namespace=disk", socket.display());
    let options = [disk, "--window=data".into(), "--keeper".into()];
    let mut daemon = Daemon::start_devices(&file, &options, vec![socket.clone()]);
    let mut pid = serving(&mut daemon);
    let mut guest = Guest::windows_machine(scratch.path())
        .initramfs(&programs())
        .windows_at(&socket)
        .boot(USE_WINDOW);
    guest.wait_for("put");
    guest.wait_for("before");
    for _ in 0..3 {
        pid = kill_serving(&mut daemon, pid);
    }
    let open = File::options().read(true).write(true).open(&file).expect("the file");
    open.write_all_at(b"fromhost", place(&file, 4 << 20)).expect("written bytes");
    guest.wait_for("found");
    guest.wait_for("put");
    let mut bytes = [0; 8];
    open.read_exact_at(&mut bytes, place(&file, (8 << 20) - 8)).expect("bytes");
    assert_eq!(&bytes, b"thelast8");
    guest.finish();
    daemon.stop();
    Tool::on(&file).namespace("disk").assert_clean();
    Tool::on(&file).dax("check", &[]);
}
