//! The persistence model of a file that is not on persistent memory: its pages in the page cache, and
//! what of them may be on the disk.
//!
//! * The kernel may write a page back at any moment and in any order, and the disk takes each of its
//!   sectors (512 or 4096 bytes) whole. So of the stores to a disk sector since it was last known to be
//!   on the disk, a power failure leaves any first few, whatever it leaves of other sectors.
//! * A sync makes durable what was stored before it began. What is stored while it runs may be on the
//!   disk, or not.
//! * A write-back may fail, that of a sync or one of the kernel's own. The page is clean then, and no
//!   later sync writes it unless it is stored to again; it may also be dropped, and is read again as it
//!   is on the disk.
//! * A process that is killed loses nothing: the next one sees the page cache as it is.
//!
//! The caches of the CPU are below all this: they outlive a process, and the kernel writes a page as all
//! CPUs see it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::super::PAGE;
use super::super::cache_model::images::{enumerate, random_prefixes};
use super::super::cache_model::unfenced::WORD;
use super::Contents;
use super::recorder::Event;
use super::{Effort, Images, Random};

/// The pages of a file, and what of them may be on the disk.
#[derive(Debug, Clone)]
pub struct PageCache {
    /// Bytes that the disk takes at once.
    sector_size: u64,
    /// What is on the disk at least: stores to a sector are applied to it in their order.
    disk: Contents,
    /// The disk sectors that were stored to since they were last known to be on the disk, by number.
    sectors: BTreeMap<u64, Sector>,
    /// Numbers of the pages that were stored to since their last write-back began.
    dirty: BTreeSet<u64>,
    /// What the sync that is under way writes back: disk sectors, and how many stores to each had been
    /// made when it began.
    syncing: Vec<(u64, usize)>,
    /// The kernel's own write-back of a page has failed, and no sync has told of it yet.
    has_untold_error: bool,
}

/// A disk sector's stores, oldest first.
#[derive(Debug, Clone, Default)]
struct Sector {
    stores: Vec<Store>,
    /// There are ordinary stores among them: metadata.
    is_metadata: bool,
}

/// A store, or the part of one that is in one disk sector.
#[derive(Debug, Clone)]
struct Store {
    offset: u64,
    bytes: Arc<[u8]>,
    /// Only some words of it have been stored yet.
    is_torn: bool,
}

impl Store {
    /// Hands `write` what is stored.
    fn apply(&self, mut write: impl FnMut(u64, &[u8])) {
        if !self.is_torn {
            return write(self.offset, &self.bytes);
        }
        let mut random = Random::new(self.offset ^ self.bytes.len() as u64);
        let words = self.bytes.chunks(WORD as usize);
        for (offset, word) in (self.offset..).step_by(WORD as usize).zip(words) {
            if random.one_in(2) {
                write(offset, word);
            }
        }
    }
}

/// How many stores reached the disk of each sector with data.
#[derive(Debug, Clone, Copy)]
enum Data {
    None,
    All,
    /// All, but none of this sector.
    Without(u64),
    /// None but those of this sector.
    Only(u64),
    /// As this seed has it.
    Random(u64),
}

impl PageCache {
    /// The page cache of a file that is on the disk as `disk`; the disk takes `sector_size` bytes at
    /// once, a power of two and not more than a page.
    #[must_use]
    pub fn new(disk: Contents, sector_size: u64) -> PageCache {
        PageCache {
            sector_size,
            disk,
            sectors: BTreeMap::new(),
            dirty: BTreeSet::new(),
            syncing: Vec::new(),
            has_untold_error: false,
        }
    }

    /// Brings the model from before the event to after it.
    pub fn replay(&mut self, event: &Event) {
        match *event {
            Event::Store { offset, ref bytes } => self.store(offset, bytes),
            Event::Stream { offset, ref bytes, .. } => self.stream(offset, bytes),
            Event::ZeroBegins { offset, length } => self.stream(offset, &vec![0; length as usize]),
            Event::SyncBegins { offset, length } => self.begin_sync(offset..offset + length),
            Event::SyncEnds { has_failed } => self.end_sync(has_failed),
            Event::Sync => self.sync(),
            Event::WriteBackFails { page } => self.fail_write_back(page),
            Event::Dropped { page, ref bytes } => self.drop_page(page, bytes),
            // Zeroes are on the disk by a sync of their own.
            Event::ZeroEnds { .. } | Event::Flush { .. } | Event::Fence { .. } | Event::Mark(_) => {
            }
        }
    }

