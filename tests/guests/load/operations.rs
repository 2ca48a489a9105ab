//! Operations on files, one after another, each durable before a mark says so, and what a power failure may leave of
//! them. The writer and the checker know them by a seed alone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vhost_user_btt::pmem::simulated::Random;

/// Bytes of a block, which a disk with sectors of this size writes as a whole.
const BLOCK: usize = 4096;
/// What a file is called until it is whole.
const UNFINISHED: &str = "unfinished";
/// Files that there may be.
const FILES: u64 = 6;
/// Most blocks of a file.
const BLOCKS: u64 = 5;

/// The contents of files, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What is done to one file; durable when it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// The file is written under another name, synced, and renamed over what was there.
    Replace { name: String, bytes: Vec<u8> },
    /// Bytes are added to the end.
    Append { name: String, bytes: Vec<u8> },
    /// A block is overwritten in place.
    Overwrite { name: String, block: usize, bytes: Vec<u8> },
    /// The file gets another name, which may be that of another file.
    Rename { from: String, to: String },
    /// The file is removed.
    Remove { name: String },
}

/// The operations of `seed`, with the files as they are before each, and after the last.
pub fn operations(seed: u64, count: usize) -> (Vec<Operation>, Vec<Files>) {
    let mut random = Random::new(seed);
    let (mut operations, mut states) = (Vec::new(), vec![Files::new()]);
    for _ in 0..count {
        let mut files = states.last().cloned().unwrap_or_default();
        let operation = any(&mut random, &files);
        operation.apply(&mut files);
        operations.push(operation);
        states.push(files);
    }
    (operations, states)
}

fn any(random: &mut Random, files: &Files) -> Operation {
    let name = format!("f{}", random.within(0..FILES));
    let mut bytes = |length: u64| -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| (random.any() | 1).to_le_bytes()).collect()
    };
    let there = files.get(&name).map(Vec::len);
    let kind = bytes(8)[1] % 8;
    match (there, kind) {
        (Some(length), 0 | 1) if length < BLOCK * BLOCKS as usize => {
            let bytes = bytes(100 + u64::from(kind) * 5000);
            Operation::Append { name, bytes }
        }
        (Some(length), 2 | 3) if length >= BLOCK => {
            let block = usize::from(bytes(8)[1]) % (length / BLOCK);
            Operation::Overwrite { name, block, bytes: bytes(BLOCK as u64) }
        }
        (Some(_), 4) => {
            let to = format!("f{}", u64::from(bytes(8)[1]) % FILES);
            if to == name {
                Operation::Remove { name }
            } else {
                Operation::Rename { from: name, to }
            }
        }
        (Some(_), 5) => Operation::Remove { name },
        _ => {
            let length = u64::from(bytes(8)[1]) * 64;
            Operation::Replace { name, bytes: bytes(length) }
        }
    }
}

impl Operation {
    /// What it makes of the files.
    fn apply(&self, files: &mut Files) {
        match self {
            Operation::Replace { name, bytes } => {
                files.insert(name.clone(), bytes.clone());
            }
            Operation::Append { name, bytes } => {
                files.entry(name.clone()).or_default().extend(bytes);
            }
            Operation::Overwrite { name, block, bytes } => {
                if let Some(file) = files.get_mut(name) {
                    file[block * BLOCK..][..BLOCK].copy_from_slice(bytes);
                }
            }
            Operation::Rename { from, to } => {
                if let Some(file) = files.remove(from) {
                    files.insert(to.clone(), file);
                }
            }
            Operation::Remove { name } => {
                files.remove(name);
            }
        }
    }

    /// Does it to the files in `folder`, durably.
    pub fn run(&self, folder: &Path) -> std::io::Result<()> {
        let path = |name: &str| folder.join(name);
        let sync_folder = || File::open(folder)?.sync_all();
        match self {
            Operation::Replace { name, bytes } => {
                let mut file = File::create(path(UNFINISHED))?;
                file.write_all(bytes)?;
                file.sync_all()?;
                fs::rename(path(UNFINISHED), path(name))?;
                sync_folder()
            }
            Operation::Append { name, bytes } => {
                let mut file = OpenOptions::new().append(true).open(path(name))?;
                file.write_all(bytes)?;
                file.sync_data()
            }
            Operation::Overwrite { name, block, bytes } => {
                let file = OpenOptions::new().write(true).open(path(name))?;
                file.write_all_at(bytes, (block * BLOCK) as u64)?;
                file.sync_data()
            }
            Operation::Rename { from, to } => {
                fs::rename(path(from), path(to))?;
                sync_folder()
            }
            Operation::Remove { name } => {
                fs::remove_file(path(name))?;
                sync_folder()
            }
        }
    }

    /// The names that it changes.
    fn names(&self) -> Vec<&str> {
        match self {
            Operation::Replace { name, .. } => vec![name, UNFINISHED],
            Operation::Append { name, .. }
            | Operation::Overwrite { name, .. }
            | Operation::Remove { name } => vec![name],
            Operation::Rename { from, to } => vec![from, to],
        }
    }

    /// Returns whether `found` may be what is there of its files when it was interrupted.
    fn allows(&self, before: &Files, after: &Files, found: &Files) -> bool {
        let is_either = |name: &String| {
            let found = found.get(name);
            found == before.get(name) || found == after.get(name)
        };
        match self {
            // What is unfinished may be anything.
            Operation::Replace { name, .. } | Operation::Remove { name } => is_either(name),
            Operation::Append { name, .. } => {
                let (Some(found), Some(old)) = (found.get(name), before.get(name)) else {
                    return false;
                };
                found.starts_with(old) && found.len() <= after.get(name).map_or(0, Vec::len)
            }
            Operation::Overwrite { name, .. } => {
                let all = [found, before, after].map(|files| files.get(name));
                let [Some(found), Some(old), Some(new)] = all else { return false };
                let blocks = found.chunks(BLOCK).zip(old.chunks(BLOCK).zip(new.chunks(BLOCK)));
                found.len() == old.len()
                    && blocks.into_iter().all(|(found, (old, new))| found == old || found == new)
            }
            Operation::Rename { from, to } => {
                let is_as = |files: &Files| {
                    [from, to].iter().all(|name| found.get(*name) == files.get(*name))
                };
                is_as(before) || is_as(after)
            }
        }
    }
}

/// What is wrong with the files that were `found` when `done` operations were durable; `None`: nothing.
pub fn wrong(
    operations: &[Operation],
    states: &[Files],
    done: usize,
    found: &Files,
) -> Option<String> {
    let (before, last) = (&states[done], operations.get(done));
    let changing = last.map(Operation::names).unwrap_or_default();
    let names = before.keys().chain(found.keys());
    for name in names.filter(|name| !changing.contains(&name.as_str())) {
        // What was left of an operation that is done is not there any more.
        if found.get(name) != before.get(name) {
            let length = |files: &Files| files.get(name).map(Vec::len);
            return Some(format!("{name}: {:?} bytes, not {:?}", length(found), length(before)));
        }
    }
    let last = last.filter(|last| !last.allows(before, &states[done + 1], found));
    last.map(|last| format!("{:?} was done in part", last.names()))
}

/// The files in `folder`.
pub fn find(folder: &Path) -> std::io::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(files)
}
