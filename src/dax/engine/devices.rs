//! Devices: named parts of the region that grow and shrink.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::extents::{self, Preference, Relinked};
use super::region::Region;
use super::state::{Device, State, is_text};
use super::transaction::Transaction;
use crate::dax::format::error::{Error, Space};
use crate::dax::format::layout::{self, CONTIGUOUS, DeviceSlot, ExtentOnMedia, INLINE_EXTENTS};
use crate::dax::format::units::{Align, Extent, PAGE_SIZE};
use crate::pmem::PersistentMemory;

/// A device to be made.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// Its name: 1 to 32 bytes of UTF-8 without control characters or `/`.
    pub name: String,
    /// Its uuid.
    pub uuid: Uuid,
    /// What it is for: up to 32 bytes.
    pub label: String,
    /// Its size in bytes; 0 makes a seed, to be resized later.
    pub size: u64,
    /// What its extents are multiples of; `None`: the region's default.
    pub align: Option<Align>,
    /// It is to be one extent, whatever its size becomes.
    pub contiguous: bool,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: Uuid,
    /// What it is for.
    pub label: String,
    /// Its size in bytes.
    pub size: u64,
    /// What its extents are multiples of.
    pub align: Align,
    /// It is one extent, always.
    pub contiguous: bool,
    /// Whether it is held.
    pub held: bool,
    /// Its bytes in the namespace, in the order of device offsets; no two that follow each other
    /// touch.
    pub extents: Vec<Range<u64>>,
}

/// Keeps a device from being shrunk or destroyed, until dropped.
#[derive(Debug)]
pub struct Hold {
    _holder: Arc<()>,
}

/// What to do about a device that is held, before a part of it goes.
pub enum Held<'a> {
    /// Refuse: busy.
    Refuse,
    /// Take these bytes away from the holder, by device offset; whether that was done and
    /// answered. It must not call this region.
    TakeAway(&'a mut dyn FnMut(Range<u64>) -> bool),
}

