//! A frontend that does what none does: it hurts its own connection, and nothing else. The other disk of
//! the process, its descriptors, its threads and its end are looked at throughout.

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod descriptors;
mod memory;
mod rings;
mod sessions;
mod setup;
mod silence;
mod soak;
