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
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "{self:?} before, {now:?} after, threads {:?}", thread_names(pid));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn thread_names(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(|task| name(task).trim().to_owned()).collect()
}

/// Processor time, in clock ticks, of the threads of the process `pid` whose names begin with `prefix`.
pub fn cpu_ticks(pid: u32, prefix: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ticks = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // proc(5): utime and stime are fields 14 and 15; the two before the ')' are cut off.
        let ticks = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
        name.starts_with(prefix).then_some(ticks)
    });
    ticks.sum()
}
