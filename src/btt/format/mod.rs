//! The format on the medium: what is where, how it is encoded, and which BTT a medium holds.

pub(in crate::btt) mod discovery;
pub(in crate::btt) mod error;
pub mod flog;
pub(in crate::btt) mod geometry;
pub(in crate::btt) mod info_block;
pub(in crate::btt) mod lba_size;
pub mod map;
pub(in crate::btt) mod record;
pub(in crate::btt) mod units;
