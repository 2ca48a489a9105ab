//! Scenarios with real guests: a Debian kernel under QEMU on a disk of ours, or on the same file as an emulated
//! NVDIMM under Linux's own driver.
//!
//! Needs `qemu/fetch` to have run. Compiled only with the feature `guest-tests`:
//! `qemu/fetch && qemu/pack-programs && cargo test --profile suite --features guest-tests --test guests`.

#[path = "../common/damage.rs"]
#[allow(dead_code, reason = "what should come of the damage is for tests/damage")]
mod damage;
mod harness;
#[path = "../common/sectors.rs"]
#[allow(dead_code, reason = "here they are only read")]
mod sectors;
#[path = "../common/seeds.rs"]
mod seeds;
#[path = "../common/shim.rs"]
mod shim;
#[path = "../common/syncs.rs"]
#[allow(dead_code, reason = "they do not fail here")]
mod syncs;

mod back_end_killed;
mod block_driver;
mod dax;
mod dax_power_cut;
mod dax_power_failure;
mod disk_features;
mod ext4;
mod firmware;
mod growth;
mod kept;
mod large_blocks;
mod linux_btt;
mod migration;
mod namespaces;
mod older_frontends;
mod online_growth;
mod power_failure;
mod powercut;
mod powercut_ci;
mod powercut_file_systems;
mod powercut_sqlite;
mod powercut_store;
mod repaired;
mod torn_pages;
mod torn_sectors;
mod windows;
mod write_through;
