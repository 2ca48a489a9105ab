//! A disk whose namespace is claimed only while its rings run (`--claim=running`): for the two ends of a
//! migration.

use std::sync::{Arc, Mutex, PoisonError};

use log::{error, info};

use super::super::announce::{log_name, warn_of_losses};
use super::super::device::{DeviceBackend, VhostDevice};
use super::super::error::Error;
use super::super::hold::{Hold, HoldError};
use super::super::pause::Pause;
use super::super::server::Server;
use super::super::socket::Endpoint;
use super::super::stop::Stop;
use super::config::{DiskConfig, OpenDisk};
use super::device::{BlockDevice, BlockModel};
use super::facts::DiskFacts;
use super::on_demand_queue::OnDemandQueue;
use crate::btt::{Geometry, largest_group};
use crate::error_chain::in_one_line;
use crate::nvdimm::{Claim, ClaimKind};
use crate::pmem::Durability;
use crate::virtio::block::{Device, Disk};

/// What a disk is like, as its info blocks say without a claim.
struct SeenDisk {
    sectors: u64,
    sector_size: u32,
    atomic_size: u32,
    read_only: bool,
    durability: Durability,
}

impl Disk for SeenDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn atomic_size(&self) -> u32 {
        self.atomic_size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

/// The disk, and the claim on its namespace while there is one.
struct OnDemand {
    config: DiskConfig,
    device: Arc<DeviceBackend<BlockModel<OnDemandQueue>>>,
    facts: Arc<DiskFacts>,
    /// As it was seen first.
    seen: Device,
    claim: Mutex<Option<Claim>>,
}

/// A server of the disk that `config` says, which claims it when rings run.
pub(super) fn server(config: &DiskConfig, stop: Stop) -> Result<Server, Error> {
    let seen = config.namespace.look_at_disk()?;
    let arenas: Vec<Geometry> = seen.arenas.iter().map(|arena| arena.info.geometry).collect();
    let sectors = arenas.iter().map(|arena| u64::from(arena.external_nlba)).sum();
    let sector_size = arenas.first().map_or(512, |geometry| geometry.lba_size.data());
    let atomic_size = largest_group(&arenas, config.queues.into()).min(config.atomic.most);
    let disk = SeenDisk {
        sectors,
        sector_size,
        atomic_size: atomic_size.max(sector_size),
        read_only: config.read_only,
        durability: seen.durability,
    };
    config.check_blocks(&disk)?;
    let uuid = seen.namespace.uuid.or(seen.arenas.first().map(|arena| arena.info.uuid));
    let device = config.device(&disk, uuid);
    let endpoint = Endpoint::open(&config.socket)?;
    let log_name = log_name(&config.namespace.path, &seen.namespace);
    info!(
        "{log_name}: serving {sectors} sectors of {sector_size} bytes, {} queues; the disk is claimed when rings run",
        config.queues
    );
    warn_of_losses(&config.namespace.path, seen.durability, seen.backing);
    let queues = (0..config.queues).map(|_| OnDemandQueue::Unclaimed(sector_size)).collect();
    let backend = BlockDevice::new(&log_name, device.clone(), queues).polling(config.poll).share();
    config.limit(&*backend);
    let facts = Arc::new(DiskFacts::seen(&seen, &device));
    let identity = config.identity(&seen.namespace, "running");
    let description = config.description(identity, facts.clone(), None);
    let holder = OnDemand {
        config: config.clone(),
        device: backend.clone(),
        facts,
        seen: device,
        claim: Mutex::default(),
    };
    Ok(Server::new(backend, endpoint, stop).described(description).holding(Arc::new(holder)))
}

impl OnDemand {
    /// Replaces what the queues serve; no ring runs.
    fn replace_queues(&self, device: Device, queues: Vec<OnDemandQueue>) {
        let _pause = Pause::begin(self.device.clone());
        self.device.take_over(device, queues);
    }
}

impl Hold for OnDemand {
    fn hold(&self) -> Result<(), HoldError> {
        let mut held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(());
        }
        let kind = if self.config.read_only { ClaimKind::Shared } else { ClaimKind::Exclusive };
        let mut mapped = self.config.namespace.map(kind)?;
        mapped.medium.keep_single_pages();
        let OpenDisk { claim, device, facts, .. } = self.config.open_btt(mapped)?;
        let (device, queues) = device.into_parts();
        let (told, told_size) = (self.seen.sectors, self.seen.sector_size);
        if device.sectors < told || device.sector_size != told_size {
            let (sectors, size) = (device.sectors, device.sector_size);
            return Err(HoldError::Changed { sectors, size, told, told_size });
        }
        // What a namespace has gained meanwhile is for a daemon that is started after that: the frontend would not
        // read the size again.
        let device = Device { sectors: told, ..device };
        self.facts.become_those_of(&facts);
        self.replace_queues(device, queues.into_iter().map(OnDemandQueue::Claimed).collect());
        *held = Some(claim);
        info!("{}: the disk is claimed, as its rings run", self.device.log().name());
        Ok(())
    }

    fn let_go(&self) {
        let mut held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claim) = held.take() else { return };
        let name = self.device.log().name();
        if let Err(error) = self.device.sync() {
            let error = in_one_line(&error);
            error!(
                "{name}: what was written before the claim is given up may not be durable: {error}"
            );
        }
        let queues = self.seen.queues;
        let let_go = (0..queues).map(|_| OnDemandQueue::Unclaimed(self.seen.sector_size));
        self.replace_queues(self.seen.clone(), let_go.collect());
        // Nothing refers to the namespace any more.
        match claim.give_up() {
            Ok(()) => info!("{name}: the claim is given up, as no ring runs"),
            Err(error) => error!("{name}: the claim is not given up: {}", in_one_line(&error)),
        }
    }
}
