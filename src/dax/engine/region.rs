//! An open region.

use std::ops::Range;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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
/// threads. Changes are made one after the other, under the layout lock; a look-up sees the region before
/// or after a change, and waits for one transaction at most.
#[derive(Debug)]
pub struct Region<M> {
    pub(super) medium: M,
    pub(super) superblock: Superblock,
    read_only: bool,
    /// Serialises changes. It is locked before the state.
    layout: Mutex<()>,
    state: RwLock<State>,
}

/// The layout lock of a region: while it exists, no device or owner changes. Changes and holds take it, so
/// a thread that has it makes them through it alone.
#[derive(Debug)]
pub struct LayoutLock<'a, M> {
    pub(super) region: &'a Region<M>,
    _guard: MutexGuard<'a, ()>,
}

/// A region's state, to change it.
pub(in crate::dax) struct Change<'a, M> {
    // Fields are dropped in this order.
    state: RwLockWriteGuard<'a, State>,
    _layout: LayoutLock<'a, M>,
}

impl<M> Deref for Change<'_, M> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl<M> DerefMut for Change<'_, M> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
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
        Ok(Region::new(medium, superblock, read_only, state))
    }

    fn new(medium: M, superblock: Superblock, read_only: bool, state: State) -> Region<M> {
        let (layout, state) = (Mutex::new(()), RwLock::new(state));
        Region { medium, superblock, read_only, layout, state }
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
                return Ok(Region::new(medium, superblock, true, state));
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

    /// Waits for the change that is being made, and keeps others from beginning.
    pub fn lock_layout(&self) -> LayoutLock<'_, M> {
        // What is guarded is not in the mutex, and a panic leaves it whole.
        let guard = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        LayoutLock { region: self, _guard: guard }
    }

    /// The layout lock, for a change.
    pub(super) fn begin_change(&self) -> Result<LayoutLock<'_, M>, Error> {
        let layout = self.lock_layout();
        layout.check_change()?;
        Ok(layout)
    }

    /// The state, for a change that is one transaction.
    pub(in crate::dax) fn change(&self) -> Result<Change<'_, M>, Error> {
        let layout = self.begin_change()?;
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Change { state, _layout: layout })
    }

    /// Commits. If it is unknown whether that succeeded, nothing more is changed; if the medium fails
    /// earlier, nothing has changed, and the region can be used as before.
    pub(super) fn commit(&self, state: &mut State, change: Transaction) -> Result<(), Error> {
        let prepared = change.prepare(&self.medium, &mut state.ring)?;
        let committed = prepared.commit(&self.medium, &mut state.ring);
        state.failed = committed.is_err();
        Ok(committed?)
    }

    /// Commits a change that frees `extents`. Afterwards, they are to be given back.
    pub(super) fn commit_freed(
        &self,
        state: &mut State,
        change: Transaction,
        extents: &[Extent],
    ) -> Result<(), Error> {
        self.commit(state, change)?;
        state.give(extents);
        Ok(())
    }

    /// Zeroes free pages before they get an owner: what an earlier owner left is never seen,
    /// wherever a crash came between. What is known to be a hole is left alone.
    pub(super) fn zero_for_new_owner(&self, extents: &[Extent]) -> Result<(), MediaError> {
        self.zero(extents)
    }

    /// Gives pages that are free now back to the file system. That this may fail is no harm, since
    /// they are zeroed again before they get an owner.
    pub(super) fn give_back(&self, extents: &[Extent]) {
        if let Err(error) = self.zero(extents) {
            log::warn!("freed pages stay allocated in the file: {error}");
        }
    }

    /// Zeroes pages.
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

impl<M: PersistentMemory> LayoutLock<'_, M> {
    /// Refuses changes of a region that is open for reading only, or whose last change was cut short.
    pub(super) fn check_change(&self) -> Result<(), Error> {
        if self.region.read_only {
            return Err(Error::ReadOnly);
        }
        if self.region.look().failed { Err(Error::Failed) } else { Ok(()) }
    }

    /// The state, to change it. Look-ups wait until it is dropped.
    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.region.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
