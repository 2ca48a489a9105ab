//! What is behind a BTT that is to grow.

use super::create;
use super::grow::{end_of, last, options};
use crate::btt::format::discovery;
use crate::btt::format::error::Error;
use crate::btt::format::info_block::Version;
use crate::pmem::{PAGE, PersistentMemory};

/// Returns the offset of the first byte behind the BTT in `medium` that is neither zero nor what
/// [`grow`](super::grow()), with arenas of at most `arena_size` bytes, writes there: a growth that was
/// interrupted may have left that. Holes are not read.
///
/// # Errors
///
/// What [`find`](crate::btt::find) finds wrong; the medium's.
pub fn first_foreign<M: PersistentMemory>(
    medium: &M,
    version: Option<Version>,
    arena_size: u64,
) -> Result<Option<u64>, Error> {
    let last = last(&discovery::find(medium, version)?);
    let end = end_of(&last);
    let written = create::written(end, medium.size() - end, &options(&last, arena_size));
    let mut page = [0; PAGE as usize];
    let mut position = medium.next_stored(end).max(end);
    while position < medium.size() {
        let next = (position / PAGE + 1) * PAGE;
        let found = &mut page[..(next.min(medium.size()) - position) as usize];
        medium.read_bytes(position, found)?;
        let mut own = [0; PAGE as usize];
        for (offset, bytes) in &written {
            overlay(&mut own[..found.len()], position, *offset, bytes);
        }
        let is_foreign = |at: &usize| found[*at] != 0 && found[*at] != own[*at];
        if let Some(at) = (0..found.len()).find(is_foreign) {
            return Ok(Some(position + at as u64));
        }
        position = medium.next_stored(next).max(next);
    }
    Ok(None)
}

/// Copies what `bytes`, at `offset`, have in common with `into`, which is at `start`.
fn overlay(into: &mut [u8], start: u64, offset: u64, bytes: &[u8]) {
    let (from, to) =
        (offset.max(start), (offset + bytes.len() as u64).min(start + into.len() as u64));
    if from < to {
        let part = &bytes[(from - offset) as usize..(to - offset) as usize];
        into[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::btt::{ARENA_MAX_SIZE, ARENA_MIN_SIZE, CreateOptions, LbaSize, create, grow};
    use crate::pmem::simulated::{CrashModel, Event, MediumKind, Recorder, Simulated};

    const OLD: u64 = ARENA_MIN_SIZE;
    const NEW: u64 = 3 * ARENA_MIN_SIZE;

    /// A BTT with as many bytes behind it again, and more.
    fn medium() -> Simulated {
        let small = Simulated::new(OLD);
        let options = CreateOptions {
            lba_size: LbaSize::new(4096).unwrap(),
            version: Version::V2_0,
            uuid: Uuid::from_u128(1),
            parent_uuid: Uuid::nil(),
            arena_size: ARENA_MAX_SIZE,
        };
        create(&small, &options, |_, _| {}).unwrap();
        Simulated::of(small.snapshot().grown(NEW - OLD))
    }

    fn foreign(medium: &impl PersistentMemory) -> Option<u64> {
        first_foreign(medium, None, ARENA_MAX_SIZE).unwrap()
    }

    #[test]
    fn each_byte_that_growth_has_not_written_is_found() {
        let medium = medium();
        assert_eq!(foreign(&medium), None);
        for offset in [NEW - 1, NEW - 4096, OLD + 5000, OLD + 16, OLD] {
            medium.write_bytes(offset, &[7]).unwrap();
            assert_eq!(foreign(&medium), Some(offset));
        }
    }

    #[test]
    fn what_an_interrupted_growth_leaves_is_not_foreign() {
        let base = medium().snapshot();
        let recorder = Arc::new(Recorder::new(Simulated::of(base.clone())));
        grow(&recorder, None, ARENA_MAX_SIZE, |_, _| {}).unwrap();
        let events = recorder.take_trace();
        let mut model = CrashModel::new(MediumKind::Dax, &base);
        let mut seen = 0;
        for event in &events {
            model.replay(std::slice::from_ref(event));
            let left = model.open();
            assert_eq!(foreign(&left), None, "after {event:?}");
            seen += usize::from(matches!(event, Event::Stream { .. }));
        }
        assert!(seen > 2, "growth has written");
    }
}
