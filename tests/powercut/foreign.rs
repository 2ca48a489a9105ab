//! Logs of others: QEMU's blklogwrites, made by plain qemu-io, and dm-log-writes, made here from its format. QEMU takes a
//! log of ours for one of its own.

use std::fs;
use std::process::Command;

use crate::format::{FLUSH, FUA, MARK, read, replay};
use crate::setup::{Place, SIZE};

/// The pointer at 4096 is there without its data.
const CHECK: &str = r#"[ "$(od -An -tu1 -j4096 -N1 "$1" | tr -d ' ')" = 0 ] || [ "$(od -An -tu1 -j51200 -N1 "$1" | tr -d ' ')" = 1 ]"#;

/// Has QEMU log what it does; `append` to what is in the log.
fn qemu_io(place: &Place, append: bool, commands: &[&str]) {
    let options = format!(
        "driver=blklogwrites,file.driver=file,file.filename={},log.driver=file,log.filename={},{}",
        place.path("disk.raw").display(),
        place.path("log").display(),
        if append { "log-append=on" } else { "log-sector-size=512" }
    );
    let mut command = Command::new("qemu-io");
    command.args(["--image-opts", &options]);
    for each in commands {
        command.args(["-c", each]);
    }
    let output = command.output().expect("qemu-io, of qemu-utils");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_log_of_qemu_is_read_and_its_states_are_checked() {
    let place = Place::new();
    fs::write(place.path("log"), b"").unwrap();
    let commands = [
        "write -P 1 51200 4096",
        "write -P 1 4096 512",
        "flush",
        "write -P 2 55296 4096",
        "write -z 8192 1024",
        "flush",
    ];
    qemu_io(&place, false, &commands);

    let (size, entries) = read(&place.path("log"));
    let mut disk = vec![0; SIZE as usize];
    replay(size, &entries, &mut disk);
    assert!(disk == place.disk());
    assert!(entries.iter().any(|entry| entry.flags & FLUSH != 0), "{entries:?}");

    let found = place.states(&["--model", "drop-1"], CHECK);
    found.assert_failed();
    assert!(found.said.contains("dropping only sector 100"), "{}", found.said);
    place.states(&["--model", "prefix"], CHECK).assert_clean();
}

#[test]
fn qemu_appends_to_a_log_of_ours() {
    let place = Place::new();
    place.record(|guest, mark| {
        guest.write(0, &[1; 4096]);
        guest.flush();
        mark("first");
        guest.write(9, &[2; 512]);
    });
    let before = read(&place.path("log")).1;
    qemu_io(&place, true, &["write -P 3 1024 512", "flush"]);
    let (size, entries) = read(&place.path("log"));
    assert_eq!(entries[..before.len()], before);
    assert!(entries[before.len()..].iter().any(|entry| entry.data == [3; 512]), "{entries:?}");
    let mut disk = vec![0; SIZE as usize];
    replay(size, &entries, &mut disk);
    assert!(disk == place.disk());
    place.states(&["--model", "drop-1"], "true").assert_clean();
}

/// `METADATA` of dm-log-writes.
const METADATA: u64 = 16;

/// A log as the kernel's dm-log-writes leaves it (drivers/md/dm-log-writes.c): `log_write_super` and `log_write_entry`,
/// each in a sector of its own.
fn log_of_dm(entries: &[(u64, &[u8], u64)]) -> Vec<u8> {
    let sector = |words: &[u64]| {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    };
    let mut log = sector(&[0x006a_7366_7773_6872, 1, entries.len() as u64, 512]);
    for (at, data, flags) in entries {
        if flags & MARK == 0 {
            log.extend(sector(&[*at, data.len() as u64 / 512, *flags, 0]));
            log.extend(*data);
        } else {
            let mut head = sector(&[0, 0, *flags, data.len() as u64]);
            head[32..32 + data.len()].copy_from_slice(data);
            log.extend(head);
        }
    }
    log
}

#[test]
fn a_log_of_dm_log_writes_has_a_barrier_where_a_durable_write_flushes() {
    for (flags, code) in [(FLUSH | FUA | METADATA, 0), (FUA | METADATA, 1)] {
        let place = Place::new();
        let log = log_of_dm(&[
            (100, &[1; 4096], 0),
            (8, &[1; 512], flags),
            (0, b"dm-log-writes-end", MARK),
        ]);
        fs::write(place.path("log"), log).unwrap();
        let found = place.states(&["--model", "drop-1"], CHECK);
        assert_eq!(found.code, code, "{found:?}");
        if code == 1 {
            assert!(found.said.contains("dropping only sector 100"), "{}", found.said);
        }
    }
}
