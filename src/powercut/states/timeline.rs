//! What is durable and what is pending, at each point of a log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hasher;
use std::io::{self, Read};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::super::log::{Entry, Log, LogError, flag};

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// What the base image has.
    Base,
    /// What entry `entry` of the log has written, as its sector `index`.
    Written {
        /// Number of the entry.
        entry: usize,
        /// Number of the sector in it.
        index: u64,
    },
}

/// A sector that was written and need not be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pending {
    /// Number of the entry.
    pub entry: usize,
    /// The sector.
    pub sector: u64,
}

/// A moment between two entries.
#[derive(Debug, Default)]
pub struct Point {
    /// Number of entries before it.
    pub position: usize,
    /// Sectors that are durable, and not as in the base image.
    durable: HashMap<u64, Content>,
    /// Entries that changed sectors and are not durable, in order.
    pub pending: Vec<usize>,
    /// Marks before it.
    pub marks: Vec<String>,
    /// Hash of the durable content.
    hash: u128,
}

/// A log, gone through from its beginning.
pub struct Timeline<'l> {
    log: &'l Log,
    point: Point,
    /// Flushes make nothing durable.
    ignores_flushes: bool,
    /// What was written to the sectors of the pending entries, oldest first.
    versions: BTreeMap<u64, Vec<Content>>,
    /// Hashes of what entries have written.
    hashes: HashMap<Content, u128>,
}

impl Point {
    /// What a sector holds for sure.
    #[must_use]
    pub fn durable(&self, sector: u64) -> Content {
        self.durable.get(&sector).copied().unwrap_or(Content::Base)
    }

    /// The sectors that are durable, and not as in the base image.
    pub fn all_durable(&self) -> impl Iterator<Item = (u64, Content)> + '_ {
        self.durable.iter().map(|(sector, content)| (*sector, *content))
    }

    /// Returns whether `sector` durably holds what an entry after `number` has written.
    fn is_newer(&self, sector: u64, number: usize) -> bool {
        matches!(self.durable(sector), Content::Written { entry, .. } if entry > number)
    }
}

impl<'l> Timeline<'l> {
    /// Stands before the first entry of `log`. `ignores_flushes`: nothing ever becomes durable.
    #[must_use]
    pub fn new(log: &'l Log, ignores_flushes: bool) -> Timeline<'l> {
        Timeline {
            log,
            point: Point::default(),
            ignores_flushes,
            versions: BTreeMap::new(),
            hashes: HashMap::new(),
        }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &'l Log {
        self.log
    }

    /// Where it stands.
    #[must_use]
    pub fn point(&self) -> &Point {
        &self.point
    }

    /// Goes behind the next entry. Returns the sectors whose durable content has changed; `None` at the end.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn advance(&mut self) -> Result<Option<Vec<u64>>, LogError> {
        let number = self.point.position;
        let Some(entry) = self.log.entries().get(number) else { return Ok(None) };
        self.point.position += 1;
        let mut changed = Vec::new();
        if let Some(text) = &entry.mark {
            self.point.marks.push(text.clone());
            return Ok(Some(changed));
        }
        if entry.has(flag::FLUSH) && !self.ignores_flushes {
            for pending in std::mem::take(&mut self.point.pending) {
                self.make_durable(pending, &mut changed)?;
            }
            self.versions.clear();
        }
        if entry.changes() {
            if entry.has(flag::FUA) && !self.ignores_flushes {
                self.make_durable(number, &mut changed)?;
                self.supersede(entry);
            } else {
                self.point.pending.push(number);
                self.note_versions(number);
            }
        }
        Ok(Some(changed))
    }

    /// What an entry has written is durable, but for sectors whose durable content is newer.
    fn make_durable(&mut self, number: usize, changed: &mut Vec<u64>) -> Result<(), LogError> {
        let entry = &self.log.entries()[number];
        for index in 0..entry.sectors {
            let (sector, new) = (entry.sector + index, Content::Written { entry: number, index });
            if self.point.is_newer(sector, number) {
                continue;
            }
            let old = self.point.durable(sector);
            self.point.hash ^= self.hash_of(sector, old)? ^ self.hash_of(sector, new)?;
            self.point.durable.insert(sector, new);
            changed.push(sector);
        }
        Ok(())
    }

