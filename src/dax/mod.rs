//! DAX regions: a namespace that is sub-divided into devices, and remembers it across power loss.
//!
//! Two designs in one, with what they leave open closed: the sub-division of Linux's device-DAX, whose
//! devices are resizable (and forgotten at reboot there), and bcache's allocator of NVDIMM pages,
//! which keeps on the medium who owns which pages.
//!
//! * [`create`](fn@create) makes a region, [`Region::open`] opens one.
//! * [`Region::allocate`], [`Region::free`], [`Region::pages_of`]: pages for an owner, which finds
//!   them again by its uuid.
//! * [`Region::create_device`] and its like: named devices; [`Region::resolve`] tells which bytes of
//!   the namespace an offset in a device is.
//! * [`grow`](fn@grow) makes a region as large as its namespace has become.
//! * [`check`] proves the invariants of what is on the medium, [`repair`](fn@repair) restores them.
//!
//! | module | holds | imports |
//! |---|---|---|
//! | `format` | what is on the medium where (`layout`), and which region a medium holds | |
//! | `journal` | how a change happens wholly or not at all | `format` |
//! | `engine` | an open region; which pages are free: `buddy` | `format`, `journal` |
//! | `check` | the checker, which shares none of the engine's logic | `format` |
//! | `repair` | the repair | `format`, `journal`, `check` |
//!
//! `docs/dax.md` compares each behaviour with that of the two originals.

#![forbid(unsafe_code)]

pub mod check;
mod engine;
mod format;
mod journal;
#[cfg(feature = "mutants")]
pub mod mutant;
mod repair;

pub use engine::{
    CreateOptions, DeviceInfo, DeviceOptions, Growth, Hold, LayoutLock, OwnedBlock, OwnerInfo,
    PendingResize, Region, RegionInfo, create, grow,
};
pub use format::discovery::{Found, end, erase, find, is_there};
pub use format::error::{Error, Space};
pub use format::fault::Fault;
pub use format::layout::{OWNERS, PAGES_OFFSET};
pub use format::page_kind::PageKind;
pub use format::units::{Align, Extent, MOST_ORDER, PAGE_SIZE};
pub use repair::{Repaired, preview_repair, repair};

#[cfg(test)]
mod tests;
