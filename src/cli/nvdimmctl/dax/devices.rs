//! `dax create-device`, `resize-device`, `destroy-device` and `rename-device`.

use std::path::Path;

use clap::Args;
use uuid::Uuid;

use super::super::{Error, io_error, say_json};
use super::listing::ListedDevice;
use super::{Open, RegionArgs, device_alignment};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::dax::{self, Align, DeviceInfo, DeviceOptions};
use crate::namespace::NamespaceError;
use crate::nvdimm::{self, ClaimKind, Namespace};
use crate::vhost_user::control::{self, Request};

/// Make a device, whose bytes are zero
///
/// The device takes the lowest free extents of the namespace.
#[derive(Debug, Args)]
pub(super) struct CreateDevice {
    #[command(flatten)]
    region: RegionArgs,

    /// Its name: up to 32 bytes without '/'
    device: String,

    /// Its size, a multiple of its alignment; 0 for a device that grows later [default: all free space]
    #[arg(short, long)]
    size: Option<Size>,

    /// Alignment of its size and extents: 4K, 2M or 1G [default: that of the namespace]
    #[arg(short, long, value_name = "SIZE", value_parser = device_alignment)]
    align: Option<Align>,

    /// Make it of one extent, now and whenever it grows, so that QEMU can map it as one piece
    #[arg(short, long)]
    contiguous: bool,

    /// The uuid by which an application finds it again [default: random]
    #[arg(short, long, visible_alias = "uuid")]
    owner: Option<Uuid>,

    /// A description, up to 32 bytes
    #[arg(short, long, default_value = "", hide_default_value = true)]
    label: String,

    /// Print JSON: an object, as 'dax list' has it
    #[arg(short, long)]
    json: bool,
}

/// Make a device larger or smaller at its end
///
/// New bytes are zero. They directly follow the last extent of the device if that space is free, else they
/// come from the lowest free extents. If there is too little space, nothing changes.
#[derive(Debug, Args)]
pub(super) struct ResizeDevice {
    #[command(flatten)]
    region: RegionArgs,

    /// The device
    device: String,

    /// Its new total size, a multiple of its alignment
    #[arg(short, long)]
    size: Size,

    /// Discard data in the part that is cut off; with --control, also resize where the guest's driver is not
    /// prepared for it
    #[arg(short, long)]
    force: bool,

    /// Print JSON: an object, as 'dax list' has it
    #[arg(short, long)]
    json: bool,
}

/// Destroy devices, and free their bytes, which the next owner finds zero
#[derive(Debug, Args)]
pub(super) struct DestroyDevice {
    #[command(flatten)]
    region: RegionArgs,

    /// The devices, which are destroyed one after another
    #[arg(required = true)]
    devices: Vec<String>,

    /// Destroy them although they contain data, which are lost
    #[arg(short, long)]
    force: bool,
}

/// Rename a device; its contents and its uuid do not change
#[derive(Debug, Args)]
pub(super) struct RenameDevice {
    #[command(flatten)]
    region: RegionArgs,

    /// The device
    device: String,

    /// Its new name: up to 32 bytes without '/'
    name: String,
}

/// Change the alignment of a device
///
/// A device of size 0 can get any alignment; another device, one that all of its extents have already.
#[derive(Debug, Args)]
pub(super) struct AlignDevice {
    #[command(flatten)]
    region: RegionArgs,

    /// The device
    device: String,

    /// Its new alignment: 4K, 2M or 1G
    #[arg(short, long, value_name = "SIZE", value_parser = device_alignment)]
    align: Align,

    /// Print JSON: an object, as 'dax list' has it
    #[arg(short, long)]
    json: bool,
}

impl CreateDevice {
    pub(super) fn run(&self) -> Result<(), Error> {
        let open = self.region.open(ClaimKind::Exclusive)?;
        let align = self.align.unwrap_or(open.region.info().align);
        let options = DeviceOptions {
            name: self.device.clone(),
            uuid: self.owner.unwrap_or_else(Uuid::new_v4),
            label: self.label.clone(),
            size: self.size.map_or_else(|| self.all_that_is_free(&open, align), |size| size.0),
            align: Some(align),
            contiguous: self.contiguous,
        };
        let progress = Progress::new("zeroing", None);
        open.region.create_device(&options).map_err(|error| open.error(error))?;
        drop(progress);
        report(&open, &self.device, "created", self.json)
    }