impl<M: PersistentMemory> Region<M> {
    /// All devices, by name.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.look().devices.iter().map(|(name, device)| info(name, device)).collect()
    }

    /// The device of this name.
    pub fn device(&self, name: &str) -> Result<DeviceInfo, Error> {
        Ok(info(name, find(&self.look(), name)?))
    }

    /// The name of the device with this uuid.
    #[must_use]
    pub fn device_of(&self, uuid: Uuid) -> Option<String> {
        self.look().names.get(&uuid).cloned()
    }

    /// The bytes of the namespace that are the device's from `offset` on, up to the end of the extent
    /// that holds it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::BehindEnd`].
    pub fn resolve(&self, name: &str, offset: u64) -> Result<Range<u64>, Error> {
        let state = self.look();
        let device = find(&state, name)?;
        let mut start = 0;
        for bytes in device.extents.iter().map(|extent| extent.bytes()) {
            let size = bytes.end - bytes.start;
            if offset - start < size {
                return Ok(bytes.start + (offset - start)..bytes.end);
            }
            start += size;
        }
        Err(Error::BehindEnd { name: name.to_owned(), offset, size: start })
    }

    /// Holds a device, as a guest does that has it mapped.
    pub fn hold(&self, name: &str) -> Result<Hold, Error> {
        let state = self.look();
        Ok(Hold { _holder: Arc::clone(&find(&state, name)?.holders) })
    }

    /// Makes a device. Its bytes are zero.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`], [`Error::BadLabel`], [`Error::DeviceExists`], [`Error::UuidInUse`],
    /// [`Error::Misaligned`], [`Error::NoSpace`], [`Error::NoRoomFor`]; the medium's.
    pub fn create_device(&self, options: &DeviceOptions) -> Result<(), Error> {
        let DeviceOptions { name, uuid, label, size, align, contiguous } = options;
        check_name(name)?;
        if !is_text(label) {
            return Err(Error::BadLabel(label.clone()));
        }
        let align = align.unwrap_or(self.superblock.align);
        let pages = whole_pages(*size, align)?;
        let state = &mut *self.change()?;
        if state.devices.contains_key(name) {
            return Err(Error::DeviceExists(name.clone()));
        }
        if state.is_in_use(*uuid) {
            return Err(Error::UuidInUse(*uuid));
        }
        let mut change = Transaction::default();
        let filled = state.slots.fill(&state.pool, &mut change)?;
        let device = Device {
            slot: filled.slot,
            uuid: *uuid,
            label: label.clone(),
            align,
            contiguous: *contiguous,
            extents: Vec::new(),
            chain: Vec::new(),
            holders: Arc::default(),
        };
        let device = self.grow(state, name, &device, pages, filled.page, &change)?;
        state.slots.filled(filled, &mut state.pool);
        state.names.insert(*uuid, name.clone());
        state.devices.insert(name.clone(), device);
        Ok(())
    }

    /// Makes a device larger or smaller. What is new is zero, and at its end; it is taken from behind
    /// the last extent if it can be, else from the lowest addresses. What goes, goes from the end.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::Misaligned`], [`Error::NoSpace`], [`Error::NoRoomFor`];
    /// when it shrinks: [`Error::Busy`], [`Error::NotLetGo`]; the medium's.
    pub fn resize_device(&self, name: &str, size: u64, held: Held<'_>) -> Result<(), Error> {
        let state = &mut *self.change()?;
        let device = find(state, name)?.clone_unheld();
        let pages = whole_pages(size, device.align)?;
        let change = Transaction::default();
        let changed = match pages.checked_sub(device.pages()) {
            Some(0) => return Ok(()),
            Some(more) => self.grow(state, name, &device, more, None, &change)?,
            None => {
                take_away(name, find(state, name)?, size, held)?;
                self.shrink(state, name, device, pages, change)?
            }
        };
        if let Some(device) = state.devices.get_mut(name) {
            let holders = Arc::clone(&device.holders);
            *device = Device { holders, ..changed };
        }
        Ok(())
    }

    /// Destroys a device.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::Busy`], [`Error::NotLetGo`]; the medium's.
    pub fn destroy_device(&self, name: &str, held: Held<'_>) -> Result<(), Error> {
        let state = &mut *self.change()?;
        let device = find(state, name)?;
        take_away(name, device, 0, held)?;
        let (slot, uuid, chain) = (device.slot, device.uuid, device.chain.clone());
        let extents = device.extents.clone();
        let mut change = Transaction::default();
        state.slots.empty(slot, &mut change);
        if mutant!(dax::ZeroedBeforeFree) {
            self.zero(&extents)?;
        }
        self.commit(state, change)?;
        state.slots.emptied(slot, &mut state.pool);
        state.pool.extend(chain);
        state.devices.remove(name);
        state.names.remove(&uuid);
        state.give(&extents);
        self.give_back(&extents);
        Ok(())
    }

    /// Gives a device another name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::BadName`], [`Error::DeviceExists`]; the medium's.
    pub fn rename_device(&self, name: &str, new: &str) -> Result<(), Error> {
        check_name(new)?;
        let state = &mut *self.change()?;
        let device = find(state, name)?;
        if name == new {
            return Ok(());
        }
        if state.devices.contains_key(new) {
            return Err(Error::DeviceExists(new.to_owned()));
        }
        let uuid = device.uuid;
        let mut change = Transaction::default();
        change.store_bytes(device.slot, &encode(new, device));
        self.commit(state, change)?;
        if let Some(device) = state.devices.remove(name) {
            state.devices.insert(new.to_owned(), device);
        }
        state.names.insert(uuid, new.to_owned());
        Ok(())
    }

    /// Gives a device another alignment, for when it grows. Its extents have to have it already; an empty
    /// device has none.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::Busy`], [`Error::CannotAlign`]; the medium's.
    pub fn align_device(&self, name: &str, align: Align) -> Result<(), Error> {
        let state = &mut *self.change()?;
        let device = find(state, name)?;
        if device.is_held() {
            return Err(Error::Busy { name: name.to_owned() });
        }
        let bounds = self.superblock.bounds();
        let misaligned =
            |extent: &&Extent| layout::check_extent(**extent, align.order(), bounds).is_err();
        if let Some(extent) = device.extents.iter().find(misaligned) {
            let (name, align, extent) = (name.to_owned(), align.bytes(), extent.bytes());
            return Err(Error::CannotAlign { name, align, extent });
        }
        let aligned = Device { align, ..device.clone_unheld() };
        let mut change = Transaction::default();
        change.store_bytes(aligned.slot, &encode(name, &aligned));
        self.commit(state, change)?;
        if let Some(device) = state.devices.get_mut(name) {
            device.align = align;
        }
        Ok(())
    }

    /// Grows `device` by `more` pages, and writes it to its slot; nothing changes unless all of it
    /// does. The metadata page `reserved` is not to be had for extents.
    ///
    /// Where the small gaps that come first would take a metadata page that is not there, the device gets
    /// as few extents as possible.
    fn grow(
        &self,
        state: &mut State,
        name: &str,
        device: &Device,
        more: u64,
        reserved: Option<u64>,
        change: &Transaction,
    ) -> Result<Device, Error> {
        let plan = |state: &mut State, preference| {
            plan_growth(state, device, more, reserved, change.clone(), preference)
        };
        let planned = match plan(state, Preference::Lowest) {
            Err(Error::NoRoomFor(Space::Metadata)) if !mutant!(dax::NoFewerExtents) => {
                plan(state, Preference::Fewest)
            }
            planned => planned,
        };
        let Planned { device, taken, pages, mut change } = planned?;
        change.store_bytes(device.slot, &encode(name, &device));
        let done = self.zero_for_new_owner(&taken).map_err(Error::from);
        if let Err(error) = done.and_then(|()| self.commit(state, change)) {
            state.give(&taken);
            return Err(error);
        }
        if mutant!(dax::ZeroedLate) {
            self.zero(&taken)?;
        }
        state.pool.extend(pages.unlinked);
        for page in &pages.linked {
            state.pool.remove(page);
        }
        Ok(device)
    }

    /// Shrinks `device` to `pages` pages.
    fn shrink(
        &self,
        state: &mut State,
        name: &str,
        mut device: Device,
        pages: u64,
        mut change: Transaction,
    ) -> Result<Device, Error> {
        let old = std::mem::take(&mut device.extents);
        let (new, gone) = extents::cut(&old, pages);
        let changed = extents::write(&mut device, &old, new, iter::empty(), &mut change)?;
        change.store_bytes(device.slot, &encode(name, &device));
        if mutant!(dax::ZeroedBeforeFree) {
            self.zero(&gone)?;
        }
        self.commit(state, change)?;
        state.pool.extend(changed.unlinked);
        state.give(&gone);
        self.give_back(&gone);
        Ok(device)
    }
}