    /// An ordinary store, aligned and of up to eight bytes.
    pub fn store(&mut self, offset: u64, bytes: &[u8]) {
        self.push(true, Store { offset, bytes: bytes.into(), is_torn: false });
    }

    /// A copy of data. A disk sector may be written back while it is copied.
    pub fn stream(&mut self, offset: u64, bytes: &[u8]) {
        let (mut offset, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let room = self.sector_size - offset % self.sector_size;
            let (part, after) = rest.split_at((room as usize).min(rest.len()));
            let bytes: Arc<[u8]> = part.into();
            self.push(false, Store { offset, bytes: bytes.clone(), is_torn: true });
            self.push(false, Store { offset, bytes, is_torn: false });
            (offset, rest) = (offset + part.len() as u64, after);
        }
    }

    fn push(&mut self, is_metadata: bool, store: Store) {
        self.dirty.insert(store.offset / PAGE);
        let sector = self.sectors.entry(store.offset / self.sector_size).or_default();
        sector.is_metadata |= is_metadata;
        sector.stores.push(store);
    }

    /// A sync of the pages of `range` begins: it will write back those that are dirty now, and waits for those
    /// that an earlier one, whose process may be dead, is writing back.
    pub fn begin_sync(&mut self, range: Range<u64>) {
        // What is being written back elsewhere is left to later syncs, as what is dirty there.
        let earlier = self.syncing.iter().map(|(number, _)| number * self.sector_size / PAGE);
        self.dirty.extend(earlier);
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        let (dirty, others) = self.dirty.iter().partition(|page| pages.contains(page));
        let dirty: BTreeSet<u64> = dirty;
        self.dirty = others;
        let in_page = |(number, sector): (&u64, &Sector)| {
            let is_dirty = dirty.contains(&(number * self.sector_size / PAGE));
            is_dirty.then_some((*number, sector.stores.len()))
        };
        self.syncing = self.sectors.iter().filter_map(in_page).collect();
    }

    /// The sync that began last has succeeded, or has failed: of what it was to write, anything may be on
    /// the disk then.
    pub fn end_sync(&mut self, has_failed: bool) {
        self.has_untold_error = false;
        for (number, count) in mem::take(&mut self.syncing) {
            if !has_failed {
                self.persist(number, count);
            }
        }
    }

    /// The first `count` stores to a disk sector are on the disk.
    fn persist(&mut self, number: u64, count: usize) {
        if let Some(sector) = self.sectors.get_mut(&number) {
            let count = count.min(sector.stores.len());
            for store in sector.stores.drain(..count) {
                store.apply(|offset, bytes| self.disk.write(offset, bytes));
            }
            if sector.stores.is_empty() {
                self.sectors.remove(&number);
            }
        }
    }

    /// The kernel's write-back of a page has failed.
    pub fn fail_write_back(&mut self, page: u64) {
        self.has_untold_error = true;
        self.dirty.remove(&(page / PAGE));
    }

    /// Returns whether a write-back has failed that no sync has told of: the next one does, by whichever
    /// process, and no other.
    #[must_use]
    pub fn has_untold_error(&self) -> bool {
        self.has_untold_error
    }

    /// Offsets of the pages that are clean and not known to be on the disk as they are.
    pub fn lost_pages(&self) -> impl Iterator<Item = u64> {
        let mut pages: Vec<u64> =
            self.sectors.keys().map(|number| number * self.sector_size / PAGE).collect();
        pages.dedup();
        pages.retain(|page| !self.dirty.contains(page));
        pages.into_iter().map(|page| page * PAGE)
    }

    /// Offsets of the pages that are dirty.
    pub fn dirty_pages(&self) -> impl Iterator<Item = u64> {
        self.dirty.iter().map(|page| page * PAGE)
    }

    /// What may be on the disk of the page at `offset`, as `random` has it.
    #[must_use]
    pub fn on_disk(&self, offset: u64, random: &mut Random) -> Box<[u8]> {
        let mut bytes = vec![0; PAGE as usize];
        self.disk.read(offset, &mut bytes);
        for sector in self.in_page(offset) {
            let count = random.within(0..sector.stores.len() as u64 + 1) as usize;
            for store in &sector.stores[..count] {
                store.apply(|at, stored| {
                    let at = (at - offset) as usize;
                    bytes[at..at + stored.len()].copy_from_slice(stored);
                });
            }
        }
        bytes.into()
    }

    fn in_page(&self, offset: u64) -> impl Iterator<Item = &Sector> {
        let numbers = offset / self.sector_size..(offset + PAGE) / self.sector_size;
        self.sectors.range(numbers).map(|(_, sector)| sector)
    }

