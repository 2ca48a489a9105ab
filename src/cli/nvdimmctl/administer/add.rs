//! `add`: another disk for a daemon that runs.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf, absolute};

use clap::Args;

use super::super::{Error, io_error};
use super::unknown;
use crate::cli::daemon::{
    DiscardArg, DurabilityArg, HugePagesArg, atomic, queue_size, socket_group, socket_mode,
};
use crate::cli::disk::{logical_block_size, queue_count, serial};
use crate::cli::name::LabelSizeArg;
use crate::cli::output::say;
use crate::cli::rate::RateArg;
use crate::nvdimm::{self, LabelSize};
use crate::vhost_user::control::{
    self, Answer, Handed, NewDiscard, NewDisk, NewDurability, Request,
};
use crate::vhost_user::{
    Endpoint, MOST_POLL_US, SocketAccess, SocketName, SocketPath, SocketSource,
};

/// Serve another disk: nvdimmctl --control=PATH add FILE --socket-path=SOCKET
///
/// This opens FILE and listens at SOCKET, and hands both over to the daemon, which may open neither itself. What
/// is not said of the disk is as the daemon's own options say.
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Add {
    /// The NVDIMM file
    file: PathBuf,

    /// Where frontends connect; a socket on which no process listens any more is replaced
    #[arg(long, value_name = "PATH")]
    socket_path: PathBuf,

    /// Let the daemon open FILE and make the socket itself, as it can in folders that it was started with:
    /// --allow-path=FOLDER
    #[arg(long)]
    by_path: bool,

    /// Permissions of the socket, in octal, whatever the umask is [default: 660 less the umask]
    #[arg(long, value_name = "MODE", value_parser = socket_mode, conflicts_with = "by_path")]
    socket_mode: Option<u32>,

    /// Group of the socket, by name or number
    #[arg(long, value_name = "GROUP", value_parser = socket_group, conflicts_with = "by_path")]
    socket_group: Option<u32>,

    /// The namespace, by device name (namespace0.0), name or uuid; not needed where there is only one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Size of the label storage area at the end of the file, or 'none'
    #[arg(long, value_name = "SIZE")]
    label_size: Option<LabelSizeArg>,

    /// Refuse every write, and open the file for reading only
    #[arg(long)]
    read_only: bool,

    /// Number of request queues
    #[arg(long, value_name = "N", value_parser = queue_count)]
    num_queues: Option<u16>,

    /// Largest queue size, a power of two
    #[arg(long, value_name = "N", value_parser = queue_size)]
    queue_size: Option<u16>,

    /// Bytes of the block that the guest addresses: 512, 4096, or one of 8192, 16384 and 32768, which are refused
    /// with --atomic=off
    #[arg(long, value_name = "BYTES", value_parser = logical_block_size)]
    logical_block_size: Option<u32>,

    /// Let aligned writes up to this power of two be all or nothing; 'off': only sectors are
    #[arg(long, value_name = "SIZE", value_parser = atomic)]
    atomic: Option<u32>,

    /// The serial number that the guest reads, up to 20 characters [default: from the uuid]
    #[arg(long, value_name = "TEXT", value_parser = serial_text)]
    serial: Option<String>,

    /// Whether the guest may discard sectors
    #[arg(long, value_name = "WHEN")]
    discard: Option<DiscardArg>,

    /// What a completed write survives
    #[arg(long, value_name = "KIND")]
    durability: Option<DurabilityArg>,

    /// Whether what is in memory gets mapped by pages of 2 MiB where the kernel can
    #[arg(long, value_name = "WHEN")]
    huge_pages: Option<HugePagesArg>,

    /// How long a worker polls an empty ring before it sleeps, in microseconds, 0 to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(MOST_POLL_US)))]
    poll_us: Option<u16>,

    /// How fast the disk may be, as for the daemon's --rate-limit
    #[arg(long, value_name = "KEY=VALUE,...")]
    rate_limit: Option<RateArg>,

    /// The group of disks with which it shares rate limits, one that the daemon was started with
    #[arg(long, value_name = "NAME")]
    rate_group: Option<String>,
}

