//! The command line of `vhost-user-btt`.

mod served;
mod values;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, value_parser};
use serde_json::json;

pub use self::served::{Served, UsageError};
use self::values::{ClaimArg, atomic_hint, atomic_or_auto};
pub(super) use self::values::{
    DiscardArg, DurabilityArg, HugePagesArg, atomic, queue_size, socket_group, socket_mode,
};
use super::disk::{DiskArg, logical_block_size, queue_count, serial};
use super::keeper::KeeperArgs;
use super::logging::LogLevel;
use super::name::NamespaceArgs;
use super::rate::RateArg;
use super::sandbox::SandboxArgs;
use super::window::{PmemArg, WindowArg};
use crate::namespace::Atomic;
use crate::vhost_user::{MOST_POLL_US, MOST_QUEUE_SIZE};
use crate::virtio::block::Serial;

/// Serves disks with atomic sectors, and DAX devices, to virtual machines over vhost-user.
///
/// The NVDIMM file is on a DAX file system, a device-DAX device, or any ordinary file. nvdimmctl makes the
/// file and the namespaces in it. The daemon never formats anything.
///
/// One disk: --socket-path=PATH --nvdimm=FILE --namespace=NAME. Several disks: --nvdimm=FILE and a --disk for
/// each. DAX devices: --pmem serves one as persistent memory, --window as a part of a disk.
#[derive(Debug, Parser)]
#[command(name = "vhost-user-btt", version, max_term_width = 100)]
pub struct DaemonArgs {
    /// What is served.
    #[command(flatten)]
    pub devices: DeviceArgs,

    /// What is given up before serving begins.
    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// The process that holds the connections of frontends.
    #[command(flatten)]
    pub keeper: KeeperArgs,

    /// Print the capabilities of the program as JSON, and exit
    #[arg(long, action = ArgAction::SetTrue)]
    print_capabilities: bool,
}

