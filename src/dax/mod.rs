//! DAX regions: a namespace that is sub-divided into devices, and remembers it across power loss.
//!
//! Two designs in one, with what they leave open closed: the sub-division of Linux's device-DAX, whose
//! devices are resizable (and forgotten at reboot there), and bcache's allocator of NVDIMM pages,
//! which keeps on the medium who owns which pages.
//!
//! * [`create`](fn@create) makes a region, [`Region::open`] opens one, [`NamespaceOptions::open`] the
//!   one in a namespace of a file.
//! * [`Region::allocate`], [`Region::free`], [`Region::pages_of`]: pages for an owner, which finds
//!   them again by its uuid.
//! * [`Region::create_device`] and its like: named devices; [`Region::resolve`] tells which bytes of
//!   the namespace an offset in a device is.
//! * [`grow`](fn@grow) makes a region as large as its namespace has become.
//! * What is on the medium where: the module `layout`. How a change happens wholly or not at all: the
//!   module `journal`. Which pages are free: the module `buddy`.
//! * [`check`] proves the invariants of what is on the medium, and shares none of this logic.
//!
//! `docs/dax.md` compares each behaviour with that of the two originals.

#![forbid(unsafe_code)]

mod buddy;
mod chain;
pub mod check;
mod create;
mod devices;
mod durable;
mod error;
mod extents;
mod fault;
mod features;
mod grow;
mod journal;
mod layout;
mod load;
#[cfg(feature = "mutants")]
pub mod mutant;
mod namespace;
mod owners;
mod page_kind;
mod region;
mod repair;
mod state;
mod superblock;
mod transaction;
mod units;
mod version;

pub use buddy::MOST_ORDER;
pub use create::{CreateOptions, create};
pub use devices::{DeviceInfo, DeviceOptions, Held, Hold};
pub use error::{Error, Space};
pub use fault::Fault;
pub use grow::{Growth, grow};
pub use layout::{OWNERS, PAGES_OFFSET};
pub use namespace::{
    Found, NamespaceError, NamespaceOptions, erase, find, find_in, is_ambiguous, is_there,
    region_error, resolve,
};
pub use owners::{OwnedBlock, OwnerInfo};
pub use page_kind::PageKind;
pub use region::{Region, RegionInfo};
pub use repair::{Repaired, preview_repair, repair};
pub use units::{Align, Extent, PAGE_SIZE};

#[cfg(test)]
mod tests;
