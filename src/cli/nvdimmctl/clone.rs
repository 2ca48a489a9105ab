//! `clone`: a copy of a namespace, in a file of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use uuid::Uuid;

use super::administer::devices;
use super::create_file::permissions;
use super::{Error, io_error, path_to_json, say_json};
use crate::cli::name::NamespaceArgs;
use crate::cli::output::remark;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::namespace::{CopyError, NamespaceOptions, Original, Reflink};
use crate::nvdimm::{Namespace, NewFile};
use crate::pmem::DurabilityRequest;
use crate::vhost_user::control::{self, MOST_QUIESCE_SECONDS, QUIESCE_SECONDS, Request};

/// Copy a namespace to a new NVDIMM file, with a uuid and a serial number of its own
///
/// With --control, the daemon that serves the namespace lets its guest wait meanwhile, and the copy is of that
/// moment: as after a power failure. The copy is the only namespace of the new file.
#[derive(Debug, Args)]
pub(super) struct CloneNamespace {
    /// The NVDIMM file
    file: PathBuf,

    /// The file to make; it must not exist yet, and appears when it is complete
    copy: PathBuf,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Whether both files share what neither has written to since, as Btrfs and XFS can: then the copy is made in
    /// a moment
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    reflink: ReflinkArg,

    /// With --control: seconds after which the daemon lets the guest go on in any case; there is no copy then
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = QUIESCE_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=MOST_QUIESCE_SECONDS)
    )]
    time_limit: u64,

    /// Permissions of the copy, in octal [default: 600]
    #[arg(long, value_name = "OCTAL", value_parser = permissions)]
    mode: Option<u32>,

    /// Describe the copy as JSON
    #[arg(long)]
    json: bool,
}

/// The value of `--reflink`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReflinkArg {
    /// If the file system can; otherwise everything is copied
    Auto,
    /// Fail if the file system cannot
    Always,
    /// Copy everything
    Never,
}

impl From<ReflinkArg> for Reflink {
    fn from(reflink: ReflinkArg) -> Reflink {
        match reflink {
            ReflinkArg::Auto => Reflink::Auto,
            ReflinkArg::Always => Reflink::Always,
            ReflinkArg::Never => Reflink::Never,
        }
    }
}

/// A copy, as JSON.
#[derive(Serialize)]
struct Copied<'a> {
    #[serde(serialize_with = "path_to_json")]
    file: &'a Path,
    namespace: String,
    name: &'a str,
    uuid: String,
    size: u64,
    reflink: bool,
}

impl CloneNamespace {
    pub(super) fn run(&self, control: Option<&Path>) -> Result<(), Error> {
        let interrupted = catch_interrupts().map_err(io_error("catch signals"))?;
        let new = NewFile::create(&self.copy, self.mode);
        let new = new.map_err(|source| Error::NewFile { path: self.copy.clone(), source })?;
        let options = self.namespace.options(&self.file, DurabilityRequest::PageCache);
        let (original, is_shared) = match control {
            None => {
                let original = Original::claim(&options)?;
                let is_shared = self.copy_bytes(&original, &new, &interrupted)?;
                (original, is_shared)
            }
            Some(socket) => self.copy_served(socket, &options, &new, &interrupted)?,
        };
        let uuid = Uuid::new_v4();
        let file = new.file().try_clone().map_err(io_error("duplicate a descriptor"))?;
        let namespace = original.become_own(&self.copy, &Arc::new(file), uuid)?;
        if interrupted.load(Ordering::Acquire) {
            return Err(CopyError::Interrupted.into());
        }
        new.publish().map_err(|source| Error::NewFile { path: self.copy.clone(), source })?;
        self.report(&namespace, uuid, is_shared)
    }

    /// Copies a namespace while its daemon lets it stand still.
    fn copy_served(
        &self,
        socket: &Path,
        options: &NamespaceOptions,
        new: &NewFile,
        interrupted: &AtomicBool,
    ) -> Result<(Original, bool), Error> {
        let wanted = Original::look(options)?.namespace().device_name();
        let pause = Pause::begin(socket, self.device(socket, &wanted)?, self.time_limit)?;
        // The namespace may have grown until it stood still.
        let original = Original::look(options)?;
        let is_shared = self.copy_bytes(&original, new, interrupted)?;
        pause.end()?;
        Ok((original, is_shared))
    }

    /// The device that serves the namespace, by its socket.
    fn device(&self, socket: &Path, namespace: &str) -> Result<String, Error> {
        let same_file = |path: &Path| match (path.canonicalize(), self.file.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        };
        let all = devices(socket, None)?;
        let mut found = all.iter().map(|device| &device.identity).filter(|device| {
            device.namespace == namespace && device.kind == "disk" && same_file(&device.file)
        });
        let not_served =
            || Error::NotServed { path: self.file.clone(), namespace: namespace.to_owned() };
        Ok(found.next().ok_or_else(not_served)?.socket.clone())
    }

    fn copy_bytes(
        &self,
        original: &Original,
        new: &NewFile,
        interrupted: &AtomicBool,
    ) -> Result<bool, Error> {
        let progress = Progress::new("copying", Some(original.namespace().size()));
        let goes_on = |done, total| {
            progress.set(done, total);
            !interrupted.load(Ordering::Acquire)
        };
        Ok(original.copy(&self.copy, new.file(), self.reflink.into(), goes_on)?)
    }

    fn report(&self, namespace: &Namespace, uuid: Uuid, is_shared: bool) -> Result<(), Error> {
        let (device, size) = (namespace.device_name(), namespace.size());
        if self.json {
            return say_json(&Copied {
                file: &self.copy,
                namespace: device,
                name: &namespace.name,
                uuid: uuid.to_string(),
                size,
                reflink: is_shared,
            });
        }
        let how = if is_shared { ", which shares what it can with the original" } else { "" };
        let path = self.copy.display();
        remark!("{path}: {device} is a copy of {}, with the uuid {uuid}{how}", Size(size));
        Ok(())
    }
}

/// Lets SIGINT and SIGTERM set a flag; the second of them ends the process.
fn catch_interrupts() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}

/// A device that stands still, until dropped.
struct Pause<'a> {
    socket: &'a Path,
    device: Option<String>,
}

impl<'a> Pause<'a> {
    fn begin(socket: &'a Path, device: String, time_limit: u64) -> Result<Pause<'a>, Error> {
        control::request(socket, &Request::Quiesce { device: device.clone(), time_limit })?;
        Ok(Pause { socket, device: Some(device) })
    }

    /// Lets it go on: it has stood still up to here.
    fn end(mut self) -> Result<(), Error> {
        let Some(device) = self.device.take() else { return Ok(()) };
        let resumed = control::request(self.socket, &Request::Resume { device });
        resumed.map(drop).map_err(|source| Error::WentOn { source })
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if let Some(device) = self.device.take()
            && let Err(error) = control::request(self.socket, &Request::Resume { device })
        {
            remark!("nvdimmctl: {error}");
        }
    }
}
