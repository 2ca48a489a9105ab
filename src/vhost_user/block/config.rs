//! The options of a disk, and the server that they describe.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;
use uuid::Uuid;

use super::super::announce::{
    announce, log_name, say_that_only_sectors_are_atomic, warn_of_losses,
};
use super::super::control::Identity;
use super::super::device::VhostDevice;
use super::super::error::Error;
use super::super::fleet::{Description, Growth, HandedOver};
use super::super::medium::OpenMedium;
use super::super::page_tables::PageTables;
use super::super::queue::{Limiter, RateLimit};
use super::super::server::Server;
use super::super::socket::{Endpoint, SocketSource};
use super::super::stop::Stop;
use super::super::windows::{Regions, Window, WindowConfig, Windows};
use super::device::BlockDevice;
use super::facts::DiskFacts;
use super::growth::{DiskGrowth, Opened};
use super::on_demand;
use crate::btt::{self, Btt, Version};
use crate::namespace::{Atomic, MappedNamespace, NamespaceError, NamespaceOptions};
use crate::nvdimm::{Claim, ClaimKind, Namespace};
use crate::pmem::{MapError, Mapping, PersistentMemory};
use crate::virtio::block::{Device, DeviceOptions, Discard, Disk, DiskQueue, Serial};

/// Logical blocks of the disks whose guests can be told to prefer writes of a size.
const HINTED_BLOCK: u32 = 4096;

/// What is served, where, and how.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Where frontends connect.
    pub socket: SocketSource,
    /// The namespace.
    pub namespace: NamespaceOptions,
    /// Refuse every change, and never write to the file.
    pub read_only: bool,
    /// Claim the namespace while rings run, and not before or after. There are no windows then.
    pub claim_while_running: bool,
    /// Number of request queues, 1 to 64.
    pub queues: u16,
    /// Most descriptors of a queue, a power of two.
    pub queue_size: u16,
    /// Bytes of the block that the guest addresses; `None`: those of a sector. Larger than a sector, it has to be
    /// all or nothing.
    pub logical_block_size: Option<u32>,
    /// Up to how many bytes aligned writes of a power of two are all or nothing.
    pub atomic: Atomic,
    /// Bytes of the writes that the guest is told to prefer, which are all or nothing; 0: it is told nothing.
    pub atomic_hint: u32,
    /// What the guest reads as the disk's serial number; `None`: from the namespace's uuid, or the
    /// BTT's where the namespace has none.
    pub serial: Option<Serial>,
    /// What the guest may discard.
    pub discard: Discard,
    /// Have what is in memory mapped by huge pages, where the kernel can.
    pub huge_pages: bool,
    /// How long a worker waits for requests at an empty ring before it goes to sleep.
    pub poll: Duration,
    /// How fast it may be.
    pub rate_limit: RateLimit,
    /// The disks with which it shares further limits.
    pub rate_group: Option<RateGroup>,
    /// What the guest can map, by number of the shared memory region; 255 at most.
    pub windows: Vec<WindowConfig>,
    /// How the medium of the namespace is opened.
    pub medium: Arc<dyn OpenMedium>,
}

/// Disks that share rate limits. Clones are of the same group.
#[derive(Debug, Clone)]
pub struct RateGroup {
    name: String,
    limiter: Arc<Limiter>,
}

impl RateGroup {
    /// A group of no disks yet, which share `limit`.
    #[must_use]
    pub fn new(name: String, limit: RateLimit) -> RateGroup {
        let limiter = Limiter::default();
        limiter.set(limit, Instant::now());
        RateGroup { name, limiter: Arc::new(limiter) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A disk whose BTT is open, and not served yet.
pub(super) struct OpenDisk<M: PersistentMemory + 'static> {
    /// The claim on its namespace.
    pub claim: Claim,
    /// What is open.
    pub btt: Arc<Btt<M>>,
    /// The version of its BTT.
    pub version: Option<Version>,
    /// The device.
    pub device: BlockDevice<btt::Queue<M>>,
    /// What is said of the disk.
    pub facts: DiskFacts,
}

/// A disk whose namespace is claimed and mapped, and whose socket is open.
pub struct MappedDisk<'a, M = Mapping> {
    config: &'a DiskConfig,
    mapped: MappedNamespace<M>,
    endpoint: Endpoint,
    regions: &'a mut Regions,
    stop: Stop,
}

impl DiskConfig {
    /// Claims and opens the namespace, and begins to listen. `stop` stops the server.
    ///
    /// # Errors
    ///
    /// Another process holds the namespace, its BTT cannot be served, or the socket cannot be used.
    pub fn server(&self, regions: &mut Regions, stop: Stop) -> Result<Server, Error> {
        if self.claim_while_running {
            return on_demand::server(self, stop);
        }
        let (mapped, endpoint) = self.map()?;
        self.medium.disk(MappedDisk { config: self, mapped, endpoint, regions, stop })
    }

