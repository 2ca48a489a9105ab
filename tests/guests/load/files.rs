//! Files that are made, replaced, moved, appended to and removed, and synced each time; and files
//! whose bytes follow from their name and version. On a DAX file system, some of them by stores to mappings.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use vhost_user_btt::pmem::simulated::Random;

use super::dax_file::{self, Log};
use super::say;

const THREADS: u64 = 3;
/// Files that are replaced, and logs, per thread.
const REPLACED: u64 = 8;
const LOGS: u64 = 3;

/// The bytes of version `version` of the file `name`: both on a line, and more that follow from them.
fn contents(name: &str, version: u64) -> Vec<u8> {
    let mut random = Random::new(
        name.bytes().fold(version, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())),
    );
    let mut bytes = format!("{name} {version}\n").into_bytes();
    let length = match random.within(0..4) {
        0 => random.within(0..100),
        1 | 2 => random.within(0..6000),
        _ => random.within(0..40_000),
    };
    for _ in 0..length / 8 {
        bytes.extend(random.any().to_le_bytes());
    }
    bytes
}

/// The first `length` bytes of the log `name`.
fn log_contents(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut record = 0;
    while bytes.len() < length {
        bytes.extend(contents(name, record));
        record += 1;
    }
    bytes.truncate(length);
    bytes
}

/// Makes files in `folder`, and says of each what is durable: `kept NAME VERSION PATH`,
/// `appended NAME LENGTH PATH`, or `gone NAME 0 PATH`. With `maps`, the file system is one with DAX.
pub fn make(folder: &Path, seed: u64, maps: bool) {
    thread::scope(|scope| {
        for number in 0..THREADS {
            let folder = folder.join(format!("t{number}"));
            scope.spawn(move || Maker::new(folder, number, seed, maps).run());
        }
    });
}

/// What one thread does, in a folder of its own.
struct Maker {
    folder: PathBuf,
    moved: PathBuf,
    thread: u64,
    random: Random,
    next: u64,
    /// Records in each log.
    records: [u64; LOGS as usize],
    /// Logs that are mapped, if logs are.
    mapped: Option<[Option<Log>; LOGS as usize]>,
}

impl Maker {
    fn new(folder: PathBuf, thread: u64, seed: u64, maps: bool) -> Maker {
        let moved = folder.join("moved");
        fs::create_dir_all(&moved).unwrap();
        let random = Random::new(seed.wrapping_mul(THREADS).wrapping_add(thread));
        let (records, mapped) =
            ([0; LOGS as usize], maps.then(<[Option<Log>; LOGS as usize]>::default));
        Maker { folder, moved, thread, random, next: 1, records, mapped }
    }