    /// Takes pending entries that lie inside `entry`, which is durable, out of the running.
    fn supersede(&mut self, entry: &Entry) {
        let entries = self.log.entries();
        let sectors = entry.sector..entry.sector + entry.sectors;
        self.point.pending.retain(|older| {
            let older = &entries[*older];
            !(sectors.contains(&older.sector) && older.sector + older.sectors <= sectors.end)
        });
        self.versions.clear();
        for number in self.point.pending.clone() {
            self.note_versions(number);
        }
    }

    /// The sectors of the pending entries, with what was written to each, oldest first.
    #[must_use]
    pub fn versions(&self) -> &BTreeMap<u64, Vec<Content>> {
        &self.versions
    }

    fn note_versions(&mut self, number: usize) {
        let entry = &self.log.entries()[number];
        for index in 0..entry.sectors {
            let (sector, content) =
                (entry.sector + index, Content::Written { entry: number, index });
            if !self.point.is_newer(sector, number) {
                self.versions.entry(sector).or_default().push(content);
            }
        }
    }

    /// The sectors whose content is not certain, and what each may hold, the newest first and each content once.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn undecided(&mut self) -> Result<BTreeMap<u64, Vec<Content>>, LogError> {
        let mut undecided = BTreeMap::new();
        for (sector, versions) in self.versions.clone() {
            let durable = self.point.durable(sector);
            let (mut contents, mut seen) = (Vec::new(), HashSet::new());
            for content in versions.into_iter().rev().chain([durable]) {
                if seen.insert(self.hash_of(sector, content)?) {
                    contents.push(content);
                }
            }
            if contents.len() > 1 {
                undecided.insert(sector, contents);
            }
        }
        Ok(undecided)
    }

    /// Hash of a disk whose sectors are as durable here, but for `sectors`.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn hash_with(
        &mut self,
        sectors: impl IntoIterator<Item = (u64, Content)>,
    ) -> Result<u128, LogError> {
        let mut hash = self.point.hash;
        for (sector, content) in sectors {
            let durable = self.point.durable(sector);
            hash ^= self.hash_of(sector, durable)? ^ self.hash_of(sector, content)?;
        }
        Ok(hash)
    }

    /// What `content` at `sector` adds to the hash of a disk: nothing where it is as in the base.
    fn hash_of(&mut self, sector: u64, content: Content) -> Result<u128, LogError> {
        let Content::Written { entry, index } = content else { return Ok(0) };
        if let Some(hash) = self.hashes.get(&content) {
            return Ok(*hash);
        }
        let mut bytes = vec![0; self.log.sector_size() as usize];
        self.log.read_sector(&self.log.entries()[entry], index, &mut bytes)?;
        let mut hasher = SipHasher13::new();
        hasher.write_u64(sector);
        hasher.write(&bytes);
        let hash = hasher.finish128().as_u128();
        self.hashes.insert(content, hash);
        Ok(hash)
    }

    /// The number of bytes that the entries reach up to.
    #[must_use]
    pub fn extent(log: &Log) -> u64 {
        let ends = log.entries().iter().map(|entry| entry.sector + entry.sectors);
        ends.max().unwrap_or(0) * u64::from(log.sector_size())
    }
}

/// A hash of a base image, as the first mark of a recording has it.
///
/// # Errors
///
/// The image cannot be read.
pub fn base_hash(image: &mut impl Read) -> io::Result<String> {
    let mut hasher = SipHasher13::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match image.read(&mut piece)? {
            0 => return Ok(format!("{:032x}", hasher.finish128().as_u128())),
            length => hasher.write(&piece[..length]),
        }
    }
}