    fn all_that_is_free(&self, open: &Open, align: Align) -> u64 {
        let extents = open.region.free_extents(align);
        let sizes = extents.iter().map(|extent| extent.end - extent.start);
        if self.contiguous { sizes.max().unwrap_or(0) } else { sizes.sum() }
    }
}

impl ResizeDevice {
    pub(super) fn run(&self, control: Option<&Path>) -> Result<(), Error> {
        if let Some(socket) = control {
            return self.ask(socket);
        }
        let open = self.region.open(ClaimKind::Exclusive).map_err(hint_at_control)?;
        if !self.force && open.is_written_from(&self.device, self.size.0)? {
            return Err(holds_data(&open, &self.device, "in the part that is cut off"));
        }
        let progress = Progress::new("zeroing", None);
        let resized = open.region.resize_device(&self.device, self.size.0);
        resized.map_err(|error| open.error(error))?;
        drop(progress);
        report(&open, &self.device, "resized", self.json)
    }

    /// Has the daemon do it that holds the namespace, and has guests who have the device.
    fn ask(&self, socket: &Path) -> Result<(), Error> {
        let file = self.region.file.canonicalize().map_err(io_error("find the file's path"))?;
        let request = Request::ResizeDevice {
            file: Some(file),
            namespace: self.region.namespace.clone(),
            device: self.device.clone(),
            size: self.size.0,
            force: self.force,
        };
        control::request(socket, &request)?;
        let (namespace, region) = self.region.options().look_at_region()?;
        let path = &self.region.file;
        let device = region.device(&self.device);
        let device = device.map_err(|error| NamespaceError::region(path, &namespace, error))?;
        say_what_became(path, &namespace, device, "resized", self.json)
    }
}

impl DestroyDevice {
    pub(super) fn run(&self) -> Result<(), Error> {
        let open = self.region.open(ClaimKind::Exclusive)?;
        for device in &self.devices {
            if open.is_written_from(device, 0)? && !self.force {
                return Err(holds_data(&open, device, ""));
            }
        }
        for device in &self.devices {
            let DeviceInfo { size, .. } =
                open.region.device(device).map_err(|error| open.error(error))?;
            let destroyed = open.region.destroy_device(device);
            destroyed.map_err(|error| open.error(error))?;
            say!("{}: destroyed {device}: {} are free", self.region.file.display(), Size(size));
        }
        Ok(())
    }
}

impl RenameDevice {
    pub(super) fn run(&self) -> Result<(), Error> {
        let open = self.region.open(ClaimKind::Exclusive)?;
        let renamed = open.region.rename_device(&self.device, &self.name);
        renamed.map_err(|error| open.error(error))?;
        say!("{}: {} is named {} now", self.region.file.display(), self.device, self.name);
        Ok(())
    }
}

/// Adds to the error of a namespace that is held how its holder can be asked.
fn hint_at_control(error: Error) -> Error {
    match error {
        Error::Namespace(busy @ NamespaceError::Nvdimm(nvdimm::Error::Busy { .. })) => {
            Error::AskTheDaemon { busy }
        }
        error => error,
    }
}

impl AlignDevice {
    pub(super) fn run(&self) -> Result<(), Error> {
        let open = self.region.open(ClaimKind::Exclusive)?;
        let aligned = open.region.align_device(&self.device, self.align);
        aligned.map_err(|error| open.error(error))?;
        report(&open, &self.device, "aligned", self.json)
    }
}

fn holds_data(open: &Open, device: &str, place: &'static str) -> Error {
    Error::DeviceHoldsData { path: open.claim.path().into(), device: device.to_owned(), place }
}

/// Says what became of a device.
fn report(open: &Open, name: &str, what: &str, json: bool) -> Result<(), Error> {
    let device = open.region.device(name).map_err(|error: dax::Error| open.error(error))?;
    say_what_became(open.claim.path(), open.claim.namespace(), device, what, json)
}

fn say_what_became(
    path: &Path,
    namespace: &Namespace,
    device: DeviceInfo,
    what: &str,
    json: bool,
) -> Result<(), Error> {
    let listed = ListedDevice::describe(device, namespace);
    if json {
        say_json(&listed)?;
    } else {
        say!("{}: {what} {listed}", path.display());
    }
    Ok(())
}
