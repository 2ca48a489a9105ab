//! What an administrator asks of a daemon that runs.

mod additions;
mod clones;
#[path = "../common/mod.rs"]
mod common;
mod defragment;
mod disks;
mod growth;
mod limits;
mod pages;
mod setup;
mod shared_extents;
mod soak;
mod stat;
