//! The life of a BTT: making one, opening it after whatever happened, and growing it.

mod create;
mod defragment;
mod erase;
mod foreign;
mod grow;
mod inspect;
mod open;
mod recovery;
mod rename;

pub use create::{CreateOptions, create};
pub use defragment::{Position, defragment};
pub use erase::{Trace, erase, trace};
pub use foreign::first_foreign;
pub use grow::{Growth, grow, has_room};
pub use inspect::{LaneState, lanes};
pub use open::OpenOptions;
pub use rename::set_identity;
