//! Creating a BTT.

use uuid::Uuid;

use super::erase::erase;
use crate::btt::format::error::Error;
use crate::btt::format::flog::FlogEntry;
use crate::btt::format::geometry::{ARENA_MIN_SIZE, FLOG_PAIR_SIZE, Geometry, layout};
use crate::btt::format::info_block::{InfoBlock, Version};
use crate::btt::format::lba_size::LbaSize;
use crate::btt::format::units::LaneIndex;
use crate::pmem::{MediaError, PersistentMemory};

/// What to create.
#[derive(Debug, Clone, Copy)]
pub struct CreateOptions {
    /// Bytes of a sector.
    pub lba_size: LbaSize,
    /// Version of the format.
    pub version: Version,
    /// The BTT's own uuid.
    pub uuid: Uuid,
    /// The namespace's uuid; nil where it has none.
    pub parent_uuid: Uuid,
    /// Bytes of an arena, [`ARENA_MIN_SIZE`] to [`ARENA_MAX_SIZE`](crate::btt::ARENA_MAX_SIZE), which
    /// is what Linux makes; the last may be smaller.
    pub arena_size: u64,
}

/// Most bytes of a map that are zeroed in one go, between two reports of progress.
const ZERO_STEP: u64 = 64 << 20;

/// Creates a BTT that fills `medium`; `progress` is told how many bytes of how many are done.
///
/// The primary info block of arena 0 is written last and commits: a power failure before it leaves no
/// BTT, one after it a whole one. A BTT that is there already is erased first; the caller has erased whatever
/// else there is.
///
/// # Errors
///
/// The medium is smaller than 16 MiB (and 4 KiB for version 1.1), or fails.
pub fn create<M: PersistentMemory>(
    medium: &M,
    options: &CreateOptions,
    progress: impl FnMut(u64, u64),
) -> Result<(), Error> {
    let start = options.version.first_arena();
    let needed = start + ARENA_MIN_SIZE;
    if medium.size() < needed {
        return Err(Error::TooSmall { size: medium.size(), needed });
    }
    erase(medium)?;
    create_arenas(medium, start, medium.size() - start, options, progress)?;
    Ok(())
}

/// Creates arenas that fill `size` bytes from `start` on, the first one last; returns their number.
pub(super) fn create_arenas<M: PersistentMemory>(
    medium: &M,
    start: u64,
    size: u64,
    options: &CreateOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<usize, MediaError> {
    let arenas: Vec<(u64, Geometry)> = arenas(start, size, options).collect();
    let total = arenas.iter().map(|(_, geometry)| zeroed_bytes(geometry)).sum();
    let mut done = 0;
    for (start, geometry) in arenas.iter().rev() {
        create_arena(medium, *start, geometry, options, |bytes| {
            done += bytes;
            progress(done, total);
        })?;
    }
    Ok(arenas.len())
}

/// The arenas that fill `size` bytes from `start` on, and where each begins.
fn arenas(
    start: u64,
    size: u64,
    options: &CreateOptions,
) -> impl DoubleEndedIterator<Item = (u64, Geometry)> {
    layout(size, options.arena_size, options.lba_size)
        .map(move |(offset, geometry)| (start + offset, geometry))
}

/// All that [`create_arenas`] writes other than zeroes, and where.
pub(super) fn written(start: u64, size: u64, options: &CreateOptions) -> Vec<(u64, Vec<u8>)> {
    let of_arena = |(start, geometry): (u64, Geometry)| {
        let info = info_block(&geometry, options).encode().to_vec();
        let backup = (start + geometry.info2off, info.clone());
        [(start, info), (start + geometry.logoff, initial_flog(&geometry)), backup]
    };
    arenas(start, size, options).flat_map(of_arena).collect()
}

/// Bytes of an arena that creation zeroes: the map and the flog, which follows it.
fn zeroed_bytes(geometry: &Geometry) -> u64 {
    geometry.info2off - geometry.mapoff
}

fn create_arena<M: PersistentMemory>(
    medium: &M,
    start: u64,
    geometry: &Geometry,
    options: &CreateOptions,
    mut zeroed: impl FnMut(u64),
) -> Result<(), MediaError> {
    let (mut offset, end) = (geometry.mapoff, geometry.info2off);
    while offset < end {
        let step = ZERO_STEP.min(end - offset);
        medium.zero(start + offset, step)?;
        zeroed(step);
        offset += step;
    }
    medium.write_bytes(start + geometry.logoff, &initial_flog(geometry))?;
    medium.fence()?;
    let info = info_block(geometry, options);
    [start + geometry.info2off, start].into_iter().try_for_each(|copy| info.write(medium, copy))
}

fn info_block(geometry: &Geometry, options: &CreateOptions) -> InfoBlock {
    InfoBlock {
        uuid: options.uuid,
        parent_uuid: options.parent_uuid,
        error: false,
        version: options.version,
        geometry: *geometry,
    }
}

/// The flog of lanes that were never used.
fn initial_flog(geometry: &Geometry) -> Vec<u8> {
    let mut bytes = vec![0; geometry.nfree as usize * FLOG_PAIR_SIZE as usize];
    let (lanes, _) = bytes.as_chunks_mut::<{ FLOG_PAIR_SIZE as usize }>();
    for (lane, index) in lanes.iter_mut().zip(0..) {
        let [place, commit] = FlogEntry::initial(LaneIndex(index), geometry.external_nlba).halves();
        lane[..8].copy_from_slice(&place.to_le_bytes());
        lane[8..16].copy_from_slice(&commit.to_le_bytes());
    }
    bytes
}
