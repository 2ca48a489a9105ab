//! A guest that has chosen write-through is served so after a reconnection, and a guest with a write
//! cache is not slowed down for good. Over the socket, with the daemon's syncs counted.

mod common;

use std::path::PathBuf;

use common::daemon::{Daemon, make_namespace};
use common::frontend::*;
use common::syncs::Syncs;
use tempfile::TempDir;

/// A file that daemons serve one after another to a guest whose memory survives.
struct Setting {
    _folder: TempDir,
    file: PathBuf,
    syncs: Syncs,
    daemon: Option<Daemon>,
    queues: usize,
}

impl Setting {
    fn new(queues: usize) -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let file = make_namespace(folder.path(), "32M", 4096);
        let syncs = Syncs::of(&file);
        let mut setting = Setting { _folder: folder, file, syncs, daemon: None, queues };
        setting.restart();
        setting
    }

    /// Kills the daemon, and starts the next.
    fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        let queues = self.queues.to_string();
        self.daemon =
            Some(Daemon::start_with_syncs(&self.file, &["--num-queues", &queues], &self.syncs));
    }

    fn connect(&self) -> Driver {
        Driver::connect(self.daemon.as_ref().unwrap().connect(), self.queues)
    }

    /// The frontend of `driver` connects again, and resumes its rings.
    fn reconnect(&self, driver: Driver) -> Driver {
        let memory = driver.memory.clone();
        drop(driver);
        let stream = self.daemon.as_ref().unwrap().connect();
        Driver::resume(stream, self.queues, u64::MAX, memory)
    }

    /// How many syncs a write takes.
    fn syncs_of_write(&self, driver: &mut Driver) -> u64 {
        let (syncs, status) = self.syncs.during(|| driver.write(0, 8, &[1; 4096]));
        assert_eq!(status, OK);
        syncs
    }
}

fn flush(driver: &mut Driver) {
    assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
}

#[test]
fn write_through_holds_when_the_frontend_reconnects_and_when_the_daemon_was_killed() {
    for queues in [1, 2] {
        let mut setting = Setting::new(queues);
        let mut driver = setting.connect();
        driver.set_config(32, &[0]).unwrap();
        assert_eq!(setting.syncs_of_write(&mut driver), 1);
        for _ in 0..2 {
            driver = setting.reconnect(driver);
            assert_eq!(setting.syncs_of_write(&mut driver), 1, "after a reconnection");
            assert_eq!(driver.config(32, 1), [0]);
        }
        for _ in 0..2 {
            setting.restart();
            driver = setting.reconnect(driver);
            assert_eq!(setting.syncs_of_write(&mut driver), 1, "after a restart");
            driver = setting.reconnect(driver);
            assert_eq!(setting.syncs_of_write(&mut driver), 1, "and a reconnection");
        }
    }
}

#[test]
fn write_back_holds_when_the_frontend_reconnects() {
    let setting = Setting::new(1);
    let mut driver = setting.connect();
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
    driver = setting.reconnect(driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
    driver.set_config(32, &[0]).unwrap();
    driver.set_config(32, &[1]).unwrap();
    driver = setting.reconnect(driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
}

#[test]
fn a_guest_that_flushes_after_the_daemon_was_killed_counts_on_write_back() {
    let mut setting = Setting::new(1);
    let mut driver = setting.connect();
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
    setting.restart();
    driver = setting.reconnect(driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 1, "nothing is known of it yet");
    flush(&mut driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
    driver = setting.reconnect(driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
}

/// After 65536 requests, a ring that resumes does so at index 0.
#[test]
fn a_ring_whose_index_has_wrapped_around_to_0_is_one_that_resumes() {
    let mut setting = Setting::new(1);
    let mut driver = setting.connect();
    driver.set_config(32, &[0]).unwrap();
    assert_eq!(setting.syncs_of_write(&mut driver), 1);
    for restarts in [false, true] {
        if restarts {
            setting.restart();
        }
        for index in [avail_at(0) + 2, used_at(0) + 2] {
            driver.put(index, &[0; 2]);
        }
        driver = setting.reconnect(driver);
        assert_eq!(setting.syncs_of_write(&mut driver), 1, "restarted: {restarts}");
    }
    flush(&mut driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
}

/// It was offered before the guest chose: the driver changes the mode when no flush is under way that
/// it waits for, but that is not known here.
#[test]
fn a_flush_that_was_in_the_ring_when_the_daemon_was_killed_says_nothing() {
    let mut setting = Setting::new(1);
    let mut driver = setting.connect();
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
    driver.set_config(32, &[0]).unwrap();
    setting.restart();
    // In the ring when it is resumed.
    driver.put(BUFFERS, &request_header(T_FLUSH, 0));
    let chain = vec![readable(BUFFERS, 16), writable(BUFFERS + 0x3000, 1)];
    driver.put_chain(0, 0, &linked(0, chain));
    driver.offer(0, 0);
    driver = setting.reconnect(driver);
    driver.kick(0);
    while driver.used_index(0) != driver.next_avail(0) {
        std::thread::yield_now();
    }
    driver.forget_completions(0);
    assert_eq!(setting.syncs_of_write(&mut driver), 1);
    flush(&mut driver);
    assert_eq!(setting.syncs_of_write(&mut driver), 0, "that one the guest has sent since");
}

#[test]
fn a_guest_that_begins_has_a_write_cache_whatever_the_last_one_chose() {
    let mut setting = Setting::new(1);
    let mut driver = setting.connect();
    driver.set_config(32, &[0]).unwrap();
    assert_eq!(setting.syncs_of_write(&mut driver), 1);
    drop(driver);
    let mut driver = setting.connect();
    assert_eq!(setting.syncs_of_write(&mut driver), 0);
    drop(driver);
    setting.restart();
    assert_eq!(setting.syncs_of_write(&mut setting.connect()), 0);
}

#[test]
fn discards_are_durable_in_write_through_mode() {
    let setting = Setting::new(1);
    let mut driver = setting.connect();
    assert_eq!(driver.write(0, 8, &[1; 4096]), OK);
    driver.set_config(32, &[0]).unwrap();
    flush(&mut driver);
    let (syncs, status) = setting.syncs.during(|| driver.clear(T_DISCARD, &[(8, 8, 0)]));
    assert_eq!((syncs, status), (1, OK));
}
