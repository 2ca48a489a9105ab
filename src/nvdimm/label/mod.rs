//! The label storage area: two index blocks, then slots with a label each.
//!
//! ```text
//! 0            index size     2 · index size                          area size
//! | index 0   | index 1      | label slot 0 | slot 1 | …             |
//! ```
//!
//! Of two valid index blocks the one with the later sequence number counts. Its bitmap says which
//! slots hold labels. Everything is read with [`LabelArea`], and changed with [`LabelWriter`].

mod area;
mod cookie;
mod fault;
mod index_block;
mod name;
mod namespace_label;
mod writer;

pub use area::{LEAST_AREA_SIZE, LabelArea, MOST_AREA_SIZE, find};
pub use cookie::{MOST_QEMU_SLOTS, NO_COOKIE, qemu_cookie, qemu_slot};
pub use fault::LabelFault;
pub(in crate::nvdimm) use index_block::SIGNATURE;
pub use index_block::{IndexBlock, LabelVersion, Layout};
pub use name::{LabelName, NameFault};
pub use namespace_label::NamespaceLabel;
pub use writer::{LabelWriter, UpdateError, erase};
