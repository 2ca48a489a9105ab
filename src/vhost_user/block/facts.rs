//! What does not change of a disk while it is served, but for its growth.

use std::sync::{Mutex, PoisonError};

use super::super::control::{ArenaReport, DiskReport};
use crate::btt::{Btt, InfoBlock};
use crate::namespace::SeenNamespace;
use crate::pmem::{Durability, PersistentMemory};
use crate::virtio::block::Device;

/// What is known of a disk.
#[derive(Debug)]
pub(in crate::vhost_user) struct DiskFacts(Mutex<DiskReport>);

impl DiskFacts {
    /// What is known of `device`, which serves `btt`.
    pub(super) fn new<M: PersistentMemory>(btt: &Btt<M>, device: &Device) -> DiskFacts {
        DiskFacts::of(btt.infos(), btt.durability(), device)
    }

    /// What is known of `device`, whose BTT was seen and is not open.
    pub(super) fn seen(seen: &SeenNamespace, device: &Device) -> DiskFacts {
        DiskFacts::of(seen.arenas.iter().map(|arena| &arena.info), seen.durability, device)
    }

    fn of<'a>(
        infos: impl Iterator<Item = &'a InfoBlock>,
        durability: Durability,
        device: &Device,
    ) -> DiskFacts {
        let arenas = infos.map(|info| ArenaReport {
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
            durability: durability.to_string(),
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
