//! Log messages about the devices that are about to be served.

use std::path::Path;

use log::{info, warn};

use crate::nvdimm::{Claim, Namespace};
use crate::pmem::{Backing, Durability};
use crate::virtio::block::Device;

/// What the log calls what is in a namespace.
pub(super) fn log_name(path: &Path, namespace: &Namespace) -> String {
    format!("{}: {}", path.display(), namespace.device_name())
}

/// Says what is served.
pub(super) fn announce(claim: &Claim, device: &Device, durability: Durability) {
    let path = claim.path().display();
    info!(
        "{path}: serving {}{}: {} sectors of {} bytes, {} queues, {durability} durability{}{}",
        claim.namespace().device_name(),
        match claim.namespace().name.as_str() {
            "" => String::new(),
            name => format!(" {name:?}"),
        },
        device.sectors,
        device.sector_size,
        device.queues,
        if device.read_only { ", read-only" } else { "" },
        match device.atomic_size {
            size if size > device.sector_size && !device.read_only =>
                format!(", aligned writes of up to {size} bytes all or nothing"),
            _ => String::new(),
        },
    );
}

/// Says that a write of several sectors may tear, although it was wanted that it does not where that can be.
pub(super) fn say_that_only_sectors_are_atomic(claim: &Claim, queues: u16) {
    info!(
        "{}: with {queues} queues, this disk cannot make writes of several sectors all or nothing",
        claim.path().display()
    );
}

/// Says what a completed write is not safe from.
pub(super) fn warn_of_losses(path: &Path, durability: Durability, backing: Backing) {
    let path = path.display();
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
