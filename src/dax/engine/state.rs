//! What is known of a region in DRAM: all of it is rebuilt from the medium at open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::buddy::Buddy;
use super::chain::Chain;
use crate::dax::format::layout::{INLINE_EXTENTS, TEXT_SIZE};
use crate::dax::format::units::{Align, Extent};
use crate::dax::journal::ring::Ring;

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State {
    /// The journal.
    pub ring: Ring,
    /// The free pages.
    pub buddy: Buddy,
    /// Offsets of the metadata pages that no chain reaches.
    pub pool: BTreeSet<u64>,
    /// The heads; `None`: a free one. Owner 0 is the first.
    pub owners: Vec<Option<Owner>>,
    /// The device pages.
    pub slots: Chain,
    /// The devices, by name.
    pub devices: BTreeMap<String, Device>,
    /// Names of the devices, by uuid.
    pub names: HashMap<Uuid, String>,
    /// A change was cut short.
    pub failed: bool,
}

/// An owner.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Its uuid.
    pub uuid: Uuid,
    /// What it calls itself.
    pub label: String,
    /// Its record pages.
    pub records: Chain,
    /// Its blocks, by first page.
    pub blocks: BTreeMap<u64, Block>,
}

/// A block of an owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    /// Its order.
    pub order: u32,
    /// Byte offset of its record.
    pub record: u64,
}

/// A device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    /// Byte offset of its slot.
    pub slot: u64,
    /// Its uuid.
    pub uuid: Uuid,
    /// What it is for.
    pub label: String,
    /// What its extents are multiples of.
    pub align: Align,
    /// It is one extent, always.
    pub contiguous: bool,
    /// Its extents, in the order of device offsets.
    pub extents: Vec<Extent>,
    /// Byte offsets of its extent pages.
    pub chain: Vec<u64>,
    /// The holder of the device has one of these, too.
    pub holders: Arc<()>,
}

impl Device {
    /// Number of its pages.
    pub(crate) fn pages(&self) -> u64 {
        self.extents.iter().map(|extent| extent.pages).sum()
    }

    /// Returns whether it is held.
    pub(crate) fn is_held(&self) -> bool {
        Arc::strong_count(&self.holders) > 1
    }
}

impl State {
    /// The owner with this uuid, and the index of its head.
    pub(crate) fn owner(&self, uuid: Uuid) -> Option<(usize, &Owner)> {
        let heads = self.owners.iter().enumerate();
        heads
            .filter_map(|(head, owner)| Some((head, owner.as_ref()?)))
            .find(|(_, owner)| owner.uuid == uuid)
    }

    /// Makes pages free again, all of which were taken.
    pub(crate) fn give(&mut self, extents: &[Extent]) {
        for extent in extents {
            let given = self.buddy.give(*extent);
            debug_assert!(given, "the extent was taken");
        }
    }

    /// Returns whether a new owner or device cannot have this uuid.
    pub(crate) fn is_in_use(&self, uuid: Uuid) -> bool {
        uuid.is_nil() || self.owner(uuid).is_some() || self.names.contains_key(&uuid)
    }
}

/// Returns whether `text` fits where names and labels are kept, and can be printed.
pub(super) fn is_text(text: &str) -> bool {
    text.len() <= TEXT_SIZE && !text.chars().any(char::is_control)
}

/// Number of extent pages of a device with so many extents.
pub(super) fn extent_pages(extents: usize) -> usize {
    extents.saturating_sub(INLINE_EXTENTS).div_ceil(crate::dax::format::layout::EXTENTS)
}
