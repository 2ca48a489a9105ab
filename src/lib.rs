//! A storage back end for virtual machines whose sectors never tear.
//!
//! The library of the programs `vhost-user-btt` (the daemon), `nvdimmctl` (the administrator's
//! tool) and `powercut` (power-fail testing). Its rooms, outermost first; a room calls only rooms below it:
//!
//! | room | holds |
//! |---|---|
//! | [`cli`] | command lines, text and JSON output, progress bars, exit codes |
//! | [`keeper`] | holds the connections of frontends while the process that serves them is replaced |
//! | [`powercut`] | power failures on purpose: media that lose what was not flushed |
//! | [`vhost_user`] | the device at the end of a socket: listener, rings, a worker per queue, windows |
//! | [`virtio`] | the block device and persistent memory: features, configuration, requests, their execution |
//! | [`namespace`] | a namespace with what is in it: making, mapping, growing, finding what was lost |
//! | [`btt`] | the Block Translation Table: layout, map, flog, lanes, recovery, the engine |
//! | [`dax`] | DAX regions: owners of pages, devices and their extents, the journal of their changes |
//! | [`nvdimm`] | the file as an NVDIMM: labels, namespaces, claims |
//! | [`sandbox`] | what the daemon gives up once its files are open: capabilities, files, system calls |
//! | [`pmem`] | the mapped NVDIMM file: loads, stores, streaming copies, flush, fence, media errors |
//!
//! `unsafe` code lives in [`pmem`] alone.
//!
//! What it offers beside the programs' command lines ([`cli`]), each for use by itself:
//!
//! * [`btt::create`], [`btt::Btt`], [`btt::Queue`], [`btt::check`]: a BTT on any medium;
//! * [`dax::create`](fn@dax::create), [`dax::Region`], [`dax::check`]: a DAX region on any medium;
//! * [`nvdimm::NvdimmFile`], [`nvdimm::Claim`]: labels, namespaces and claims of a file;
//! * [`namespace::NamespaceOptions`], [`namespace::probe`](fn@namespace::probe): from a path to what a namespace holds;
//! * [`pmem::PersistentMemory`], [`pmem::Mapping`]: what a medium has to do, and the one that is a mapped file;
//! * [`vhost_user::Devices`]: devices that are served at sockets.

#![deny(unreachable_pub)]

#[macro_use]
mod mutants;

mod amount;
pub mod btt;
pub mod cli;
pub mod dax;
mod error_chain;
pub mod keeper;
pub mod namespace;
pub mod nvdimm;
pub mod pmem;
pub mod powercut;
pub mod sandbox;
pub mod vhost_user;
pub mod virtio;
