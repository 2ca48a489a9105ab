//! Resizing devices, in two phases.
//!
//! [`LayoutLock::begin_resize`] says which bytes a device will lose, and changes nothing. The caller takes
//! them away from the device's holders, which may take time: look-ups go on meanwhile, and other changes
//! wait for the layout lock. [`PendingResize::commit`] then makes the change. Dropping a [`PendingResize`]
//! abandons it.

use std::iter;
use std::ops::Range;

use super::devices::{DeviceInfo, encode, find, info, whole_pages};
use super::extents::{self, Preference, Relinked};
use super::region::{LayoutLock, Region};
use super::state::{Device, State};
use super::transaction::Transaction;
use crate::dax::format::error::{Error, Space};
use crate::dax::format::units::Extent;
use crate::pmem::PersistentMemory;

/// A resize that has not been made.
#[derive(Debug)]
pub struct PendingResize<'l, 'r, M> {
    layout: &'l LayoutLock<'r, M>,
    name: String,
    device: Device,
    is_held: bool,
    /// The new size.
    pages: u64,
}

impl<M: PersistentMemory> Region<M> {
    /// Makes a device larger, or a device that is not held smaller. What is new is zero, and at its end; it
    /// is taken from behind the last extent if it can be, else from the lowest addresses. What goes, goes
    /// from the end.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::Misaligned`], [`Error::NoSpace`], [`Error::NoRoomFor`];
    /// [`Error::Busy`] when it shrinks; the medium's.
    pub fn resize_device(&self, name: &str, size: u64) -> Result<(), Error> {
        let layout = self.lock_layout();
        let pending = layout.begin_resize(name, size)?;
        if pending.is_held && pending.shrinks() {
            return Err(Error::Busy { name: name.to_owned() });
        }
        pending.commit()
    }

    /// Writes a device that has grown to its slot.
    pub(super) fn commit_growth(
        &self,
        state: &mut State,
        name: &str,
        growth: Growing,
    ) -> Result<Device, Error> {
        let Growing { device, taken, pages, mut change } = growth;
        change.store_bytes(device.slot, &encode(name, &device));
        if let Err(error) = self.commit(state, change) {
            state.give(&taken);
            return Err(error);
        }
        state.pool.extend(pages.unlinked);
        for page in &pages.linked {
            state.pool.remove(page);
        }
        Ok(device)
    }
}

impl<'r, M: PersistentMemory> LayoutLock<'r, M> {
    /// Begins to make a device larger or smaller, also one that is held.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::Misaligned`], [`Error::ReadOnly`], [`Error::Failed`].
    pub fn begin_resize(&self, name: &str, size: u64) -> Result<PendingResize<'_, 'r, M>, Error> {
        self.check_change()?;
        let state = self.region.look();
        let found = find(&state, name)?;
        let (device, is_held) = (found.clone_unheld(), found.is_held());
        let pages = whole_pages(size, device.align)?;
        Ok(PendingResize { layout: self, name: name.to_owned(), device, is_held, pages })
    }

    /// Takes `more` zeroed pages for `device`; nothing changes on the medium unless that is committed. The
    /// metadata page `reserved` is not to be had for extents.
    ///
    /// Where the small gaps that come first would take a metadata page that is not there, the device gets
    /// as few extents as possible.
    pub(super) fn prepare_growth(
        &self,
        device: &Device,
        more: u64,
        reserved: Option<u64>,
        change: &Transaction,
    ) -> Result<Growing, Error> {
        let plan = |preference| {
            let state = &mut *self.state_mut();
            plan_growth(state, device, more, reserved, change.clone(), preference)
        };
        let planned = match plan(Preference::Lowest) {
            Err(Error::NoRoomFor(Space::Metadata)) if !mutant!(dax::NoFewerExtents) => {
                plan(Preference::Fewest)
            }
            planned => planned,
        };
        let growing = planned?;
        if let Err(error) = self.region.zero_for_new_owner(&growing.taken) {
            self.state_mut().give(&growing.taken);
            return Err(error.into());
        }
        Ok(growing)
    }
}

impl<M: PersistentMemory> PendingResize<'_, '_, M> {
    /// The device before it is resized.
    #[must_use]
    pub fn device(&self) -> DeviceInfo {
        DeviceInfo { held: self.is_held, ..info(&self.name, &self.device) }
    }

    /// The bytes of the namespace that the device will lose: no holder may have access to them when this
    /// is committed.
    #[must_use]
    pub fn doomed(&self) -> Vec<Range<u64>> {
        let (_, gone) = extents::cut(&self.device.extents, self.pages);
        gone.into_iter().map(Extent::bytes).collect()
    }

    /// Resizes the device.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::NoRoomFor`]; the medium's.
    pub fn commit(self) -> Result<(), Error> {
        match self.pages.checked_sub(self.device.pages()) {
            Some(0) => Ok(()),
            Some(more) => self.grow(more),
            None => self.shrink(),
        }
    }

    fn shrinks(&self) -> bool {
        self.pages < self.device.pages()
    }

    fn grow(self, more: u64) -> Result<(), Error> {
        let PendingResize { layout, name, device, .. } = self;
        let growth = layout.prepare_growth(&device, more, None, &Transaction::default())?;
        let state = &mut *layout.state_mut();
        let device = layout.region.commit_growth(state, &name, growth)?;
        replace(state, &name, device);
        Ok(())
    }

    fn shrink(self) -> Result<(), Error> {
        let PendingResize { layout, name, mut device, pages, .. } = self;
        let old = std::mem::take(&mut device.extents);
        let (new, gone) = extents::cut(&old, pages);
        let mut change = Transaction::default();
        let changed = extents::write(&mut device, &old, new, iter::empty(), &mut change)?;
        change.store_bytes(device.slot, &encode(&name, &device));
        {
            let state = &mut *layout.state_mut();
            layout.region.commit_freed(state, change, &gone)?;
            state.pool.extend(changed.unlinked);
            replace(state, &name, device);
        }
        layout.region.give_back(&gone);
        Ok(())
    }
}

/// Puts a device in the place of what it was, with the same holders.
fn replace(state: &mut State, name: &str, changed: Device) {
    if let Some(device) = state.devices.get_mut(name) {
        let holders = device.holders.clone();
        *device = Device { holders, ..changed };
    }
}

/// A device that is about to grow.
#[derive(Debug)]
pub(super) struct Growing {
    device: Device,
    /// What it grows by: taken from the free pages, but not from the pool of metadata pages.
    taken: Vec<Extent>,
    pages: Relinked,
    change: Transaction,
}

/// Takes `more` pages for `device`, and adds to `change` what that changes outside its slot.
fn plan_growth(
    state: &mut State,
    device: &Device,
    more: u64,
    reserved: Option<u64>,
    mut change: Transaction,
    preference: Preference,
) -> Result<Growing, Error> {
    let mut device = device.clone_unheld();
    let old = std::mem::take(&mut device.extents);
    let taken = extents::take(state, &device, &old, more, preference)?;
    let mut new = old.clone();
    for extent in &taken {
        extents::append(&mut new, *extent);
    }
    let pool = state.pool.iter().copied().filter(|page| Some(*page) != reserved);
    match extents::write(&mut device, &old, new, pool, &mut change) {
        Ok(pages) => Ok(Growing { device, taken, pages, change }),
        Err(error) => {
            state.give(&taken);
            Err(error)
        }
    }
}
