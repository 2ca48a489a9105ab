//! The journal: by which every change of the metadata, the engine's and a repair's, happens wholly or
//! not at all.

pub(in crate::dax) mod durable;
pub(in crate::dax) mod ring;
