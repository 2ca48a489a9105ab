//! DAX devices as shared memory regions: persistent memory devices, and windows of a disk, with a frontend
//! that maps what it is told to.

#[path = "../common/mod.rs"]
mod common;

mod control;
mod exposure;
mod kept;
mod lost_stores;
mod mapping;
mod power_fail;
mod resize;
mod setup;