    /// The clean page at `offset` was dropped: it is as it is on the disk, `bytes`.
    pub fn drop_page(&mut self, offset: u64, bytes: &[u8]) {
        self.disk.write(offset, bytes);
        let numbers = offset / self.sector_size..(offset + PAGE) / self.sector_size;
        self.sectors.retain(|number, _| !numbers.contains(number));
    }

    /// Everything stored so far is on the disk.
    pub fn sync(&mut self) {
        self.begin_sync(0..u64::MAX);
        for number in self.sectors.keys().copied().collect::<Vec<_>>() {
            self.persist(number, self.sectors[&number].stores.len());
        }
        self.syncing.clear();
    }

    /// Offsets of the data that need not be on the disk.
    pub fn data(&self) -> impl Iterator<Item = u64> {
        let data = self.sectors.values().filter(|sector| !sector.is_metadata);
        data.filter_map(|sector| sector.stores.first()).map(|store| store.offset)
    }

    /// What a reader of the running system sees.
    #[must_use]
    pub fn seen(&self) -> Contents {
        let counts = self.sectors.values().map(|sector| sector.stores.len()).collect();
        self.image(counts)
    }

    /// Hands `each` the images that a power failure may leave on the disk.
    pub fn images(
        &self,
        effort: &Effort,
        random: &mut Random,
        each: &mut dyn FnMut(Contents),
    ) -> Images {
        let metadata = || self.sectors.values().filter(|sector| sector.is_metadata);
        let lengths: Vec<usize> = metadata().map(|sector| sector.stores.len()).collect();
        let choices = self.choices(effort, random);
        enumerate(&lengths, &choices, effort, random, &mut |prefixes, data| {
            let mut prefixes = prefixes.into_iter();
            let count = |(number, sector): (&u64, &Sector)| {
                let of_metadata = if sector.is_metadata { prefixes.next() } else { None };
                of_metadata.unwrap_or_else(|| data.count(*number, sector.stores.len()))
            };
            each(self.image(self.sectors.iter().map(count).collect()));
        })
    }

    /// The choices among the sectors with data that `effort` asks for.
    fn choices(&self, effort: &Effort, random: &mut Random) -> Vec<Data> {
        let data = self.sectors.iter().filter(|(_, sector)| !sector.is_metadata);
        let mut sectors: Vec<u64> = data.map(|(number, _)| *number).collect();
        if sectors.is_empty() {
            return vec![Data::None];
        }
        let mut choices = vec![Data::None, Data::All];
        while sectors.len() > effort.lines {
            sectors.swap_remove(random.within(0..sectors.len() as u64) as usize);
        }
        if sectors.len() > 1 {
            choices.extend(sectors.iter().map(|sector| Data::Without(*sector)));
            choices.extend(sectors.iter().map(|sector| Data::Only(*sector)));
        }
        choices.extend((0..effort.random).map(|_| Data::Random(random.any())));
        choices
    }

    /// The disk with the first few stores to each sector, whose numbers are `counts`.
    fn image(&self, counts: Vec<usize>) -> Contents {
        let mut image = self.disk.clone();
        for (sector, count) in self.sectors.values().zip(counts) {
            for store in &sector.stores[..count] {
                store.apply(|offset, bytes| image.write(offset, bytes));
            }
        }
        image
    }
}

