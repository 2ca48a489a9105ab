//! Making pages dirty that an earlier process may have left clean.

use std::ops::Range;

use super::{Durability, MediaError, PAGE, PersistentMemory};

/// Makes the pages of `range` dirty, so that the next sync writes what is seen of them; where stores are
/// durable without a sync, it does nothing.
///
/// When the kernel cannot write a page back, it marks it clean all the same: the page is newer than the
/// storage device, and no later sync writes it, although it succeeds. No other thread may store to the words
/// that this stores to, the first of the range and the first of each further page.
///
/// # Errors
///
/// As [`PersistentMemory::touch_u32`].
pub fn make_dirty<M: PersistentMemory>(medium: &M, range: Range<u64>) -> Result<(), MediaError> {
    if medium.durability() == Durability::Dax {
        return Ok(());
    }
    for page in range.start / PAGE..range.end.div_ceil(PAGE) {
        medium.touch_u32((page * PAGE).max(range.start))?;
    }
    Ok(())
}
