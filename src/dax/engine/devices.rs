//! Devices: named parts of the region that grow and shrink.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::extents;
use super::region::{LayoutLock, Region};
use super::state::{Device, State, is_text};
use super::transaction::Transaction;
use crate::dax::format::error::Error;
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
    /// Returns whether it is held.
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
        self.lock_layout().hold(name)
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
        let layout = self.begin_change()?;
        let mut change = Transaction::default();
        let filled = {
            let state = self.look();
            if state.devices.contains_key(name) {
                return Err(Error::DeviceExists(name.clone()));
            }
            if state.is_in_use(*uuid) {
                return Err(Error::UuidInUse(*uuid));
            }
            state.slots.fill(&state.pool, &mut change)?
        };
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
        let growth = layout.prepare_growth(&device, pages, filled.page, &change)?;
        let state = &mut *layout.state_mut();
        let device = self.commit_growth(state, name, growth)?;
        state.slots.filled(filled, &mut state.pool);
        state.names.insert(*uuid, name.clone());
        state.devices.insert(name.clone(), device);
        Ok(())
    }

    /// Destroys a device that is not held.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::Busy`]; the medium's.
    pub fn destroy_device(&self, name: &str) -> Result<(), Error> {
        let layout = self.begin_change()?;
        let extents = {
            let state = &mut *layout.state_mut();
            let device = find(state, name)?;
            if device.is_held() {
                return Err(Error::Busy { name: name.to_owned() });
            }
            let (slot, uuid, chain) = (device.slot, device.uuid, device.chain.clone());
            let extents = device.extents.clone();
            let mut change = Transaction::default();
            state.slots.empty(slot, &mut change);
            self.commit_freed(state, change, &extents)?;
            state.slots.emptied(slot, &mut state.pool);
            state.pool.extend(chain);
            state.devices.remove(name);
            state.names.remove(&uuid);
            extents
        };
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
}

impl<M: PersistentMemory> LayoutLock<'_, M> {
    /// Holds a device, as a guest does that has it mapped.
    pub fn hold(&self, name: &str) -> Result<Hold, Error> {
        let state = self.region.look();
        Ok(Hold { _holder: Arc::clone(&find(&state, name)?.holders) })
    }
}

impl Device {
    /// A copy to change, which is not counted as held.
    pub(super) fn clone_unheld(&self) -> Device {
        Device { holders: Arc::default(), ..self.clone() }
    }
}

/// The device of this name.
pub(super) fn find<'a>(state: &'a State, name: &str) -> Result<&'a Device, Error> {
    state.devices.get(name).ok_or_else(|| Error::UnknownDevice(name.to_owned()))
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.contains('/') || !is_text(name) {
        return Err(Error::BadName(name.to_owned()));
    }
    Ok(())
}

/// A size in pages; it has to be a multiple of `align`.
pub(super) fn whole_pages(size: u64, align: Align) -> Result<u64, Error> {
    if size.is_multiple_of(align.bytes()) {
        Ok(size / PAGE_SIZE)
    } else {
        Err(Error::Misaligned { size, align: align.bytes() })
    }
}

/// What is told of a device.
pub(super) fn info(name: &str, device: &Device) -> DeviceInfo {
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
pub(super) fn encode(name: &str, device: &Device) -> [u8; layout::SLOT_SIZE as usize] {
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