impl Data {
    /// How many of the stores to a sector with data, `length` of them, reached the disk.
    fn count(self, number: u64, length: usize) -> usize {
        let all = match self {
            Data::None => false,
            Data::All => true,
            Data::Without(sector) => number != sector,
            Data::Only(sector) => number == sector,
            Data::Random(seed) => {
                let mut random = Random::new(seed ^ number);
                return random_prefixes([length].into_iter(), &mut random)[0];
            }
        };
        if all { length } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const EFFORT: Effort = Effort { most: 1000, random: 4, lines: 16 };
    const SECTOR: u64 = 512;
    const WHOLE: Range<u64> = 0..4 * PAGE;

    fn cache() -> PageCache {
        PageCache::new(Contents::zeroes(4 * PAGE), SECTOR)
    }

    fn bytes<const N: usize>(contents: &Contents, offsets: [u64; N]) -> [u8; N] {
        offsets.map(|offset| {
            let mut byte = [0];
            contents.read(offset, &mut byte);
            byte[0]
        })
    }

    /// The bytes at `offsets` that a power failure may leave.
    fn left<const N: usize>(cache: &PageCache, offsets: [u64; N]) -> HashSet<[u8; N]> {
        let mut left = HashSet::new();
        cache.images(&EFFORT, &mut Random::new(1), &mut |image| {
            left.insert(bytes(&image, offsets));
        });
        left
    }

    #[test]
    fn a_disk_sector_keeps_the_order_of_its_stores_and_sectors_have_none() {
        let mut cache = cache();
        cache.store(0, &[1]);
        cache.store(8, &[2]);
        cache.store(SECTOR, &[3]);
        let all = [[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 0, 3], [1, 0, 3], [1, 2, 3]];
        assert_eq!(left(&cache, [0, 8, SECTOR]), all.into());
        let mut whole_pages = PageCache::new(Contents::zeroes(4 * PAGE), PAGE);
        for (offset, byte) in [(0, 1), (8, 2), (SECTOR, 3)] {
            whole_pages.store(offset, &[byte]);
        }
        let all = [[0, 0, 0], [1, 0, 0], [1, 2, 0], [1, 2, 3]];
        assert_eq!(left(&whole_pages, [0, 8, SECTOR]), all.into());
        assert_eq!(bytes(&cache.seen(), [0, 8, SECTOR]), [1, 2, 3]);
    }

    #[test]
    fn a_sync_makes_durable_what_was_stored_before_it_began() {
        let mut cache = cache();
        cache.store(0, &[1]);
        cache.begin_sync(WHOLE);
        cache.store(0, &[2]);
        cache.store(PAGE, &[3]);
        assert_eq!(left(&cache, [0]), [[0], [1], [2]].into());
        cache.end_sync(false);
        assert_eq!(left(&cache, [0, PAGE]), [[1, 0], [1, 3], [2, 0], [2, 3]].into());
        cache.sync();
        assert_eq!(left(&cache, [0, PAGE]), [[2, 3]].into());
    }

    #[test]
    fn after_a_failed_sync_only_pages_that_are_stored_to_are_written_again() {
        let mut cache = cache();
        cache.store(0, &[1]);
        cache.store(PAGE, &[1]);
        cache.begin_sync(WHOLE);
        cache.end_sync(true);
        assert_eq!(cache.lost_pages().collect::<Vec<_>>(), [0, PAGE]);
        cache.store(PAGE + SECTOR, &[2]);
        assert_eq!(cache.lost_pages().collect::<Vec<_>>(), [0]);
        cache.begin_sync(WHOLE);
        cache.end_sync(false);
        assert_eq!(left(&cache, [0, PAGE, PAGE + SECTOR]), [[0, 1, 2], [1, 1, 2]].into());
        // What a reader sees is lost with its page.
        assert_eq!(bytes(&cache.seen(), [0]), [1]);
        let on_disk: HashSet<u8> =
            (0..9).map(|seed| cache.on_disk(0, &mut Random::new(seed))[0]).collect();
        assert_eq!(on_disk, [0, 1].into());
        cache.drop_page(0, &[0; PAGE as usize]);
        assert_eq!(left(&cache, [0, PAGE]), [[0, 1]].into());
        assert_eq!(bytes(&cache.seen(), [0, PAGE]), [0, 1]);
    }

    #[test]
    fn a_page_that_the_kernel_could_not_write_back_is_left_out_by_a_sync() {
        let mut cache = cache();
        cache.store(0, &[1]);
        cache.store(PAGE, &[1]);
        cache.fail_write_back(0);
        cache.begin_sync(WHOLE);
        cache.end_sync(false);
        assert_eq!(left(&cache, [0, PAGE]), [[0, 1], [1, 1]].into());
    }

    #[test]
    fn a_copy_of_data_may_be_torn_anywhere_and_its_words_may_not() {
        let mut cache = cache();
        cache.stream(PAGE - SECTOR, &[9; 3 * SECTOR as usize]);
        let mut kinds = HashSet::new();
        cache.images(&Effort { random: 50, ..EFFORT }, &mut Random::new(1), &mut |image| {
            for sector in [PAGE - SECTOR, PAGE, PAGE + SECTOR] {
                let mut bytes = [0; SECTOR as usize];
                image.read(sector, &mut bytes);
                let (words, _) = bytes.as_chunks::<8>();
                assert!(words.iter().all(|word| *word == [0; 8] || *word == [9; 8]));
                let stored = words.iter().filter(|word| word[0] == 9).count();
                kinds.insert((sector, stored.min(1) + stored / words.len()));
            }
        });
        assert_eq!(kinds.len(), 9, "of each sector nothing, a part, or all");
        assert_eq!(cache.data().count(), 3);
    }
}
