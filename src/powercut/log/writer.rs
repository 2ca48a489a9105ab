//! Writing a log.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use rustix::io::{Errno, pwritev};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{Header, MAGIC, NOTE, Note, RawNote, Superblock, TEXT, VERSION, flag, longest_mark};

/// Bytes that are collected before they are written: file systems take less time for a few long writes.
const COLLECTED: usize = 1 << 20;
/// Data of so many bytes are not copied to what is collected, but written from where they are.
const NOT_COPIED: usize = 16 << 10;
/// Most data that one system call writes from where they are: with what is between them, less than `IOV_MAX`.
const MOST_PARTS: usize = 256;

/// A log that entries are added to.
///
/// Entries count once the superblock says so, which is written after them, by [`commit`](Self::commit): a log that is
/// cut off, or whose file system is full, ends with its last whole entry.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    sector_size: u32,
    /// Entries that count, and where they end.
    entries: u64,
    end: u64,
    /// Entries that were added since.
    added: u64,
    /// What of them is not written yet, and where it goes.
    collected: Vec<u8>,
    next: u64,
}

/// A change of sectors, as an entry.
#[derive(Debug, Clone, Copy)]
pub struct Change<'d> {
    /// The first sector.
    pub sector: u64,
    /// What they become.
    pub content: Content<'d>,
    /// What it is besides, in bits of [`flag`].
    pub flags: u64,
    /// When it was submitted.
    pub note: Note,
}

/// What sectors become.
#[derive(Debug, Clone, Copy)]
pub enum Content<'d> {
    /// Whole sectors of data.
    Bytes(&'d [u8]),
    /// So many sectors are discarded.
    Discarded(u64),
}

impl LogWriter {
    /// A log without entries in `file`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(file: File, sector_size: u32) -> io::Result<LogWriter> {
        file.set_len(0)?;
        let end = sector_size.into();
        let log = LogWriter {
            file,
            sector_size,
            entries: 0,
            end,
            added: 0,
            collected: Vec::new(),
            next: end,
        };
        log.write_superblock(0)?;
        Ok(log)
    }

    /// Number of entries that count.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Makes the entries that were added count.
    ///
    /// # Errors
    ///
    /// They cannot be written; the log is as it was before they were added.
    pub fn commit(&mut self) -> io::Result<()> {
        let entries = self.entries + self.added;
        self.write_collected(&Parts::default())?;
        self.write_superblock(entries).inspect_err(|_| self.abandon())?;
        (self.entries, self.end, self.added) = (entries, self.next, 0);
        Ok(())
    }

    /// Drops the entries that were added and do not count.
    pub fn abandon(&mut self) {
        self.collected.clear();
        (self.added, self.next) = (0, self.end);
    }

    /// Adds changes of sectors.
    ///
    /// # Errors
    ///
    /// They cannot be written, nor can any that does not count yet; the log is as it was before these were added.
    pub fn changes<'d>(&mut self, changes: impl Iterator<Item = Change<'d>>) -> io::Result<()> {
        let mut parts = Parts::default();
        for change in changes {
            self.add_head(change.fields(self.sector_size), Some(change.note), &[]);
            if let Content::Bytes(data) = change.content {
                parts.add(&mut self.collected, data);
            }
            if self.collected.len() + parts.bytes >= COLLECTED || parts.places.len() >= MOST_PARTS {
                self.write_collected(&parts)?;
                parts = Parts::default();
            }
        }
        if parts.bytes > 0 { self.write_collected(&parts) } else { Ok(()) }
    }

    /// Adds a flush.
    ///
    /// # Errors
    ///
    /// As [`changes`](Self::changes).
    pub fn flush(&mut self, note: Note) -> io::Result<()> {
        self.add_head([0, 0, flag::FLUSH, 0], Some(note), &[]);
        self.write_if_long()
    }

    /// Adds a mark, cut off where it is longer than [`longest_mark`].
    ///
    /// # Errors
    ///
    /// As [`changes`](Self::changes).
    pub fn mark(&mut self, text: &str) -> io::Result<()> {
        let text = &text.as_bytes()[..text.len().min(longest_mark(self.sector_size))];
        self.add_head([0, 0, flag::MARK, text.len() as u64], None, text);
        self.write_if_long()
    }

    /// Adds the first sector of an entry.
    fn add_head(&mut self, fields: [u64; 4], note: Option<Note>, text: &[u8]) {
        let [sector, sectors, flags, length] = fields.map(U64::new);
        let start = self.collected.len();
        self.collected.resize(start + self.sector_size as usize, 0);
        let head = &mut self.collected[start..];
        head[..TEXT].copy_from_slice(Header { sector, sectors, flags, length }.as_bytes());
        head[TEXT..TEXT + text.len()].copy_from_slice(text);
        if let Some(note) = note {
            let note = RawNote::from(note);
            head[NOTE..NOTE + size_of::<RawNote>()].copy_from_slice(note.as_bytes());
        }
        self.added += 1;
    }

    fn write_if_long(&mut self) -> io::Result<()> {
        if self.collected.len() < COLLECTED {
            return Ok(());
        }
        self.write_collected(&Parts::default())
    }

    /// Writes what is collected, with `parts` at their places in it.
    fn write_collected(&mut self, parts: &Parts<'_>) -> io::Result<()> {
        let mut slices = parts.among(&self.collected);
        let written = write_all_at(&self.file, &mut slices, self.next);
        written.inspect_err(|_| self.abandon())?;
        self.next += (self.collected.len() + parts.bytes) as u64;
        self.collected.clear();
        Ok(())
    }

    fn write_superblock(&self, entries: u64) -> io::Result<()> {
        let mut sector = vec![0; self.sector_size as usize];
        let superblock = Superblock {
            magic: U64::new(MAGIC),
            version: U64::new(VERSION),
            entries: U64::new(entries),
            sector_size: U32::new(self.sector_size),
        };
        sector[..size_of::<Superblock>()].copy_from_slice(superblock.as_bytes());
        self.file.write_all_at(&sector, 0)
    }
}

impl Change<'_> {
    fn fields(&self, sector_size: u32) -> [u64; 4] {
        match self.content {
            Content::Bytes(data) => {
                [self.sector, data.len() as u64 / u64::from(sector_size), self.flags, 0]
            }
            Content::Discarded(sectors) => [self.sector, sectors, self.flags | flag::DISCARD, 0],
        }
    }
}

/// Data that are written from where they are, and where in what is collected they have their places.
#[derive(Debug, Default)]
struct Parts<'d> {
    places: Vec<(usize, &'d [u8])>,
    bytes: usize,
}

impl<'d> Parts<'d> {
    /// Adds data behind what is collected, or to it if there are few.
    fn add(&mut self, collected: &mut Vec<u8>, data: &'d [u8]) {
        if data.len() < NOT_COPIED {
            return collected.extend_from_slice(data);
        }
        self.places.push((collected.len(), data));
        self.bytes += data.len();
    }

    /// Everything in its order.
    fn among<'s>(&'s self, collected: &'s [u8]) -> Vec<IoSlice<'s>> {
        let mut slices = Vec::with_capacity(2 * self.places.len() + 1);
        let mut from = 0;
        for (at, data) in &self.places {
            slices.extend([IoSlice::new(&collected[from..*at]), IoSlice::new(data)]);
            from = *at;
        }
        slices.push(IoSlice::new(&collected[from..]));
        slices
    }
}

fn write_all_at(file: &File, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    // Takes empty ones away.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match pwritev(file, slices, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
