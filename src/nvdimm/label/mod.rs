//! The label storage area: two index blocks, then slots with a label each.
//!
//! ```text
//! 0            index size     2 · index size                          area size
//! | index 0   | index 1      | label slot 0 | slot 1 | …             |
//! ```
//!
//! Of two valid index blocks the one with the later sequence number counts. Its bitmap says which
//! slots hold labels.

mod area;
mod fault;
mod index_block;
mod namespace_label;

pub use area::{DEFAULT_AREA_SIZE, LabelArea, MOST_AREA_SIZE, find};
pub use fault::LabelFault;
pub use index_block::{IndexBlock, LabelVersion};
pub use namespace_label::NamespaceLabel;
