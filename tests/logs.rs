//! Log lines: what an operator reads in them, and in the journal.

mod common;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::daemon::{Daemon, PATIENCE, make_namespace};
use common::frontend::{Driver, OK};

#[test]
fn a_connection_is_logged_with_its_process_and_the_features_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let mut daemon = Daemon::start(&file, &["--sandbox=none"]);
    let mut driver = Driver::connect(daemon.connect(), 1);
    assert_eq!(driver.write(0, 0, &[1; 4096]), OK);
    drop(driver);
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let peer =
        format!("a frontend has connected: process {} ({})", std::process::id(), name.trim());
    daemon.wait_for_log(&peer);
    daemon.wait_for_log("the driver accepts SEG_MAX BLK_SIZE FLUSH TOPOLOGY CONFIG_WCE MQ");
    daemon.wait_for_log("EVENT_IDX PROTOCOL_FEATURES VERSION_1 IN_ORDER");
    daemon.wait_for_log("disconnected: 0 reads, 1 writes, 0 flushes, 0 others, 0 failed");
    assert!(daemon.terminate().0.success());
    // In the sandbox, /proc is closed, and the number is what there is.
    let mut daemon = Daemon::start(&file, &[]);
    drop(Driver::connect(daemon.connect(), 1));
    let peer = format!("a frontend has connected: process {} ", std::process::id());
    daemon.wait_for_log(&peer);
}

/// Runs a daemon whose standard error is `log`, and the journal's as far as `stream` says, until it has said
/// that it serves. Returns what it has written.
fn log_of(stream: impl Fn(&File) -> String) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = make_namespace(folder.path(), "32M", 4096);
    let path = folder.path().join("log");
    let log = File::create(&path).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"))
        .arg("--nvdimm")
        .arg(&file)
        .arg("--socket-path")
        .arg(folder.path().join("disk"))
        .env("JOURNAL_STREAM", stream(&log))
        .stderr(Stdio::from(log.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("serving") && text.contains("in the sandbox") {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(5));
    };
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    text
}

#[test]
fn lines_for_the_journal_have_a_priority_and_no_time() {
    let stream = |log: &File| {
        let metadata = log.metadata().unwrap();
        format!("{}:{}", metadata.dev(), metadata.ino())
    };
    let text = log_of(stream);
    assert!(text.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("<4>") && line.contains("page-cache")
            || line.contains("NOT atomic")),
        "{text}"
    );
    // That of another process, which was inherited.
    let text = log_of(|_| "1:2".to_owned());
    assert!(text.lines().all(|line| line.starts_with('[')), "{text}");
}
