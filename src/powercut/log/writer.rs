//! Writing a log.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{Header, MAGIC, NOTE, Note, RawNote, Superblock, TEXT, VERSION, flag, longest_mark};

/// Bytes that are collected before they are written.
const COLLECTED: usize = 1 << 20;

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
        self.write_collected()?;
        self.write_superblock(entries).inspect_err(|_| self.abandon())?;
        (self.entries, self.end, self.added) = (entries, self.next, 0);
        Ok(())
    }

    /// Drops the entries that were added and do not count.
    pub fn abandon(&mut self) {
        self.collected.clear();
        (self.added, self.next) = (0, self.end);
    }

    /// Adds a write of `data`, whole sectors from `sector` on.
    ///
    /// # Errors
    ///
    /// It cannot be written, nor can any that does not count yet; the log is as it was before these were added.
    pub fn write(&mut self, sector: u64, data: &[u8], flags: u64, note: Note) -> io::Result<()> {
        let sectors = data.len() as u64 / u64::from(self.sector_size);
        self.add([sector, sectors, flags, 0], Some(note), &[], data)
    }

    /// Adds that sectors are discarded.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn discard(&mut self, sector: u64, sectors: u64, flags: u64, note: Note) -> io::Result<()> {
        self.add([sector, sectors, flags | flag::DISCARD, 0], Some(note), &[], &[])
    }

    /// Adds a flush.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn flush(&mut self, note: Note) -> io::Result<()> {
        self.add([0, 0, flag::FLUSH, 0], Some(note), &[], &[])
    }

    /// Adds a mark, cut off where it is longer than [`longest_mark`].
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn mark(&mut self, text: &str) -> io::Result<()> {
        let text = &text.as_bytes()[..text.len().min(longest_mark(self.sector_size))];
        self.add([0, 0, flag::MARK, text.len() as u64], None, text, &[])
    }

    fn add(
        &mut self,
        fields: [u64; 4],
        note: Option<Note>,
        text: &[u8],
        data: &[u8],
    ) -> io::Result<()> {
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
        self.collected.extend_from_slice(data);
        self.added += 1;
        if self.collected.len() >= COLLECTED { self.write_collected() } else { Ok(()) }
    }

    fn write_collected(&mut self) -> io::Result<()> {
        let written = self.file.write_all_at(&self.collected, self.next);
        written.inspect_err(|_| self.abandon())?;
        self.next += self.collected.len() as u64;
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
