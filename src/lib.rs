//! A storage back end for virtual machines whose sectors never tear.
//!
//! The library behind the two programs `vhost-user-btt` (the daemon) and `nvdimmctl` (the
//! administrator's tool). Its rooms, outermost first; a room calls only rooms below it:
//!
//! | room | holds |
//! |---|---|
//! | [`btt`] | the Block Translation Table: layout, map, flog, lanes, recovery, the engine |
//! | [`nvdimm`] | the file as an NVDIMM: labels, namespaces, claims |
//! | [`pmem`] | the mapped NVDIMM file: loads, stores, streaming copies, flush, fence, media errors |
//!
//! `unsafe` code lives in [`pmem`] alone.

pub mod btt;
pub mod nvdimm;
pub mod pmem;
