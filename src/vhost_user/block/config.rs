//! The options of a disk, and the server that they describe.

use std::sync::Arc;
use std::time::Duration;

use log::info;
use uuid::Uuid;

use super::super::announce::{announce, title, warn_of_losses};
use super::super::error::Error;
use super::super::server::{Reopen, Server};
use super::super::socket::{Endpoint, SocketSource};
use super::super::stop::Stop;
use super::super::windows::{Regions, Window, WindowConfig, Windows};
use super::device::BlockDevice;
use crate::btt::{self, Version};
use crate::namespace::{self, MappedNamespace, NamespaceError, NamespaceOptions};
use crate::nvdimm::{Claim, ClaimKind};
use crate::pmem::{Mapping, PersistentMemory};
use crate::virtio::block::{Device, DeviceOptions, Discard, Disk, Serial};

/// What is served, where, and how.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Where frontends connect.
    pub socket: SocketSource,
    /// The namespace.
    pub namespace: NamespaceOptions,
    /// Refuse every change, and never write to the file.
    pub read_only: bool,
    /// Number of request queues, 1 to 64.
    pub queues: u16,
    /// Most descriptors of a queue, a power of two.
    pub queue_size: u16,
    /// What the guest reads as the disk's serial number; `None`: from the namespace's uuid, or the
    /// BTT's where the namespace has none.
    pub serial: Option<Serial>,
    /// What the guest may discard.
    pub discard: Discard,
    /// How long a worker waits for requests at an empty ring before it goes to sleep.
    pub poll: Duration,
    /// What the guest can map, by number of the shared memory region; 255 at most.
    pub windows: Vec<WindowConfig>,
    /// What is to go wrong.
    #[cfg(feature = "power-fail")]
    pub injection: super::super::injection::Injection,
}

/// A disk that is open, and not served yet.
pub(in crate::vhost_user) struct OpenDisk<M: PersistentMemory + 'static> {
    /// The claim on its namespace.
    pub claim: Claim,
    /// The version of its BTT.
    pub version: Option<Version>,
    /// The device.
    pub device: BlockDevice<btt::Queue<M>>,
}

impl DiskConfig {
    /// A server of the disk. `stop` stops it.
    #[cfg(not(feature = "power-fail"))]
    pub fn server(&self, regions: &mut Regions, stop: Stop) -> Result<Server, Error> {
        self.open(regions, stop)
    }

    /// Claims and opens the namespace, and begins to listen. `stop` stops the server.
    ///
    /// # Errors
    ///
    /// Another process holds the namespace, its BTT cannot be served, or the socket cannot be used.
    pub fn open(&self, regions: &mut Regions, stop: Stop) -> Result<Server, Error> {
        let (mapped, endpoint) = self.map()?;
        let (durability, backing) = (mapped.medium.durability(), mapped.medium.backing());
        let OpenDisk { claim, version, device } = self.open_btt(mapped)?;
        warn_of_losses(&self.namespace.path, durability, backing);
        let windows = self.open_windows(&claim, regions)?;
        let sectors = device.sectors();
        let server =
            Server::new(device.with_windows(windows.clone()).into_device(), endpoint, stop);
        if self.read_only {
            return Ok(server);
        }
        let reopen = self.clone().reopen(claim, version);
        Ok(server.reopened_by(with_windows(reopen, sectors, windows)))
    }

    /// The windows of the disk whose namespace is `claim`'s.
    pub(in crate::vhost_user) fn open_windows(
        &self,
        claim: &Claim,
        regions: &mut Regions,
    ) -> Result<Arc<Windows>, Error> {
        let title = title(claim);
        let windows: Vec<Window> =
            self.windows.iter().map(|window| window.open(regions)).collect::<Result<_, _>>()?;
        for (number, window) in windows.iter().enumerate() {
            let (name, size) = (window.name(), window.device_size());
            info!("{title}: window {number} is device {name:?}, of {size} bytes");
        }
        let windows = Arc::new(Windows::new(&title, windows));
        regions.used_by(&windows);
        Ok(windows)
    }

    /// Opens the disk again whenever its namespace has grown beyond what `claim` says. Its BTT is of
    /// `version`.
    fn reopen(self, mut claim: Claim, version: Option<Version>) -> ReopenDisk {
        Box::new(move || {
            let Some(mapped) = namespace::grow_claimed(&self.namespace, &claim, version)? else {
                return Ok(None);
            };
            let opened = self.open_btt(mapped)?;
            claim = opened.claim;
            Ok(Some(opened.device))
        })
    }

    /// Claims and maps the namespace. Frontends may connect from here on; they are answered once
    /// there is a server.
    pub(in crate::vhost_user) fn map(&self) -> Result<(MappedNamespace, Endpoint), Error> {
        let kind = if self.read_only { ClaimKind::Shared } else { ClaimKind::Exclusive };
        let mapped = self.namespace.map(kind)?;
        Ok((mapped, Endpoint::open(&self.socket)?))
    }

    /// Opens the BTT in a namespace.
    pub(in crate::vhost_user) fn open_btt<M: PersistentMemory + 'static>(
        &self,
        mapped: MappedNamespace<M>,
    ) -> Result<OpenDisk<M>, NamespaceError> {
        let (claim, (btt, queues)) = mapped.open(self.read_only, self.queues.into())?;
        let first = btt.infos().next();
        let uuid = claim.namespace().uuid.or(first.map(|info| info.uuid));
        let version = first.map(|info| info.version);
        let device = self.device(&*btt, uuid);
        announce(&claim, &device, btt.durability());
        let device = BlockDevice::new(&title(&claim), device, queues).polling(self.poll);
        Ok(OpenDisk { claim, version, device })
    }

    /// The device that serves `disk`, which goes by `uuid`.
    pub(in crate::vhost_user) fn device(&self, disk: &impl Disk, uuid: Option<Uuid>) -> Device {
        let options = DeviceOptions {
            read_only: self.read_only,
            discard: self.discard,
            serial: self.serial.unwrap_or(Serial::from_uuid(uuid.unwrap_or_default())),
            queues: self.queues,
            queue_size: self.queue_size,
        };
        Device::new(disk, &options)
    }
}

/// As [`Reopen`], of a disk without its windows.
type ReopenDisk =
    Box<dyn FnMut() -> Result<Option<BlockDevice<btt::Queue<Mapping>>>, NamespaceError> + Send>;

/// What `reopen` opens, with the same windows as before, when there were `sectors`; says so.
fn with_windows(mut reopen: ReopenDisk, mut sectors: u64, windows: Arc<Windows>) -> Reopen {
    Box::new(move || {
        let Some(larger) = reopen()? else { return Ok(None) };
        let (now, name) = (larger.sectors(), larger.name());
        info!("{name}: the disk has grown from {sectors} to {now} sectors");
        sectors = now;
        Ok(Some(larger.with_windows(windows.clone()).into_device()))
    })
}
