//! What several test targets need.

#![allow(dead_code, reason = "no target needs all of it")]

pub mod counting;
pub mod daemon;
pub mod driver;
pub mod fixture;
pub mod frontend;
pub mod ledger;
pub mod load;
pub mod patience;
pub mod raw;
pub mod sectors;
pub mod seeds;
pub mod shim;
pub mod shmem;
pub mod syncs;
pub mod usage;
