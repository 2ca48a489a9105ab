//! What is recorded, by a reader of its own.

use crate::common::daemon::Daemon;
use crate::common::driver::Disk;
use crate::common::frontend::{Driver, OK, T_DISCARD, T_WRITE_ZEROES};
use crate::format::{DISCARD, FLUSH, FUA, Logged, MARK, read, replay};
use crate::setup::{Place, SIZE, powercut, text};

/// Where the first entry with a text is.
fn position(entries: &[Logged], text: &str) -> usize {
    entries.iter().position(|entry| entry.text == text).unwrap()
}

#[test]
fn a_recording_replayed_is_the_image_and_marks_are_behind_what_was_flushed_before_them() {
    let place = Place::new();
    place.record(|guest, mark| {
        guest.write(0, &[1; 4096]);
        guest.write(100, &[2; 512]);
        guest.flush();
        mark("first");
        guest.write(0, &[3; 512]);
        assert_eq!(guest.driver.clear(T_WRITE_ZEROES, &[(2, 2, 0)]), OK);
        assert_eq!(guest.driver.clear(T_DISCARD, &[(4, 2, 0)]), OK);
        guest.flush();
        mark("second");
        guest.write(7, &[4; 512]);
    });
    let (size, entries) = read(&place.path("log"));
    assert_eq!(size, 512);
    let mut disk = vec![0; SIZE as usize];
    replay(size, &entries, &mut disk);
    assert!(disk == place.disk());
    assert_eq!((disk[0], disk[512], disk[1024], disk[2048], disk[3584]), (3, 1, 0, 0, 4));

    let flags: Vec<u64> = entries.iter().map(|entry| entry.flags).collect();
    assert_eq!(flags, [MARK, 0, 0, FLUSH, MARK, 0, 0, DISCARD, FLUSH, MARK, 0]);
    assert!(entries[0].text.starts_with("powercut base="), "{entries:?}");
    assert_eq!((position(&entries, "first"), position(&entries, "second")), (4, 9));
}

/// Long data are written to the log from where they are, many at a time; short ones are copied between them.
#[test]
fn many_writes_of_all_lengths_between_two_flushes_are_recorded_in_their_order() {
    let place = Place::new();
    let lengths = [512, 20 << 10, 4096, 64 << 10, 16 << 10];
    place.record(|guest, _| {
        for number in 0..700 {
            let data = vec![(number % 251) as u8 + 1; lengths[number % lengths.len()]];
            guest.write(number as u64 % 128 * 15, &data);
        }
        guest.flush();
        guest.write(3, &[0x77; 512]);
    });
    let (size, entries) = read(&place.path("log"));
    let mut disk = vec![0; SIZE as usize];
    replay(size, &entries, &mut disk);
    assert!(disk == place.disk());
    let sectors: Vec<u64> = entries[1..701].iter().map(|entry| entry.sectors).collect();
    let expected = lengths.iter().cycle().take(700).map(|length| *length as u64 / 512);
    assert_eq!(sectors, expected.collect::<Vec<u64>>());
    assert_eq!(entries[701].flags, FLUSH);
}

#[test]
fn a_disk_without_a_write_cache_records_writes_that_are_durable() {
    let place = Place::new();
    let log = place.path("log");
    let (daemon, mut guest) = place.serve(&["--record", text(&log), "--write-cache", "none"]);
    guest.write(5, &[9; 1024]);
    drop(guest);
    daemon.kill();
    let (_, entries) = read(&log);
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[1].sector, entries[1].sectors, entries[1].flags), (5, 2, FUA));
    assert!(place.disk()[5 * 512..7 * 512].iter().all(|byte| *byte == 9));
}

#[test]
fn a_flush_is_not_about_a_request_that_the_guest_did_not_know_to_be_complete() {
    let place = Place::new();
    let log = place.path("log");
    let (daemon, guest) = place.serve(&["--record", text(&log)]);
    drop(guest);
    let mut disk = Disk::connect(&daemon.socket, 1, 16, 1 << 16);
    // Both are in the ring before the first is taken.
    let buffer = &disk.buffers[..512];
    disk.queues[0].write(0, buffer, 0).unwrap();
    disk.queues[0].flush(1).unwrap();
    disk.finish(0, 2);
    let recorded = || read(&log).1.iter().map(|entry| entry.flags).collect::<Vec<_>>();
    assert_eq!(recorded(), [MARK, FLUSH]);
    disk.queues[0].flush(2).unwrap();
    disk.finish(0, 1);
    assert_eq!(recorded(), [MARK, FLUSH, 0, FLUSH]);
}

