//! Who may connect to the sockets that the daemon makes.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::daemon::{Daemon, make_namespace};

/// Modes of the sockets of a disk and for control, made under `umask`.
fn modes(umask: &str) -> [u32; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let sockets = ["disk", "control"].map(|name| folder.path().join(name));
    let mut command = Command::new("sh");
    command.args(["-c", "umask $0; exec \"$@\"", umask, env!("CARGO_BIN_EXE_vhost-user-btt")]);
    command.arg("--nvdimm").arg(file).arg("--socket-path").arg(&sockets[0]);
    command.arg("--control").arg(&sockets[1]);
    let mut daemon = Daemon::spawn(command, sockets[0].clone());
    daemon.wait_for_log("an administrator may ask here");
    let mode = |socket: &Path| socket.metadata().unwrap().permissions().mode() & 0o777;
    sockets.each_ref().map(|socket| mode(socket))
}

#[test]
fn sockets_are_for_their_owner_and_what_the_umask_leaves_of_the_group() {
    assert_eq!(modes("000"), [0o660; 2]);
    assert_eq!(modes("007"), [0o660; 2]);
    assert_eq!(modes("022"), [0o640; 2]);
    assert_eq!(modes("077"), [0o600; 2]);
}
