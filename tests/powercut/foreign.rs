//! Logs of others: QEMU's blklogwrites, made by plain qemu-io.

use std::fs;
use std::process::Command;

use crate::format::{FLUSH, read, replay};
use crate::setup::{Place, SIZE};

#[test]
fn a_log_of_qemu_is_read_and_its_states_are_checked() {
    let place = Place::new();
    fs::write(place.path("log"), b"").unwrap();
    let options = format!(
        "driver=blklogwrites,file.driver=file,file.filename={},log.driver=file,log.filename={},\
         log-sector-size=512",
        place.path("disk.raw").display(),
        place.path("log").display()
    );
    let commands = [
        "write -P 1 51200 4096",
        "write -P 1 4096 512",
        "flush",
        "write -P 2 55296 4096",
        "write -z 8192 1024",
        "flush",
    ];
    let mut command = Command::new("qemu-io");
    command.args(["--image-opts", &options]);
    for each in commands {
        command.args(["-c", each]);
    }
    let output = command.output().expect("qemu-io, of qemu-utils");
    assert!(output.status.success(), "{output:?}");

    let (size, entries) = read(&place.path("log"));
    let mut disk = vec![0; SIZE as usize];
    replay(size, &entries, &mut disk);
    assert!(disk == place.disk());
    assert!(entries.iter().any(|entry| entry.flags & FLUSH != 0), "{entries:?}");

    // The pointer at 4096 is there without its data.
    let check = r#"[ "$(od -An -tu1 -j4096 -N1 "$1" | tr -d ' ')" = 0 ] || [ "$(od -An -tu1 -j51200 -N1 "$1" | tr -d ' ')" = 1 ]"#;
    let found = place.states(&["--model", "drop-1"], check);
    found.assert_failed();
    assert!(found.said.contains("dropping only sector 100"), "{}", found.said);
    place.states(&["--model", "prefix"], check).assert_clean();
}