    /// Lets the queues of `device` be no faster than they may.
    pub(super) fn limit(&self, device: &impl VhostDevice) {
        let limits = device.gate().limits();
        limits.own().set(self.rate_limit, Instant::now());
        if let Some(group) = &self.rate_group {
            limits.join(group.limiter.clone());
        }
    }

    /// What the administrator sees of the disk.
    pub(super) fn description(
        &self,
        identity: Identity,
        facts: Arc<DiskFacts>,
        growth: Option<Arc<dyn Growth>>,
    ) -> Description {
        Description {
            identity,
            facts: Some(facts),
            growth,
            group: self.rate_group.as_ref().map(|group| group.name.clone()),
            page_tables: None,
            windows: self.windows.clone(),
            handed_over: None,
        }
    }

    /// The file of the disk, if it was handed over.
    fn handed_over(&self, claim: &Claim) -> Option<HandedOver> {
        let (file, range) = (self.namespace.file.clone()?, claim.namespace().range.clone());
        Some(HandedOver { file, range })
    }

    /// What the administrator knows the disk by.
    pub(super) fn identity(&self, namespace: &Namespace, claim: &str) -> Identity {
        let name = match namespace.name.as_str() {
            "" => namespace.device_name(),
            name => name.to_owned(),
        };
        Identity {
            name,
            kind: "disk".into(),
            file: self.namespace.path.clone(),
            namespace: namespace.device_name(),
            uuid: namespace.uuid.map(|uuid| uuid.to_string()),
            socket: self.socket.to_string(),
            claim: claim.into(),
            handed_over: self.namespace.file.is_some(),
        }
    }

    /// The windows of the disk whose namespace is `claim`'s.
    fn open_windows(&self, claim: &Claim, regions: &mut Regions) -> Result<Arc<Windows>, Error> {
        let log_name = log_name(claim.path(), claim.namespace());
        let windows: Vec<Window> =
            self.windows.iter().map(|window| window.open(regions)).collect::<Result<_, _>>()?;
        for (number, window) in windows.iter().enumerate() {
            let (name, size) = (window.name(), window.device_size());
            info!("{log_name}: window {number} is device {name:?}, of {size} bytes");
        }
        let windows = Arc::new(Windows::new(&log_name, windows));
        regions.used_by(&windows);
        Ok(windows)
    }

    /// Claims and maps the namespace. Frontends may connect from here on; they are answered once
    /// there is a server.
    fn map(&self) -> Result<(MappedNamespace, Endpoint), Error> {
        let kind = if self.read_only { ClaimKind::Shared } else { ClaimKind::Exclusive };
        let mapped = self.namespace.map(kind)?;
        Ok((mapped, Endpoint::open(&self.socket)?))
    }

    /// Opens the BTT in a namespace.
    pub(super) fn open_btt<M: PersistentMemory + 'static>(
        &self,
        mapped: MappedNamespace<M>,
    ) -> Result<OpenDisk<M>, NamespaceError> {
        let (claim, (btt, queues)) =
            mapped.open(self.read_only, self.queues.into(), self.atomic)?;
        self.check_blocks(&*btt)?;
        let first = btt.infos().next();
        let uuid = claim.namespace().uuid.or(first.map(|info| info.uuid));
        let version = first.map(|info| info.version);
        let device = self.device(&*btt, uuid);
        announce(&claim, &device, btt.durability());
        if self.atomic.most > 0 && device.atomic_size == device.sector_size && !device.read_only {
            say_that_only_sectors_are_atomic(&claim, self.queues);
        }
        let facts = DiskFacts::new(&btt, &device);
        let device = BlockDevice::new(&log_name(claim.path(), claim.namespace()), device, queues)
            .polling(self.poll);
        Ok(OpenDisk { claim, btt, version, device, facts })
    }

    /// The device that serves `disk`, which goes by `uuid`.
    pub(super) fn device(&self, disk: &impl Disk, uuid: Option<Uuid>) -> Device {
        let options = DeviceOptions {
            read_only: self.read_only,
            discard: self.discard,
            serial: self.serial.unwrap_or(Serial::from_uuid(uuid.unwrap_or_default())),
            queues: self.queues,
            queue_size: self.queue_size,
        };
        let device = Device { preferred_size: self.atomic_hint, ..Device::new(disk, &options) };
        match self.logical_block_size {
            Some(size) => device.with_logical_blocks(size),
            None => device,
        }
    }