#[test]
fn what_is_written_to_the_disk_of_marks_is_a_mark() {
    let place = Place::new();
    let (log, marks) = (place.path("log"), place.path("marks.sock"));
    let arguments = ["--record", text(&log), "--mark-socket", text(&marks)];
    let (daemon, mut guest) = place.serve(&arguments);
    let stream = std::os::unix::net::UnixStream::connect(&marks).unwrap();
    let mut disk_of_marks = Driver::connect(stream, 1);
    guest.write(1, &[1; 512]);
    guest.flush();
    let mut sector = [b' '; 512];
    sector[..9].copy_from_slice(b"synced-17");
    assert_eq!(disk_of_marks.write(0, 0, &sector), OK);
    drop((guest, disk_of_marks));
    assert!(daemon.terminate().0.success());
    let (_, entries) = read(&log);
    assert_eq!(position(&entries, "synced-17"), 3, "{entries:?}");
}

#[test]
fn a_recording_is_shown_as_text_as_json_and_as_a_drawing() {
    let place = Place::new();
    place.record(|guest, mark| {
        guest.write(10, &[1; 1024]);
        guest.flush();
        mark("<here>");
    });
    let show = |arguments: &[&str]| {
        let output =
            powercut().arg("show").arg(place.path("log")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = show(&[]);
    assert!(lines.contains("1 write   2 sectors at 10, queue 0"), "{lines}");
    assert!(lines.contains("3 mark    <here>"), "{lines}");
    let json: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
    assert_eq!(json["entries"][1]["sectors"], 2);
    assert_eq!(json["entries"][3]["mark"], "<here>");
    let svg = place.path("log.svg");
    show(&["--svg", text(&svg)]);
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.contains("2 sectors at 10") && svg.contains("&lt;here&gt;"), "{svg}");
}

/// One that runs into the limit of its files' size: the guest writes `length` bytes `count` times before each flush. Returns
/// how many flushes have succeeded.
fn fill_the_log(length: usize, count: u64) -> usize {
    let place = Place::new();
    let log = place.path("log");
    let mut command = std::process::Command::new("sh");
    // 4 MiB, in blocks of 512 bytes: the image has 1 MiB.
    command.args(["-c", "ulimit -f 8192; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_powercut")]);
    command.arg("serve").arg("--image").arg(place.path("disk.raw"));
    command.arg("--socket-path").arg(place.path("disk.sock")).arg("--record").arg(&log);
    let mut daemon = Daemon::spawn(command, place.path("disk.sock"));
    daemon.wait_for_log("serving");
    let mut driver = Driver::connect(daemon.connect(), 1);
    let mut flushed = 0;
    loop {
        for number in 0..count {
            assert_eq!(driver.write(0, number % 8 * 128, &vec![7; length]), OK);
        }
        let status = driver.request(0, crate::common::frontend::T_FLUSH, 0, &[], 0).0;
        if status != OK {
            break;
        }
        flushed += 1;
        assert!(flushed < 10_000, "the log has no limit");
    }
    drop(driver);
    daemon.kill();
    let (_, entries) = read(&log);
    let of_kind = |flags: u64| entries.iter().filter(|entry| entry.flags == flags).count();
    assert_eq!((of_kind(FLUSH), of_kind(0)), (flushed, flushed * count as usize));
    flushed
}

#[test]
fn when_the_log_cannot_be_written_the_guest_gets_errors_and_the_log_stays_whole() {
    let flushed = fill_the_log(4096, 1);
    assert!(flushed > 100, "{flushed}");
    // Less in one flush than is written at once, and more.
    for (length, count, fewest) in [(64 << 10, 3, 10), (32 << 10, 40, 2)] {
        let flushed = fill_the_log(length, count);
        assert!(flushed >= fewest, "{flushed}");
    }
}
