//! An open region.

use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

use super::load;
use super::state::State;
use super::transaction::Transaction;
use crate::dax::format::discovery;
use crate::dax::format::error::Error;
use crate::dax::format::superblock::Superblock;
use crate::dax::format::units::{Align, Extent, PAGE_SIZE};
use crate::dax::journal::durable;
use crate::dax::journal::ring::Ring;
use crate::pmem::{MediaError, PersistentMemory};

/// How often a region is read that is changed all the while.
const MOST_LOOKS: usize = 100;

/// An open region: owners and their pages, devices and their extents.
///
/// All offsets are in bytes from the start of the namespace. Methods may be called from several
/// threads; one change is made after the other, and a look-up sees the region before
/// or after a change, for which it may have to wait.
#[derive(Debug)]
pub struct Region<M> {
    pub(super) medium: M,
    pub(super) superblock: Superblock,
    read_only: bool,
    state: RwLock<State>,
}

/// What tells a region from the same one after a change.
#[derive(Debug, Clone)]
struct Moment {
    superblock: Superblock,
    /// Number of the newest journal entry.
    newest: u64,
}

impl Moment {
    fn of<M: PersistentMemory>(medium: &M) -> Result<Moment, Error> {
        let superblock = discovery::superblock(medium)?;
        Ok(Moment { superblock, newest: Ring::newest(medium, &superblock)? })
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Moment) -> bool {
        let same_size = self.superblock == other.superblock || mutant!(dax::GrowthOverlooked);
        self.newest == other.newest && same_size
    }
}

/// A region as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Bytes that can be allocated, the journal's among them.
    pub size: u64,
    /// Default alignment of devices.
    pub align: Align,
    /// Free bytes.
    pub free: u64,
    /// Free bytes in extents of the default alignment: what devices can grow by.
    pub available: u64,
    /// Bytes of the largest free extent of the default alignment.
    pub largest: u64,
    /// Free extents of the default alignment, by offset, in pages.
    pub free_extents: Vec<Extent>,
    /// Bytes of the journal.
    pub journal: Range<u64>,
    /// Metadata pages that are free, of 2046.
    pub free_metadata_pages: usize,
    /// Number of devices.
    pub devices: usize,
}

impl RegionInfo {
    /// How broken up the free space is: 0 when it is one extent, near 1 when it is many; the part of
    /// the available bytes that is not in the largest free extent.
    #[must_use]
    pub fn fragmentation(&self) -> f64 {
        if self.available == 0 {
            return 0.0;
        }
        #[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
        let largest_part = self.largest as f64 / self.available as f64;
        1.0 - largest_part
    }
}

impl<M: PersistentMemory> Region<M> {
    /// Opens the region on `medium`. All that this writes is the replay of a change that was cut off,
    /// and not even that if `read_only`; then the replay is made in DRAM.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::NotDurable`]; [`Error::ReadOnlyFeatures`]; [`Error::Superblocks`] and [`Error::Damaged`] for what cannot be trusted;
    /// the medium's.
    pub fn open(medium: M, read_only: bool) -> Result<Region<M>, Error> {
        if !read_only {
            durable::require(&medium)?;
        }
        let superblock = discovery::superblock(&medium)?;
        if !read_only {
            superblock.features.check_change()?;
        }
        let state = load::load(&medium, &superblock, read_only)?;
        Ok(Region { medium, superblock, read_only, state: RwLock::new(state) })
    }

    /// Opens, for reading only, a region that another process may be changing, in its state at one moment.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`Error::Unsteady`].
    pub fn look_at(medium: M) -> Result<Region<M>, Error> {
        for _ in 0..MOST_LOOKS {
            // A change stores nothing that a chain reaches before its journal entry is whole. So what
            // is read between two looks at the same newest entry is as that entry leaves it: with the
            // entry's stores, which may be under way, made in DRAM. Growth changes the superblock alone.
            let before = Moment::of(&medium);
            let looked_at = before.clone().and_then(|Moment { superblock, .. }| {
                Ok((superblock, load::load(&medium, &superblock, true)?))
            });
            if Moment::of(&medium) == before || mutant!(dax::LookedAtOnce) {
                let (superblock, state) = looked_at?;
                let state = RwLock::new(state);
                return Ok(Region { medium, superblock, read_only: true, state });
            }
        }
        Err(Error::Unsteady)
    }

    /// The region as a whole. Takes time in proportion to the number of free blocks.
    #[must_use]
    pub fn info(&self) -> RegionInfo {
        let state = self.look();
        let align = self.superblock.align;
        let free_extents = state.buddy.runs(align.order());
        let largest = free_extents.iter().map(|run| run.pages).max().unwrap_or(0);
        RegionInfo {
            uuid: self.superblock.set_uuid,
            size: self.superblock.page_count * PAGE_SIZE,
            align,
            free: state.buddy.available(0) * PAGE_SIZE,
            available: state.buddy.available(align.order()) * PAGE_SIZE,
            largest: largest * PAGE_SIZE,
            free_extents,
            journal: self.superblock.journal().bytes(),
            free_metadata_pages: state.pool.len(),
            devices: state.devices.len(),
        }
    }

    /// Free extents of a multiple of `align`, in bytes, by offset: what devices of that alignment can be
    /// made of.
    #[must_use]
    pub fn free_extents(&self, align: Align) -> Vec<Range<u64>> {
        self.look().buddy.runs(align.order()).into_iter().map(Extent::bytes).collect()
    }

    /// Offset of the first byte at or after `offset` in which something may be stored.
    #[must_use]
    pub fn next_stored(&self, offset: u64) -> u64 {
        self.medium.next_stored(offset)
    }

    /// The medium.
    #[must_use]
    pub fn medium(&self) -> &M {
        &self.medium
    }

    pub(super) fn look(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, to change it.
    pub(in crate::dax) fn change(&self) -> Result<RwLockWriteGuard<'_, State>, Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.failed { Err(Error::Failed) } else { Ok(state) }
    }

    /// Commits. If it is unknown whether that succeeded, nothing more is changed; if the medium fails
    /// earlier, nothing has changed, and the region can be used as before.
    pub(super) fn commit(&self, state: &mut State, change: Transaction) -> Result<(), Error> {
        let prepared = change.prepare(&self.medium, &mut state.ring)?;
        let committed = prepared.commit(&self.medium, &mut state.ring);
        state.failed = committed.is_err();
        Ok(committed?)
    }

    /// Zeroes free pages before they get an owner: what an earlier owner left is never seen,
    /// wherever a crash came between. What is known to be a hole is left alone.
    pub(super) fn zero_for_new_owner(&self, extents: &[Extent]) -> Result<(), MediaError> {
        if mutant!(dax::ZeroedAtFreeOnly) {
            return Ok(());
        }
        if mutant!(dax::ZeroedLate) {
            return Ok(());
        }
        self.zero(extents)
    }

    /// Gives pages that are free now back to the file system. That this may fail is no harm, since
    /// they are zeroed again before they get an owner.
    pub(super) fn give_back(&self, extents: &[Extent]) {
        if mutant!(dax::ZeroedBeforeFree) {
            return;
        }
        if let Err(error) = self.zero(extents) {
            log::warn!("freed pages stay allocated in the file: {error}");
        }
    }

    pub(super) fn zero(&self, extents: &[Extent]) -> Result<(), MediaError> {
        for extent in extents {
            let bytes = extent.bytes();
            let start = self.medium.next_stored(bytes.start);
            if start < bytes.end {
                self.medium.zero(start, bytes.end - start)?;
            }
        }
        Ok(())
    }
}