    /// Refuses logical blocks that would tear, and to tell the guest to prefer writes that would.
    pub(super) fn check_blocks(&self, disk: &impl Disk) -> Result<(), NamespaceError> {
        let (sector_size, atomic) = (disk.sector_size(), disk.atomic_size());
        let path = || self.namespace.path.clone();
        match (self.logical_block_size, self.atomic_hint) {
            (Some(size), _) if size > atomic => {
                Err(NamespaceError::LogicalBlock { path: path(), size, sector_size })
            }
            (_, 0) => Ok(()),
            (block, size) if size > atomic || block.unwrap_or(sector_size) != HINTED_BLOCK => {
                Err(NamespaceError::AtomicHint { path: path(), size, atomic })
            }
            _ => Ok(()),
        }
    }
}

impl<'a> MappedDisk<'a> {
    /// The same disk on another medium, which `change` makes of the mapping.
    pub fn with_medium<M: PersistentMemory>(
        self,
        change: impl FnOnce(Mapping) -> Result<M, MapError>,
    ) -> Result<MappedDisk<'a, M>, Error> {
        let MappedDisk { config, mapped, endpoint, regions, stop } = self;
        Ok(MappedDisk { config, mapped: mapped.with_medium(change)?, endpoint, regions, stop })
    }

    /// Serves the BTT, which is opened again whenever its namespace has grown.
    pub fn serve_growing(self) -> Result<Server, Error> {
        let MappedDisk { config, mut mapped, endpoint, regions, stop } = self;
        mapped.medium.keep_single_pages();
        let (durability, backing) = (mapped.medium.durability(), mapped.medium.backing());
        let pages = mapped.medium.pages();
        let OpenDisk { claim, btt, version, device, facts } = config.open_btt(mapped)?;
        let page_tables =
            PageTables::new(log_name(claim.path(), claim.namespace()), pages, config.huge_pages);
        let page_tables = Arc::new(page_tables);
        warn_of_losses(&config.namespace.path, durability, backing);
        let windows = config.open_windows(&claim, regions)?;
        let (identity, handed_over) = (
            config.identity(claim.namespace(), claim_name(claim.kind())),
            config.handed_over(&claim),
        );
        let (device, facts) = (device.with_windows(windows).share(), Arc::new(facts));
        config.limit(&*device);
        let server = Server::new(device.clone(), endpoint, stop).filling(page_tables.clone());
        let growth = (!config.read_only).then(|| -> Arc<dyn Growth> {
            let (config, facts) = (config.clone(), facts.clone());
            let pages = page_tables.clone();
            let opened = (Opened { claim, btt }, version);
            Arc::new(DiskGrowth::new(config, device, facts, opened, pages))
        });
        let description = config.description(identity, facts, growth);
        let page_tables = Some(page_tables);
        Ok(server.described(Description { page_tables, handed_over, ..description }))
    }
}

impl<M: PersistentMemory + 'static> MappedDisk<'_, M> {
    /// The NVDIMM file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.config.namespace.path
    }

    /// The medium.
    pub fn medium(&self) -> &M {
        &self.mapped.medium
    }

    /// Serves the BTT, which keeps its size.
    pub fn serve_btt(self) -> Result<Server, Error> {
        let MappedDisk { config, mapped, endpoint, regions, stop } = self;
        let OpenDisk { claim, device, facts, .. } = config.open_btt(mapped)?;
        let device = device.with_windows(config.open_windows(&claim, regions)?).share();
        config.limit(&*device);
        let handed_over = config.handed_over(&claim);
        let description = config.description(
            config.identity(claim.namespace(), claim_name(claim.kind())),
            Arc::new(facts),
            None,
        );
        let server = Server::new(device, endpoint, stop);
        Ok(server.described(Description { handed_over, ..description }))
    }

    /// Serves what `open` makes of the medium, for so many queues, instead of a BTT.
    pub fn serve_instead<D: Disk, Q: DiskQueue + 'static>(
        self,
        open: impl FnOnce(M, usize) -> (Arc<D>, Vec<Q>),
    ) -> Result<Server, Error> {
        let MappedDisk { config, mapped, endpoint, regions, stop } = self;
        let MappedNamespace { claim, medium, .. } = mapped;
        let (disk, queues) = open(medium, config.queues.into());
        config.check_blocks(&*disk)?;
        let device = config.device(&*disk, claim.namespace().uuid);
        announce(&claim, &device, disk.durability());
        let device = BlockDevice::new(&log_name(claim.path(), claim.namespace()), device, queues)
            .polling(config.poll);
        let device = device.with_windows(config.open_windows(&claim, regions)?);
        Ok(Server::new(device.into_device(), endpoint, stop))
    }
}

/// What reports call a claim.
pub(in crate::vhost_user) fn claim_name(kind: ClaimKind) -> &'static str {
    match kind {
        ClaimKind::Exclusive => "exclusive",
        ClaimKind::Shared => "shared",
    }
}
