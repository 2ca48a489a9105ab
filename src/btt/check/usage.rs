//! How full an arena is, and where.

use crate::btt::format::discovery::FoundArena;
use crate::btt::format::geometry::Geometry;
use crate::btt::format::map::{MapEntry, Mapped};
use crate::btt::format::units::{Block, Lba};
use crate::pmem::{MediaError, PersistentMemory};

/// Bytes of the map that are read at a time; whole entries.
const CHUNK: u64 = 1 << 20;

/// How many sectors of some are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Never written.
    pub never_written: u64,
    /// With data.
    pub data: u64,
    /// Read as zeroes (flag Z).
    pub zero: u64,
    /// Lost (flag E), or naming a block that does not exist.
    pub error: u64,
    /// Of those with data, in the order of sectors, where a read in sequence has to jump: as
    /// [`MapCounts::out_of_order`](super::report::MapCounts::out_of_order).
    pub out_of_order: u64,
}

impl Share {
    /// Number of sectors.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.never_written + self.data + self.zero + self.error
    }
}

/// The states of an arena's sectors, in equal pieces of two orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// By the sectors' numbers: along the map.
    pub by_sector: Vec<Share>,
    /// By the numbers of their blocks: along the data area. Sectors without a block are in none.
    pub by_block: Vec<Share>,
}

/// The states of an arena's sectors as the map on the medium has them, in `pieces` pieces, at least one.
/// Writes that are pending count as not made.
///
/// # Errors
///
/// The map cannot be read.
pub fn usage<M: PersistentMemory>(
    medium: &M,
    arena: &FoundArena,
    pieces: usize,
) -> Result<Usage, MediaError> {
    let geometry = arena.info.geometry;
    let empty = vec![Share::default(); pieces.max(1)];
    let mut usage = Usage { by_sector: empty.clone(), by_block: empty };
    let start = arena.start + geometry.map_entry_offset(Lba(0));
    let end = start + u64::from(geometry.external_nlba) * 4;
    let mut bytes = vec![0; CHUNK as usize];
    let mut offset = start;
    let mut lba = 0;
    let mut before = None;
    while offset < end {
        // The pages of a map that were never written are holes, of any length.
        let stored = medium.next_stored(offset).clamp(offset, end);
        let zeroes = ((stored - offset) / 4) as u32;
        add_never_written(&mut usage.by_sector, lba, zeroes, geometry.external_nlba);
        add_never_written(&mut usage.by_block, lba, zeroes, geometry.internal_nlba);
        lba += zeroes;
        before = before.filter(|_| zeroes == 0);
        offset += u64::from(zeroes) * 4;
        let length = (end - offset).min(CHUNK) as usize;
        medium.read_bytes(offset, &mut bytes[..length])?;
        let (words, _) = bytes[..length].as_chunks::<4>();
        for word in words {
            let entry = MapEntry(u32::from_le_bytes(*word));
            before = usage.count(&geometry, Lba(lba), entry, before);
            lba += 1;
        }
        offset += length as u64;
    }
    Ok(usage)
}

impl Usage {
    /// Counts a sector; `before` is the block of the one before it, if that has data. Returns its block, if it has.
    fn count(
        &mut self,
        geometry: &Geometry,
        lba: Lba,
        entry: MapEntry,
        before: Option<Block>,
    ) -> Option<Block> {
        let block = entry.block(lba);
        let has_block = block.0 < geometry.internal_nlba;
        let add = |share: &mut Share| {
            *match entry.mapped() {
                Mapped::NeverWritten => &mut share.never_written,
                _ if !has_block => &mut share.error,
                Mapped::Data(_) => &mut share.data,
                Mapped::Zero(_) => &mut share.zero,
                Mapped::Error(_) => &mut share.error,
            } += 1;
        };
        let pieces = self.by_sector.len();
        let of_sector = &mut self.by_sector[piece_of(lba.0, geometry.external_nlba, pieces)];
        add(of_sector);
        if has_block {
            add(&mut self.by_block[piece_of(block.0, geometry.internal_nlba, pieces)]);
        }
        let has_data = has_block && matches!(entry.mapped(), Mapped::Data(_));
        let jumps = before.is_some_and(|before| !block.is_behind(before));
        of_sector.out_of_order += u64::from(has_data && jumps);
        has_data.then_some(block)
    }
}

/// In which of the equal pieces of `0..of` a number is.
fn piece_of(number: u32, of: u32, pieces: usize) -> usize {
    (u64::from(number) * pieces as u64 / u64::from(of)) as usize
}

/// Counts `count` of `0..of` from `first` on: of sectors that were never written, or of their blocks, which
/// have the same numbers.
fn add_never_written(shares: &mut [Share], first: u32, count: u32, of: u32) {
    let pieces = shares.len();
    let (mut next, end) = (u64::from(first), u64::from(first) + u64::from(count));
    while next < end {
        let piece = piece_of(next as u32, of, pieces);
        let piece_end = ((piece as u64 + 1) * u64::from(of)).div_ceil(pieces as u64).min(end);
        shares[piece].never_written += piece_end - next;
        next = piece_end;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::btt::{Block, CreateOptions, LbaSize, Version, create, find};
    use crate::pmem::simulated::Simulated;

    #[test]
    fn every_sector_is_counted_once_in_either_order() {
        let medium = Simulated::new(17 << 20);
        let options = CreateOptions {
            lba_size: LbaSize::new(512).unwrap(),
            version: Version::V2_0,
            uuid: Uuid::nil(),
            parent_uuid: Uuid::nil(),
            arena_size: 17 << 20,
        };
        create(&medium, &options, |_, _| {}).unwrap();
        let arena = find(&medium, None).unwrap()[0];
        let geometry = arena.info.geometry;
        let (sectors, last) = (geometry.external_nlba, geometry.external_nlba - 1);
        let set = |lba, entry: MapEntry| {
            medium.store_u32(arena.start + geometry.map_entry_offset(Lba(lba)), entry.0).unwrap();
        };
        set(0, MapEntry::data(Block(last)));
        set(last, MapEntry::zero(Block(0)));
        set(5, MapEntry::error(Block(5)));
        set(6, MapEntry::data(Block(geometry.internal_nlba)));
        for (lba, block) in [(20, 30), (21, 31), (22, 20), (24, 40)] {
            set(lba, MapEntry::data(Block(block)));
        }
        for pieces in [1, 7, 100] {
            let Usage { by_sector, by_block } = usage(&medium, &arena, pieces).unwrap();
            let total = |shares: &[Share]| shares.iter().map(Share::total).sum::<u64>();
            assert_eq!(total(&by_sector), u64::from(sectors));
            let sizes = by_sector.iter().map(Share::total);
            let even = u64::from(sectors) / pieces as u64;
            assert!(sizes.clone().all(|size| (even..=even + 1).contains(&size)), "{pieces}");
            assert_eq!(total(&by_block), u64::from(sectors) - 1, "one is nowhere");
            assert_eq!((by_sector[0].data, by_sector[0].error), (5, 2));
            assert_eq!((by_sector[0].out_of_order, by_block[0].out_of_order), (1, 0));
            assert_eq!(by_sector[pieces - 1].zero, 1);
            assert_eq!((by_block[0].zero, by_block[0].error), (1, 1));
            assert_eq!(by_block[pieces - 1].data, if pieces == 1 { 5 } else { 1 });
        }
        medium.poison(geometry.mapoff..geometry.mapoff + 1);
        assert!(usage(&medium, &arena, 1).is_err());
    }
}
