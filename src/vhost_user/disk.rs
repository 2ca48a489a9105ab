//! A namespace as a disk, from its options to a server.

use log::{info, warn};

use super::backend::Backend;
use super::error::Error;
use super::server::Server;
use super::socket::{Endpoint, SocketSource};
use super::stop::Stop;
use crate::btt::NamespaceOptions;
use crate::nvdimm::{Claim, ClaimKind};
use crate::pmem::{Backing, Durability, Mapping};
use crate::virtio::block::{Device, DeviceOptions, Discard, Serial};

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
}

impl DiskConfig {
    /// Claims and opens the namespace, and begins to listen. `stop` stops the server.
    ///
    /// # Errors
    ///
    /// Somebody else holds the namespace, its BTT cannot be served, or the socket cannot be used.
    pub fn open(&self, stop: Stop) -> Result<Server<Mapping>, Error> {
        let kind = if self.read_only { ClaimKind::Shared } else { ClaimKind::Exclusive };
        let mapped = self.namespace.map(kind)?;
        // Frontends may connect from here on; they are answered once the BTT is open.
        let endpoint = Endpoint::open(&self.socket)?;
        let backing = mapped.medium.backing();
        let (claim, (btt, queues)) = mapped.open(self.read_only, self.queues.into())?;
        let uuid = claim.namespace().uuid.or_else(|| btt.infos().next().map(|info| info.uuid));
        let options = DeviceOptions {
            read_only: self.read_only,
            discard: self.discard,
            serial: self.serial.unwrap_or(Serial::from_uuid(uuid.unwrap_or_default())),
            queues: self.queues,
            queue_size: self.queue_size,
        };
        let device = Device::new(&btt, &options);
        announce(&claim, &device, backing, btt.durability());
        let title = format!("{}: {}", claim.path().display(), claim.namespace().device_name());
        Server::new(Backend::new(&title, device, queues), endpoint, stop)
    }
}

/// Says what is served, and what it is worth.
fn announce(claim: &Claim, device: &Device, backing: Backing, durability: Durability) {
    let path = claim.path().display();
    info!(
        "{path}: serving {}{}: {} sectors of {} bytes, {} queues, {durability} durability{}",
        claim.namespace().device_name(),
        match claim.namespace().name.as_str() {
            "" => String::new(),
            name => format!(" {name:?}"),
        },
        device.sectors,
        device.sector_size,
        device.queues,
        if device.read_only { ", read-only" } else { "" },
    );
    match (durability, backing) {
        (Durability::PageCache, _) => warn!(
            "{path}: sectors are atomic across a crash of guest, VMM or daemon, and durable when the guest \
             flushes; they are NOT atomic across a power failure of this host: that takes a DAX \
             file, or --durability=strict"
        ),
        (Durability::Dax, Backing::PageCache) => warn!(
            "{path}: the file is not DAX: flushing CPU caches makes nothing durable here, whatever the \
             guest is told; --durability=dax on such a file is for measurements only"
        ),
        (Durability::Dax | Durability::Strict, _) => {}
    }
}