impl Device {
    /// A copy to change, which is not counted as held.
    fn clone_unheld(&self) -> Device {
        Device { holders: Arc::default(), ..self.clone() }
    }
}

/// A device that has grown, before that is committed.
struct Planned {
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
) -> Result<Planned, Error> {
    let mut device = device.clone_unheld();
    let old = std::mem::take(&mut device.extents);
    let taken = extents::take(state, &device, &old, more, preference)?;
    let mut new = old.clone();
    for extent in &taken {
        extents::append(&mut new, *extent);
    }
    let pool = state.pool.iter().copied().filter(|page| Some(*page) != reserved);
    match extents::write(&mut device, &old, new, pool, &mut change) {
        Ok(pages) => Ok(Planned { device, taken, pages, change }),
        Err(error) => {
            state.give(&taken);
            Err(error)
        }
    }
}

fn find<'a>(state: &'a State, name: &str) -> Result<&'a Device, Error> {
    state.devices.get(name).ok_or_else(|| Error::UnknownDevice(name.to_owned()))
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.contains('/') || !is_text(name) {
        return Err(Error::BadName(name.to_owned()));
    }
    Ok(())
}

fn whole_pages(size: u64, align: Align) -> Result<u64, Error> {
    if size.is_multiple_of(align.bytes()) {
        Ok(size / PAGE_SIZE)
    } else {
        Err(Error::Misaligned { size, align: align.bytes() })
    }
}

/// Takes what lies after `size` away from the holder of the device.
fn take_away(name: &str, device: &Device, size: u64, held: Held<'_>) -> Result<(), Error> {
    if !device.is_held() {
        return Ok(());
    }
    match held {
        Held::Refuse => Err(Error::Busy { name: name.to_owned() }),
        Held::TakeAway(take_away) => {
            let end = device.pages() * PAGE_SIZE;
            if size == end || take_away(size..end) {
                Ok(())
            } else {
                Err(Error::NotLetGo { name: name.to_owned() })
            }
        }
    }
}

fn info(name: &str, device: &Device) -> DeviceInfo {
    let mut merged: Vec<Extent> = Vec::with_capacity(device.extents.len());
    for extent in &device.extents {
        extents::append(&mut merged, *extent);
    }
    DeviceInfo {
        name: name.to_owned(),
        uuid: device.uuid,
        label: device.label.clone(),
        size: device.pages() * PAGE_SIZE,
        align: device.align,
        contiguous: device.contiguous,
        held: device.is_held(),
        extents: merged.into_iter().map(Extent::bytes).collect(),
    }
}

/// The slot of a device.
fn encode(name: &str, device: &Device) -> [u8; layout::SLOT_SIZE as usize] {
    let mut inline = [ExtentOnMedia { first: U64::ZERO, pages: U64::ZERO }; INLINE_EXTENTS];
    for (inline, extent) in inline.iter_mut().zip(&device.extents) {
        *inline = (*extent).into();
    }
    let slot = DeviceSlot {
        uuid: device.uuid.into_bytes(),
        name: layout::encode_text(name),
        label: layout::encode_text(&device.label),
        extents: U32::new(device.extents.len() as u32),
        align_order: device.align.order() as u8,
        flags: if device.contiguous { CONTIGUOUS } else { 0 },
        reserved: [0; 2],
        more: U64::new(device.chain.first().copied().unwrap_or(0)),
        inline,
    };
    let mut bytes = [0; layout::SLOT_SIZE as usize];
    bytes.copy_from_slice(slot.as_bytes());
    bytes
}
