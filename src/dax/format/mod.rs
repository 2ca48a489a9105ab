//! The format on the medium: what is where, how it is encoded, and which region a medium holds.

pub(in crate::dax) mod discovery;
pub(in crate::dax) mod error;
pub(in crate::dax) mod fault;
pub(in crate::dax) mod features;
pub(in crate::dax) mod layout;
pub(in crate::dax) mod page_kind;
pub(in crate::dax) mod superblock;
pub(in crate::dax) mod units;
pub(in crate::dax) mod version;
