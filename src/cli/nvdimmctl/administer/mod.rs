//! What is asked of a daemon that runs, at its control socket.

mod add;
mod prometheus;
mod stat;
mod table;

use std::os::fd::AsFd;
use std::path::Path;

use clap::{Args, Subcommand};

use super::Error;
use crate::cli::logging::LogLevel;
use crate::cli::one_line;
use crate::cli::output::{remark, say};
use crate::cli::rate::RateArg;
use crate::cli::size::Size;
use crate::vhost_user::control::{
    self, Answer, ClientError, DeviceReport, MOST_QUIESCE_SECONDS, QUIESCE_SECONDS, Request,
};

use crate::vhost_user::remove_left_socket;

use add::{Add, open_nvdimm};
use stat::{Disks, Stat};

/// What a daemon is asked for.
#[derive(Debug, Subcommand)]
pub(super) enum DaemonCommand {
    Stat(Stat),
    Disks(Disks),
    Add(Box<Add>),
    Remove(Remove),
    Drain(Drain),
    Quiesce(Quiesce),
    Resume(Resume),
    LogLevel(SetLogLevel),
    Resize(Resize),
    Rate(Rate),
}

impl DaemonCommand {
    /// Returns whether it is carried out for what it changes, and not for what it prints.
    pub(super) fn is_change(&self) -> bool {
        !matches!(self, DaemonCommand::Stat(_) | DaemonCommand::Disks(_))
    }

    /// Has the daemon do it whose control socket is at `socket`.
    pub(super) fn run(&self, socket: &Path) -> Result<(), Error> {
        match self {
            DaemonCommand::Stat(command) => command.run(socket),
            DaemonCommand::Disks(command) => command.run(socket),
            DaemonCommand::Add(command) => command.run(socket),
            DaemonCommand::Remove(command) => command.run(socket),
            DaemonCommand::Drain(command) => command.run(socket),
            DaemonCommand::Quiesce(command) => command.run(socket),
            DaemonCommand::Resume(command) => command.run(socket),
            DaemonCommand::LogLevel(command) => command.run(socket),
            DaemonCommand::Resize(command) => command.run(socket),
            DaemonCommand::Rate(command) => command.run(socket),
        }
    }
}

/// Which device of a daemon.
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Target {
    /// The device: the name or device name of its namespace, its uuid, or the path of its socket
    device: String,
}

/// Serve a device no more: its namespace is free afterwards
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Remove {
    #[command(flatten)]
    target: Target,

    /// Also while a frontend is connected, whose guest loses the disk
    #[arg(short, long)]
    force: bool,
}

/// Wait until what a device has in hand is done, and make it durable
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Drain {
    #[command(flatten)]
    target: Target,
}

/// Let a device stand still for a copy of its file: its guest waits until 'resume'
///
/// What was written is durable when this returns. What a guest stores to windows is not held up.
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Quiesce {
    #[command(flatten)]
    target: Target,
    /// Seconds after which the daemon resumes a device that is still quiesced
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = QUIESCE_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=MOST_QUIESCE_SECONDS)
    )]
    time_limit: u64,
}

/// Go on with a device that was quiesced
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Resume {
    #[command(flatten)]
    target: Target,
}

/// Set which messages the daemon logs
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct SetLogLevel {
    /// The level
    level: LogLevel,
}

/// Make a disk larger while it is served, and the namespace that it is in
///
/// The guest sees the new size at once where its frontend is told of that, as QEMU is;
/// otherwise when the frontend reads the configuration again.
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Resize {
    #[command(flatten)]
    target: Target,

    /// The namespace's new size in all; otherwise all that is free behind it
    #[arg(short, long)]
    size: Option<Size>,

    /// Write over a BTT in the free bytes, that of a namespace whose label was lost
    #[arg(short, long)]
    force: bool,
}

/// Set the rate limits of a device, or of a group of disks
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Rate {
    /// The device, unless the limits are those of a group
    device: Option<String>,

    /// The limits, as for the daemon's --rate-limit; none: there is no limit any more
    #[arg(short, long, value_name = "KEY=VALUE,...")]
    limit: Option<RateArg>,
}

impl Remove {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        let known = devices(socket, Some(&self.target.device))?;
        let request = Request::Remove { device: self.target.device.clone(), force: self.force };
        done(socket, &request)?;
        for device in known.iter().filter(|device| device.identity.handed_over) {
            remove_name(Path::new(&device.identity.socket));
        }
        say!("{}: removed", self.target.device);
        Ok(())
    }
}

impl Drain {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        done(socket, &Request::Drain { device: self.target.device.clone() })
    }
}

impl Quiesce {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        let (device, time_limit) = (self.target.device.clone(), self.time_limit);
        done(socket, &Request::Quiesce { device, time_limit })
    }
}

impl Resume {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        done(socket, &Request::Resume { device: self.target.device.clone() })
    }
}

impl SetLogLevel {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        let level = format!("{:?}", self.level).to_lowercase();
        done(socket, &Request::LogLevel { level })
    }
}

impl Resize {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        let (device, force) = (self.target.device.clone(), self.force);
        let request = Request::Resize { device, size: self.size.map(|size| size.0), force };
        // The daemon cannot open a file again that it was handed over.
        let known = devices(socket, Some(&self.target.device))?;
        let handed_over = known.iter().map(|one| &one.identity).find(|one| one.handed_over);
        let file = handed_over.map(|one| open_nvdimm(&one.file, true)).transpose()?;
        let descriptors: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        match control::request_with(socket, &request, &descriptors)? {
            Answer::Grown { before, size, told } => {
                let (name, before, size) = (&self.target.device, Size(before), Size(size));
                let heard = if told { "; its frontend was told" } else { "" };
                say!("{name}: the disk has {size} where it had {before}{heard}");
                Ok(())
            }
            other => Err(unknown(socket, &other)),
        }
    }
}

impl Rate {
    fn run(&self, socket: &Path) -> Result<(), Error> {
        let limit = self.limit.as_ref().map(|rate| rate.limit).unwrap_or_default();
        let group = self.limit.as_ref().and_then(|rate| rate.group.clone());
        done(socket, &Request::Rate { device: self.device.clone(), group, limit })
    }
}

/// Removes the name of a socket that was handed over: the daemon may not be able to.
fn remove_name(path: &Path) {
    if let Err(error) = remove_left_socket(path) {
        remark!("nvdimmctl: {}", one_line(&error));
    }
}

/// The reports of a daemon's devices.
pub(super) fn devices(socket: &Path, device: Option<&String>) -> Result<Vec<DeviceReport>, Error> {
    match control::request(socket, &Request::Stat { device: device.cloned() })? {
        Answer::Stat { devices } => Ok(devices),
        other => Err(unknown(socket, &other)),
    }
}

/// Has a request carried out that has no other answer.
fn done(socket: &Path, request: &Request) -> Result<(), Error> {
    match control::request(socket, request)? {
        Answer::Done => Ok(()),
        other => Err(unknown(socket, &other)),
    }
}

/// An answer that does not belong to the request.
pub(super) fn unknown(socket: &Path, answer: &Answer) -> Error {
    let (path, answer) = (socket.into(), format!("{answer:?}"));
    ClientError::Unknown { path, answer }.into()
}