/// What is served, where, and how: options of every program that serves NVDIMM files.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Listen on this Unix socket; a socket on which no process listens any more is replaced
    #[arg(long, value_name = "PATH", group = "socket")]
    socket_path: Option<PathBuf>,

    /// Use this open descriptor: a Unix stream socket that is listening or connected
    #[arg(long, value_name = "N", group = "socket", value_parser = value_parser!(i32).range(0..))]
    fd: Option<i32>,

    /// Permissions of the sockets that frontends connect to, in octal, whatever the umask is [default: 660
    /// less the umask]
    #[arg(long, value_name = "MODE", value_parser = socket_mode)]
    socket_mode: Option<u32>,

    /// Group of the sockets that frontends connect to, by name or number; the user that runs the daemon has
    /// to be a member
    #[arg(long, value_name = "GROUP", value_parser = socket_group)]
    socket_group: Option<u32>,

    /// The NVDIMM file or device with the namespaces to serve
    #[arg(long, value_name = "FILE")]
    nvdimm: Option<PathBuf>,

    /// The same as --nvdimm, under the name of QEMU's conventions for back ends
    #[arg(long, value_name = "FILE", conflicts_with = "nvdimm")]
    blk_file: Option<PathBuf>,

    /// One of several disks: socket=PATH (or fd=N) and namespace=NAME; optionally queues=N,
    /// logical-block-size=N, read-only, serial=TEXT, rate-group=NAME, and nvdimm=FILE for another file; two commas in
    /// a value stand for one
    #[arg(long, value_name = "KEY=VALUE,...", conflicts_with_all = ["socket", "namespace", "serial"])]
    disk: Vec<DiskArg>,

    /// A DAX device as persistent memory of a guest: socket=PATH (or fd=N) and device=NAME; optionally
    /// read-only, namespace=NAME if several are in dax mode, nvdimm=FILE for another file, and expose-file
    /// and share-rw as for --window
    #[arg(long, value_name = "KEY=VALUE,...")]
    pmem: Vec<PmemArg>,

    /// A DAX device that the guest of a disk maps as a shared memory region of the disk: NAME; optionally
    /// reserve=SIZE to leave room for growth, read-only, namespace and nvdimm as for --pmem, disk=NAME with
    /// the namespace of the disk if there are several, expose-file to give the frontend a descriptor of the
    /// whole file although other guests have namespaces in it, and share-rw to let other guests have the
    /// device at the same time and write to it
    #[arg(long, value_name = "NAME,KEY=VALUE,...")]
    window: Vec<WindowArg>,

    /// Listen on this Unix socket for administrators: nvdimmctl --control=PATH dax resize-device ...
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Refuse every write, and open the file for reading only
    #[arg(long)]
    read_only: bool,

    /// Claim the namespaces of disks from the 'start' of the daemon to its end, or while rings are 'running', as two
    /// daemons at the two ends of a migration have to
    #[arg(long, value_name = "WHEN", default_value = "start")]
    claim: ClaimArg,

    // A text, and not a comment: the names are those that are typed.
    #[arg(
        long,
        value_name = "KEY=VALUE,...",
        help = "Limit the speed of each disk: bw_size=BYTES in bw_refill_time=MILLISECONDS, ops_size=REQUESTS in \
                ops_refill_time=MILLISECONDS, and bw_one_time_burst and ops_one_time_burst beside these once; \
                with group=NAME, the limits are those of all disks together that have rate-group=NAME"
    )]
    rate_limit: Vec<RateArg>,

    /// Number of request queues that frontends can use, each with lanes of its own, and with a worker thread
    /// once the guest uses it [default: the number of CPUs, at least 4 and at most 64]
    #[arg(long, value_name = "N", value_parser = queue_count)]
    num_queues: Option<u16>,

    /// Largest queue size, a power of two
    #[arg(long, value_name = "N", default_value_t = MOST_QUEUE_SIZE, value_parser = queue_size)]
    queue_size: u16,

    /// Bytes of the block that the guest addresses: 512 over sectors of 4096 bytes is for firmware and images that
    /// know no other; 8192, 16384 and 32768, each all or nothing, are for data disks of guests that know such
    /// blocks (Linux from 6.15 on) [default: a sector]
    #[arg(long, value_name = "BYTES", value_parser = logical_block_size)]
    logical_block_size: Option<u32>,

    /// Let aligned writes of 8K, 16K and so on, up to this power of two, be all or nothing as sectors are: a
    /// database page never tears; 'auto': up to 64K, or as far as that is possible; 'off': only sectors are
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = atomic_or_auto)]
    atomic: Atomic,

    /// Tell the guest to prefer writes of this size, which is all or nothing; what follows is said in
    /// docs/atomic.md
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true,
          default_missing_value = "16K", value_parser = atomic_hint)]
    atomic_hint: Option<u32>,

    /// The serial number that the guest reads, up to 20 characters [default: from the uuid]
    #[arg(long, value_name = "TEXT", value_parser = serial)]
    serial: Option<Serial>,

    /// Let the guest discard sectors: 'on', 'off', or 'auto', which is on with sectors of 4096 bytes
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    discard: DiscardArg,

    /// What a completed write survives; see "What a completed write survives" in the README
    #[arg(long, value_name = "KIND", default_value = "auto")]
    durability: DurabilityArg,

    /// Map what is in memory of a file in the page cache by pages of 2 MiB: with 'auto', the kernel copies it into
    /// such pages in the background, where it can, as on tmpfs; with 'off', it is left as it is
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    huge_pages: HugePagesArg,

    /// How long a worker polls an empty ring before it sleeps, in microseconds, 0 to 1000; it sleeps at once
    /// where polling does not pay, or another thread needs the CPU
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u16).range(..=i64::from(MOST_POLL_US)))]
    poll_us: u16,

    /// Which messages are shown on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
}

/// The answer to `--print-capabilities` (QEMU, "vhost-user", "Backend program conventions").
#[must_use]
pub fn capabilities() -> String {
    json!({ "type": "block", "features": ["read-only", "blk-file"] }).to_string()
}
