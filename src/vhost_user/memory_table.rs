//! The memory table: which parts of which files are guest memory, and their addresses in the frontend.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryRegion, GuestRegionCollectionError};

use super::protocol::request::MemoryRegion;
use super::queue::Memory;
use crate::pmem::{GuestRegion, GuestRegionError, MigrationLog};
use crate::virtio::GuestRam;

/// Most regions of guest memory: what libvhost-user offers, and more than QEMU has slots for.
pub(super) const MOST_SLOTS: usize = 509;

/// Why the memory table stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryTableError {
    /// A region cannot be mapped.
    #[error("guest memory at {address:#x} cannot be had")]
    Region {
        /// Guest-physical address of the region.
        address: u64,
        /// Why.
        source: GuestRegionError,
    },
    /// Regions overlap, or are not there.
    #[error("the regions of guest memory do not go together")]
    Together(#[from] GuestRegionCollectionError),
    /// There would be more regions than offered.
    #[error("guest memory has {MOST_SLOTS} regions already, the most that this device takes")]
    Full,
    /// There is no such region.
    #[error("there is no region of guest memory of {size} bytes at {address:#x}")]
    Unknown {
        /// Guest-physical address.
        address: u64,
        /// Number of bytes.
        size: u64,
    },
}

/// The memory table of a session.
#[derive(Debug)]
pub(super) struct MemoryTable {
    /// Guest memory, as the queues see it.
    memory: Memory,
    regions: Vec<MemoryRegion>,
    /// Records what is stored in any region, also in those that are added later.
    log: Arc<MigrationLog>,
}

impl MemoryTable {
    /// The table of a session that has not said what guest memory is: `memory` is empty.
    pub(super) fn new(memory: Memory) -> MemoryTable {
        MemoryTable { memory, regions: Vec::new(), log: Arc::default() }
    }

    /// Returns whether the frontend has not said yet what guest memory is.
    pub(super) fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Guest memory, as the queues see it.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Records what is stored.
    pub(super) fn log(&self) -> &MigrationLog {
        &self.log
    }

    /// The guest-physical address after the last.
    pub(super) fn end(&self) -> u64 {
        let ends =
            self.regions.iter().map(|region| region.guest_address.saturating_add(region.size));
        ends.max().unwrap_or(0)
    }

    /// Replaces all regions.
    pub(super) fn set(
        &mut self,
        regions: Vec<(MemoryRegion, OwnedFd)>,
    ) -> Result<(), MemoryTableError> {
        let places = regions.iter().map(|(region, _)| *region).collect();
        let mapped = regions.into_iter().map(|(region, file)| self.map(&region, file));
        let mut mapped: Vec<GuestRegion> = mapped.collect::<Result<_, _>>()?;
        mapped.sort_by_key(GuestRegion::start_addr);
        let ram = if mapped.is_empty() { GuestRam::new() } else { GuestRam::from_regions(mapped)? };
        self.replace(ram);
        self.regions = places;
        Ok(())
    }

    /// Adds a region.
    pub(super) fn add(
        &mut self,
        region: MemoryRegion,
        file: OwnedFd,
    ) -> Result<(), MemoryTableError> {
        if self.regions.len() >= MOST_SLOTS {
            return Err(MemoryTableError::Full);
        }
        let mapped = self.map(&region, file)?.into();
        let ram = self.memory.memory().insert_region(mapped)?;
        self.replace(ram);
        self.regions.push(region);
        Ok(())
    }

    /// Removes a region.
    pub(super) fn remove(&mut self, region: &MemoryRegion) -> Result<(), MemoryTableError> {
        let MemoryRegion { guest_address: address, size, .. } = *region;
        let is_meant = |other: &MemoryRegion| other.guest_address == address && other.size == size;
        let position = self.regions.iter().position(is_meant);
        let position = position.ok_or(MemoryTableError::Unknown { address, size })?;
        let (ram, _) = self.memory.memory().remove_region(GuestAddress(address), size)?;
        self.replace(ram);
        self.regions.swap_remove(position);
        Ok(())
    }

    /// Forgets all regions.
    pub(super) fn clear(&mut self) {
        self.replace(GuestRam::new());
        self.regions.clear();
    }

    /// The guest-physical address of what the frontend has at `address`.
    pub(super) fn guest_address(&self, address: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.user_address)?;
            (offset < region.size).then(|| region.guest_address + offset)
        })
    }

    fn map(&self, region: &MemoryRegion, file: OwnedFd) -> Result<GuestRegion, MemoryTableError> {
        let address = region.guest_address;
        GuestRegion::map(File::from(file), region.offset, GuestAddress(address), region.size)
            .map(|mapped| mapped.logged_by(&self.log))
            .map_err(|source| MemoryTableError::Region { address, source })
    }

    fn replace(&self, ram: GuestRam) {
        // The lock only orders those who replace the memory; each does so in one go.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(ram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(guest_address: u64, user_address: u64) -> (MemoryRegion, OwnedFd) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        (MemoryRegion { guest_address, size: 8192, user_address, offset: 0 }, file.into())
    }

    fn table() -> MemoryTable {
        MemoryTable::new(Memory::new(GuestRam::new()))
    }

    #[test]
    fn addresses_of_the_frontend_are_found_in_their_region() {
        let mut table = table();
        table.set(vec![region(0x1_0000, 0x7000), region(0, 0x1_7000)]).unwrap();
        let found = [0x6fff, 0x7000, 0x8fff, 0x9000, 0x1_7001].map(|at| table.guest_address(at));
        assert_eq!(found, [None, Some(0x1_0000), Some(0x1_1fff), None, Some(1)]);
    }

    #[test]
    fn a_change_that_is_refused_leaves_the_table_as_it_was() {
        let mut table = table();
        table.set(vec![region(0, 0x7000)]).unwrap();
        let (first, _) = region(0, 0x7000);
        table.set(vec![region(0, 0), region(4096, 0)]).unwrap_err();
        let (overlapping, file) = region(4096, 0);
        table.add(overlapping, file).unwrap_err();
        let (mut long, file) = region(0x1_0000, 0);
        long.size = 12288;
        assert!(matches!(table.add(long, file), Err(MemoryTableError::Region { .. })));
        table.remove(&long).unwrap_err();
        assert_eq!(table.guest_address(0x7000), Some(0));
        table.remove(&first).unwrap();
        assert!(table.is_empty());
    }

    #[test]
    fn there_are_no_more_regions_than_offered() {
        let mut table = table();
        for number in 0..MOST_SLOTS as u64 {
            let (region, file) = region(number * 0x1_0000, 0);
            table.add(region, file).unwrap();
        }
        let (one_more, file) = region(0x1000_0000, 0);
        assert!(matches!(table.add(one_more, file), Err(MemoryTableError::Full)));
    }
}
