//! What a process holds: descriptors, threads and memory.

use std::fs;
use std::time::{Duration, Instant};

use super::patience::PATIENCE;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub descriptors: usize,
    pub threads: usize,
    /// Resident anonymous memory, in KiB: pages of files come and go with what is read.
    pub anonymous_kib: usize,
}

impl Usage {
    /// What the process `pid` holds now.
    pub fn of(pid: u32) -> Usage {
        let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let anonymous_kib = rss.trim().trim_end_matches(" kB").parse().unwrap();
        Usage { descriptors: count("fd"), threads: count("task"), anonymous_kib }
    }

    /// Waits until the process `pid` holds no more descriptors and threads than this; returns what it
    /// holds then. A thread that has ended is still there for a moment.
    pub fn wait_until_no_more(self, pid: u32) -> Usage {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Usage::of(pid);
            if now.descriptors <= self.descriptors && now.threads <= self.threads {
                return now;
            }
            assert!(Instant::now() < deadline, "{self:?} before, {now:?} after");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
