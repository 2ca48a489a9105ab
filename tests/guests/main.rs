//! Scenarios with real guests: a Debian kernel under QEMU on a disk of ours, or on the same file as an emulated
//! NVDIMM under Linux's own driver.
//!
//! Needs `qemu/fetch` to have run. Compiled only with the feature `guest-tests`:
//! `qemu/fetch && cargo test --release --features guest-tests --test guests`.

#[path = "../common/damage.rs"]
#[allow(dead_code, reason = "what should come of the damage is for tests/damage.rs")]
mod damage;
mod harness;

mod back_end_killed;
mod dax;
mod disk_features;
mod ext4;
mod linux_btt;
mod namespaces;
mod repaired;
