//! Which media a region may be changed on.

use crate::dax::format::error::Error;
use crate::pmem::PersistentMemory;

/// Refuses a medium whose fences order stores without making them durable.
///
/// Every change of a region relies on fences: the journal entry is durable before its stores are made,
/// and the stores before the next entry is written. On such a medium the kernel may write the pages back
/// in any order, and a host crash would leave a mixture of several changes.
///
/// # Errors
///
/// [`Error::NotDurable`].
pub(crate) fn require<M: PersistentMemory>(medium: &M) -> Result<(), Error> {
    let durability = medium.durability();
    if durability.is_write_through() { Ok(()) } else { Err(Error::NotDurable(durability)) }
}
