//! Reading a log, of whatever origin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::FromBytes;

use super::{Header, MAGIC, NOTE, Note, RawNote, Superblock, TEXT, VERSION, flag, longest_mark};

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be read.
    #[error("cannot read the log {path}")]
    Read {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no log of dm-log-writes, QEMU's blklogwrites or powercut")]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// It is a log that this program does not know.
    #[error(
        "{path} is a log of version {version} with sectors of {sector_size} bytes, which is not supported"
    )]
    Unsupported {
        /// The log.
        path: PathBuf,
        /// Its version.
        version: u64,
        /// Bytes of a sector.
        sector_size: u32,
    },
    /// An entry makes no sense.
    #[error("{path}: entry {entry} is damaged: {what}")]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Number of the entry, from 0 on.
        entry: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// What it is ([`flag`]).
    pub flags: u64,
    /// Where its data begin in the log.
    data: u64,
    /// The text of a mark.
    pub mark: Option<String>,
    /// When it was submitted, where the log has that.
    pub note: Option<Note>,
}

impl Entry {
    /// Returns whether it has this bit.
    #[must_use]
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Returns whether it changes sectors.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.sectors > 0 && self.mark.is_none()
    }

    /// Sectors that have data in the log.
    fn stored(&self) -> u64 {
        if self.has(flag::DISCARD) { 0 } else { self.sectors }
    }
}

/// A log; its data stay in its file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    sector_size: u32,
    entries: Vec<Entry>,
    /// Entries that the log should have and has not.
    missing: u64,
}

impl Log {
    /// Reads the log at `path`. One that was cut off has the entries that are whole.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no log, or an entry makes no sense.
    pub fn open(path: &Path) -> Result<Log, LogError> {
        let fails = |source| LogError::Read { path: path.into(), source };
        let file = File::open(path).map_err(fails)?;
        let size = file.metadata().map_err(fails)?.len();
        let mut superblock = [0; size_of::<Superblock>()];
        if size < superblock.len() as u64 {
            return Err(LogError::NotALog { path: path.into() });
        }
        file.read_exact_at(&mut superblock, 0).map_err(fails)?;
        let superblock: Superblock = zerocopy::transmute!(superblock);
        if superblock.magic.get() != MAGIC {
            return Err(LogError::NotALog { path: path.into() });
        }
        let (version, sector_size) = (superblock.version.get(), superblock.sector_size.get());
        let is_known = sector_size.is_power_of_two() && (512..=65536).contains(&sector_size);
        if version != VERSION || !is_known {
            return Err(LogError::Unsupported { path: path.into(), version, sector_size });
        }
        let mut log = Log { path: path.into(), file, sector_size, entries: Vec::new(), missing: 0 };
        log.read_entries(size, superblock.entries.get())?;
        Ok(log)
    }

    fn read_entries(&mut self, size: u64, count: u64) -> Result<(), LogError> {
        let mut at = u64::from(self.sector_size);
        for number in 0..count {
            let Some(entry) = self.read_entry(at, size)? else {
                self.missing = count - number;
                return Ok(());
            };
            at = entry.data + entry.stored() * u64::from(self.sector_size);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// The entry at `at`; `None`: the file ends before it does.
    fn read_entry(&self, at: u64, size: u64) -> Result<Option<Entry>, LogError> {
        let data = at + u64::from(self.sector_size);
        if data > size {
            return Ok(None);
        }
        let mut head = vec![0; self.sector_size as usize];
        self.read_at(&mut head, at)?;
        let damaged =
            |what| LogError::Damaged { path: self.path.clone(), entry: self.entries.len(), what };
        let (header, _) = Header::read_from_prefix(&head).map_err(|_| damaged("no header"))?;
        let (sector, sectors) = (header.sector.get(), header.sectors.get());
        let flags = header.flags.get();
        let known = flag::FLUSH | flag::FUA | flag::DISCARD | flag::MARK | flag::METADATA;
        if flags & !known != 0 {
            return Err(damaged("it has flags that are not defined"));
        }
        let is_mark = flags & flag::MARK != 0;
        if is_mark && sectors != 0 {
            return Err(damaged("a mark has sectors"));
        }
        let mark = is_mark.then(|| self.text(&head, header.length.get())).transpose();
        let mark = mark.map_err(damaged)?;
        let note = if is_mark { None } else { RawNote::read_from_prefix(&head[NOTE..]).ok() };
        let note = note.and_then(|(note, _)| Note::read(&note));
        let entry = Entry { sector, sectors, flags, data, mark, note };
        let end = entry.stored().checked_mul(self.sector_size.into());
        let end = end.and_then(|length| data.checked_add(length));
        let reaches = sector
            .checked_add(sectors)
            .and_then(|end| end.checked_mul(u64::from(self.sector_size)));
        if reaches.is_none() {
            return Err(damaged("its sectors are beyond every disk"));
        }
        Ok(end.filter(|end| *end <= size).map(|_| entry))
    }

    fn text(&self, head: &[u8], length: u64) -> Result<String, &'static str> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > longest_mark(self.sector_size) {
            return Err("the text of a mark is longer than its sector");
        }
        Ok(String::from_utf8_lossy(&head[TEXT..TEXT + length]).into_owned())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> Result<(), LogError> {
        let fails = |source| LogError::Read { path: self.path.clone(), source };
        self.file.read_exact_at(into, at).map_err(fails)
    }

    /// The log's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of a sector.
    #[must_use]
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// The entries that are whole.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of entries that the log should have and has not.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Reads sector `index` of what `entry` has written.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read_sector(&self, entry: &Entry, index: u64, into: &mut [u8]) -> Result<(), LogError> {
        if entry.has(flag::DISCARD) {
            into.fill(0);
            return Ok(());
        }
        self.read_at(into, entry.data + index * u64::from(self.sector_size))
    }
}