    /// Makes a file of `bytes`, durable.
    fn write(&mut self, path: &Path, bytes: &[u8]) {
        if self.mapped.is_some() && !bytes.is_empty() && self.random.one_in(2) {
            return dax_file::write(path, bytes);
        }
        let mut file = File::create(path).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    fn run(&mut self) {
        sync(&self.folder);
        loop {
            self.next += 1;
            match self.random.within(0..10) {
                0..3 => self.keep(),
                3..5 => self.replace(),
                5..7 => self.append(),
                7 => self.move_one(),
                8 => self.remove(),
                _ => self.churn(),
            }
        }
    }

    fn name(&self, kind: char, number: u64) -> String {
        format!("{kind}{number}-{}", self.thread)
    }

    fn keep(&mut self) {
        let name = self.name('k', self.next);
        let path = self.folder.join(&name);
        self.write(&path, &contents(&name, 1));
        sync(&self.folder);
        say(&format!("kept {name} 1 {}", path.display()));
    }

    fn replace(&mut self) {
        let number = self.random.within(0..REPLACED);
        let name = self.name('r', number);
        let (path, new) = (self.folder.join(&name), self.folder.join("new"));
        self.write(&new, &contents(&name, self.next));
        fs::rename(&new, &path).unwrap();
        sync(&self.folder);
        say(&format!("kept {name} {} {}", self.next, path.display()));
    }

    fn append(&mut self) {
        let log = self.random.within(0..LOGS);
        let name = self.name('l', log);
        let path = self.folder.join(&name);
        if self.mapped.is_some() {
            return self.append_mapped(log as usize, &name, &path);
        }
        let records = &mut self.records[log as usize];
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(&contents(&name, *records)).unwrap();
        file.sync_data().unwrap();
        if *records == 0 {
            sync(&self.folder);
        }
        *records += 1;
        let length = file.metadata().unwrap().len();
        say(&format!("appended {name} {length} {}", path.display()));
    }

    fn append_mapped(&mut self, log: usize, name: &str, path: &Path) {
        let record = contents(name, self.records[log]);
        let Some(logs) = &mut self.mapped else { return };
        let file = logs[log].get_or_insert_with(|| Log::new(path));
        let Some(length) = file.append(&record) else { return };
        if self.records[log] == 0 {
            sync(&self.folder);
        }
        self.records[log] += 1;
        say(&format!("appended {name} {length} {}", path.display()));
    }

    fn move_one(&mut self) {
        let name = self.name('m', self.next);
        let (from, to) = (self.folder.join(&name), self.moved.join(&name));
        self.write(&from, &contents(&name, 1));
        sync(&self.folder);
        fs::rename(&from, &to).unwrap();
        sync(&self.moved);
        sync(&self.folder);
        say(&format!("kept {name} 1 {}", to.display()));
        say(&format!("gone {name} 0 {}", from.display()));
    }

    fn remove(&mut self) {
        let name = self.name('g', self.next);
        let path = self.folder.join(&name);
        self.write(&path, &contents(&name, 1));
        sync(&self.folder);
        fs::remove_file(&path).unwrap();
        sync(&self.folder);
        say(&format!("gone {name} 0 {}", path.display()));
    }

    /// Changes that nobody syncs.
    fn churn(&mut self) {
        let folder = self.folder.join(format!("churn{}", self.next));
        fs::create_dir(&folder).unwrap();
        let mut last = None;
        for number in 0..self.random.within(1..12) {
            let path = folder.join(format!("file{number}"));
            let mut file = File::create(&path).unwrap();
            file.write_all(&vec![7; self.random.within(0..9000) as usize]).unwrap();
            file.set_len(self.random.within(0..9000)).unwrap();
            if let Some(last) = last.replace(path.clone()) {
                fs::hard_link(&path, folder.join(format!("link{number}"))).unwrap();
                fs::remove_file(last).unwrap();
            }
        }
        if self.random.one_in(2) {
            fs::remove_dir_all(&folder).unwrap();
        }
    }
}

fn sync(folder: &Path) {
    File::open(folder).unwrap().sync_all().unwrap();
}

/// Says of each file in `folder` what it is: `whole NAME VERSION PATH`, `partial - 0 PATH`, or, of a
/// log, how many of its bytes are right: `log NAME LENGTH PATH`.
pub fn find(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_str().unwrap();
            // Nothing is promised of what nobody synced.
            if !name.starts_with("churn") {
                find(&path);
            }
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        say(&format!("{} {}", describe(&path, &bytes), path.display()));
    }
}

fn describe(path: &Path, bytes: &[u8]) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    if name.starts_with('l') {
        // What was being appended may be there in part, or as zeroes: ext4 promises no more.
        let good = log_contents(name, bytes.len());
        let length = good.iter().zip(bytes).take_while(|(good, byte)| good == byte).count();
        return format!("log {name} {length}");
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if let Some((name, version)) = line.split_once(' ')
        && let Ok(version) = version.parse()
        && bytes == contents(name, version)
    {
        return format!("whole {name} {version}");
    }
    "partial - 0".into()
}
