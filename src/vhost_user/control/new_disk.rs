//! The disk that an administrator adds to a running daemon.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::report::RateReport;

/// A disk to be added. What is left out is as the daemon's own options say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NewDisk {
    /// The NVDIMM file.
    pub nvdimm: PathBuf,
    /// The socket that frontends connect to.
    pub socket: PathBuf,
    /// What the descriptors are that come with the request, in their order. What is not among them, the daemon
    /// opens or binds by its path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<Handed>,
    /// The namespace; not needed where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Bytes of the label storage area; 0: the file has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_size: Option<u64>,
    /// Refuse every change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Number of request queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Most descriptors of a queue, a power of two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<u16>,
    /// Bytes of the block that the guest addresses: 512, 4096, 8192, 16384 or 32768.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_block_size: Option<u32>,
    /// Bytes up to which aligned writes are all or nothing; 0: only sectors are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atomic: Option<u32>,
    /// Its serial number; otherwise it is made of the namespace's uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether the guest may discard sectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<NewDiscard>,
    /// What a completed write survives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<NewDurability>,
    /// Whether what is in memory gets mapped by pages of 2 MiB where the kernel can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<bool>,
    /// How long a worker polls an empty ring, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_us: Option<u16>,
    /// Its own rate limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateReport>,
    /// The group of disks with which it shares rate limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_group: Option<String>,
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handed {
    /// The NVDIMM file: open for writing, unless the disk is read-only.
    Nvdimm,
    /// The socket: listening, or connected to a frontend.
    Socket,
}

/// Whether the guest may discard sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewDiscard {
    /// With sectors of 4096 bytes.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What a completed write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewDurability {
    /// As the file allows.
    Auto,
    /// CPU caches are flushed at every step.
    Dax,
    /// A write is durable when the guest flushes.
    PageCache,
    /// A write is durable when it completes.
    Strict,
}
