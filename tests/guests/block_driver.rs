//! QEMU's own block driver for vhost-user disks, virtio-blk-vhost-user, which is libblkio's: a frontend without a guest.

use std::path::Path;
use std::process::Command;

use crate::harness::{Daemon, Tool, scratch};

/// Runs commands of qemu-io on the disk that is served at `socket`.
#[track_caller]
fn qemu_io(socket: &Path, commands: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/qemu-io");
    assert!(program.exists(), "no {}: run qemu/fetch-block-driver", program.display());
    let options = format!("driver=virtio-blk-vhost-user,cache.direct=on,path={}", socket.display());
    let mut command = Command::new(program);
    command.args(["--image-opts", &options]);
    for one in commands {
        command.args(["-c", one]);
    }
    let output = command.output().expect("qemu-io");
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaint}");
    // A pattern that is not there is reported, and changes the exit status of newer versions only.
    assert!(!said.contains("Pattern verification failed"), "{said}");
}

#[test]
fn qemus_block_driver_reads_writes_and_comes_again() {
    let scratch = scratch();
    let file = scratch.path().join("disk.nvdimm");
    Tool::on(&file).create_disk("32M", 4096);
    let daemon = Daemon::start(&file, 2);
    let socket = &daemon.sockets()[0];
    let writes = [
        "write -P 7 0 64k",
        "write -P 9 4096 4096",
        "write -z 16384 8192",
        "discard 32768 4096",
        "flush",
    ];
    qemu_io(socket, &writes);
    qemu_io(
        socket,
        &[
            "read -P 7 0 4096",
            "read -P 9 4096 4096",
            "read -P 7 8192 8192",
            "read -P 0 16384 8192",
            "read -P 7 24576 8192",
            "read -P 0 32768 4096",
            "read -P 7 36864 28672",
        ],
    );
    daemon.stop();
    Tool::on(&file).assert_clean();
    let mut expected = vec![7; 65536];
    expected[4096..8192].fill(9);
    expected[16384..24576].fill(0);
    expected[32768..36864].fill(0);
    assert_eq!(Tool::on(&file).export()[..65536], expected);
}
