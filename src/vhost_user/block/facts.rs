//! What does not change of a disk while it is served, but for its growth.

use std::sync::{Mutex, PoisonError};

use super::super::control::{ArenaReport, DiskReport};
use crate::btt::Btt;
use crate::pmem::PersistentMemory;
use crate::virtio::block::Device;

/// What is known of a disk.
#[derive(Debug)]
pub(in crate::vhost_user) struct DiskFacts(Mutex<DiskReport>);

impl DiskFacts {
    /// What is known of `device`, which serves `btt`.
    pub(super) fn new<M: PersistentMemory>(btt: &Btt<M>, device: &Device) -> DiskFacts {
        let arenas = btt.infos().map(|info| ArenaReport {
            sectors: info.geometry.external_nlba.into(),
            lanes: info.geometry.nfree,
            block_size: info.geometry.internal_lbasize,
            version: info.version.to_string(),
        });
        DiskFacts(Mutex::new(DiskReport {
            size: device.size(),
            sector_size: device.sector_size,
            atomic_size: device.atomic_size,
            read_only: device.read_only,
            durability: btt.durability().to_string(),
            arenas: arenas.collect(),
        }))
    }

    /// The disk was opened again, and is as `other` says.
    pub(super) fn become_those_of(&self, other: &DiskFacts) {
        let report = other.report();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// What is said of it.
    pub(in crate::vhost_user) fn report(&self) -> DiskReport {
        // Replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