fn serial_text(text: &str) -> Result<String, String> {
    serial(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Add {
    pub(super) fn run(&self, socket: &Path) -> Result<(), Error> {
        let mut disk = self.disk()?;
        let answer = if self.by_path {
            control::request(socket, &Request::Add(Box::new(disk)))?
        } else {
            disk.descriptors = vec![Handed::Nvdimm, Handed::Socket];
            self.hand_over(socket, disk)?
        };
        match answer {
            Answer::Added { name } => {
                say!("{name}: served at {}", self.socket_path.display());
                Ok(())
            }
            other => Err(unknown(socket, &other)),
        }
    }

    /// Asks with the file and the socket, both open. If the daemon refuses, the socket's name is gone again.
    fn hand_over(&self, socket: &Path, disk: NewDisk) -> Result<Answer, Error> {
        let file = open_nvdimm(&self.file, !self.read_only)?;
        let (listener, name) = self.listen(&disk.socket)?;
        let descriptors: [BorrowedFd<'_>; 2] = [file.as_fd(), listener.as_fd()];
        let request = Request::Add(Box::new(disk));
        let answer = control::request_with(socket, &request, &descriptors)?;
        if let (Answer::Added { .. }, Some(name)) = (&answer, name) {
            name.leave();
        }
        Ok(answer)
    }

    fn listen(&self, path: &Path) -> Result<(UnixListener, Option<SocketName>), Error> {
        let access = SocketAccess { mode: self.socket_mode, group: self.socket_group };
        let source = SocketSource::Path(SocketPath { path: path.into(), access });
        match Endpoint::open(&source).map_err(|source| Error::Socket(Box::new(source)))? {
            Endpoint::Listening(listener, name) => Ok((listener, name)),
            Endpoint::Connected(_) | Endpoint::Handed(_) => {
                Err(Error::Usage("--socket-path is bound by this command"))
            }
        }
    }

    /// What the daemon is asked for.
    fn disk(&self) -> Result<NewDisk, Error> {
        // The daemon has another working directory.
        let path = |path: &Path| absolute(path).map_err(io_error("make a path absolute"));
        if self.rate_limit.as_ref().is_some_and(|rate| rate.group.is_some()) {
            return Err(Error::Usage("--rate-limit is the disk's own: its group is --rate-group"));
        }
        Ok(NewDisk {
            nvdimm: path(&self.file)?,
            socket: path(&self.socket_path)?,
            descriptors: Vec::new(),
            namespace: self.namespace.clone(),
            label_size: match self.label_size.map(LabelSizeArg::get) {
                None | Some(LabelSize::Detect) => None,
                Some(LabelSize::None) => Some(0),
                Some(LabelSize::Bytes(size)) => Some(size),
            },
            read_only: self.read_only.then_some(true),
            queues: self.num_queues,
            queue_size: self.queue_size,
            logical_block_size: self.logical_block_size,
            atomic: self.atomic,
            serial: self.serial.clone(),
            discard: self.discard.map(|discard| match discard {
                DiscardArg::Auto => NewDiscard::Auto,
                DiscardArg::On => NewDiscard::On,
                DiscardArg::Off => NewDiscard::Off,
            }),
            durability: self.durability.map(|durability| match durability {
                DurabilityArg::Auto => NewDurability::Auto,
                DurabilityArg::Dax => NewDurability::Dax,
                DurabilityArg::PageCache => NewDurability::PageCache,
                DurabilityArg::Strict => NewDurability::Strict,
            }),
            huge_pages: self.huge_pages.map(|huge_pages| huge_pages == HugePagesArg::Auto),
            poll_us: self.poll_us,
            rate_limit: self.rate_limit.as_ref().map(|rate| rate.limit),
            rate_group: self.rate_group.clone(),
        })
    }
}

/// Opens an NVDIMM file for a daemon.
pub(super) fn open_nvdimm(path: &Path, writable: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(writable).custom_flags(libc::O_NONBLOCK);
    options.open(path).map_err(|source| {
        let path = path.into();
        nvdimm::Error::File { action: "open", path, source }.into()
    })
}
