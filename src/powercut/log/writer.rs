//! Writing a log.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::{Header, MAGIC, NOTE, Note, RawNote, Superblock, TEXT, VERSION, flag, longest_mark};

/// A log that entries are added to.
///
/// An entry counts once the superblock says so, which is written after it: a log that is cut off, or whose file
/// system is full, ends with its last whole entry.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    sector_size: u32,
    entries: u64,
    /// Where the next entry goes.
    end: u64,
}

impl LogWriter {
    /// A log without entries in `file`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(file: File, sector_size: u32) -> io::Result<LogWriter> {
        file.set_len(0)?;
        let log = LogWriter { file, sector_size, entries: 0, end: sector_size.into() };
        log.write_superblock()?;
        Ok(log)
    }

    /// Number of entries.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds a write of `data`, whole sectors from `sector` on.
    ///
    /// # Errors
    ///
    /// The entry cannot be written; the log is as it was.
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
        let mut head = vec![0; self.sector_size as usize];
        head[..TEXT].copy_from_slice(Header { sector, sectors, flags, length }.as_bytes());
        head[TEXT..TEXT + text.len()].copy_from_slice(text);
        if let Some(note) = note {
            let note = RawNote::from(note);
            head[NOTE..NOTE + size_of::<RawNote>()].copy_from_slice(note.as_bytes());
        }
        self.file.write_all_at(&head, self.end)?;
        self.file.write_all_at(data, self.end + head.len() as u64)?;
        self.entries += 1;
        self.write_superblock().inspect_err(|_| self.entries -= 1)?;
        self.end += (head.len() + data.len()) as u64;
        Ok(())
    }

    fn write_superblock(&self) -> io::Result<()> {
        let mut sector = vec![0; self.sector_size as usize];
        let superblock = Superblock {
            magic: U64::new(MAGIC),
            version: U64::new(VERSION),
            entries: U64::new(self.entries),
            sector_size: U32::new(self.sector_size),
        };
        sector[..size_of::<Superblock>()].copy_from_slice(superblock.as_bytes());
        self.file.write_all_at(&sector, 0)
    }
}
