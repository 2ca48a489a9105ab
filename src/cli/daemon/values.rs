//! What the options of `vhost-user-btt` may be.

use clap::ValueEnum;
use nix::unistd::Group;

use crate::cli::size::Size;
use crate::namespace::Atomic;
use crate::pmem::DurabilityRequest;
use crate::vhost_user::{MOST_QUEUE_SIZE, is_atomic_size, is_queue_size};
use crate::virtio::block::Discard;

/// The value of `--claim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ClaimArg {
    /// From the start of the daemon to its end
    Start,
    /// While rings run
    Running,
}

/// The value of `--discard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum DiscardArg {
    /// With sectors of 4096 bytes; Linux's own driver misreads discarded sectors of 512
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl From<DiscardArg> for Discard {
    fn from(discard: DiscardArg) -> Discard {
        match discard {
            DiscardArg::Auto => Discard::Auto,
            DiscardArg::On => Discard::On,
            DiscardArg::Off => Discard::Off,
        }
    }
}

/// The value of `--huge-pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum HugePagesArg {
    /// Where the kernel can
    Auto,
    /// Only what the kernel maps by itself
    Off,
}

/// The value of `--durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum DurabilityArg {
    /// 'dax' where the file supports it, else 'page-cache'
    Auto,
    /// Flush CPU caches at every step; where the file is not DAX, for measurements only
    Dax,
    /// Make writes durable when the guest flushes
    PageCache,
    /// Make every write durable before it completes, by syncing the file where it is not DAX
    Strict,
}

impl From<DurabilityArg> for DurabilityRequest {
    fn from(durability: DurabilityArg) -> DurabilityRequest {
        match durability {
            DurabilityArg::Auto => DurabilityRequest::Auto,
            DurabilityArg::Dax => DurabilityRequest::Dax,
            DurabilityArg::PageCache => DurabilityRequest::PageCache,
            DurabilityArg::Strict => DurabilityRequest::Strict,
        }
    }
}

pub(in crate::cli) fn queue_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if is_queue_size(size) => Ok(size),
        _ => Err(format!("not a power of two from 2 to {MOST_QUEUE_SIZE}")),
    }
}

/// What 'auto' comes to, where it can: no database has larger pages.
const USUAL_ATOMIC: u32 = 64 << 10;

pub(in crate::cli) fn atomic(text: &str) -> Result<u32, String> {
    if text == "off" {
        return Ok(0);
    }
    atomic_size(text).ok_or_else(|| "neither 'off' nor a power of two from 1K to 256K".into())
}

pub(super) fn atomic_or_auto(text: &str) -> Result<Atomic, String> {
    match text {
        "auto" => Ok(Atomic { least: 0, most: USUAL_ATOMIC }),
        _ => match atomic(text) {
            Ok(size) => Ok(Atomic { least: size, most: size }),
            Err(error) => Err(format!("not 'auto', and {error}")),
        },
    }
}

pub(super) fn atomic_hint(text: &str) -> Result<u32, String> {
    let size = atomic_size(text).filter(|size| *size >= 8 << 10);
    size.ok_or_else(|| "not a power of two from 8K to 256K".into())
}

fn atomic_size(text: &str) -> Option<u32> {
    match text.parse::<Size>() {
        Ok(Size(size)) if is_atomic_size(size) => Some(size as u32),
        _ => None,
    }
}

pub(in crate::cli) fn socket_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 => Ok(mode),
        _ => Err("not an octal number from 0 to 777".into()),
    }
}

pub(in crate::cli) fn socket_group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no such group".into()),
        Err(errno) => Err(format!("cannot look it up: {errno}")),
    }
}
