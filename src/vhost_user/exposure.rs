//! What a frontend can reach with the descriptor of a window.
//!
//! `VHOST_USER_BACKEND_SHMEM_MAP` hands over a descriptor of the file, and Linux cannot limit a
//! descriptor to a part of a file. So the frontend of a device with windows can read the whole NVDIMM
//! file, and, unless the windows are read-only, write and truncate it. If the file also holds a
//! namespace of another guest, this has to be allowed explicitly.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use log::warn;

use super::devices::DeviceConfig;
use super::error::Error;
use super::windows::WindowConfig;
use crate::namespace;
use crate::nvdimm::{ClaimKind, LabelSize, Namespace, NvdimmFile, Selection};

/// A device, and the namespaces that it serves to its guest.
struct Served<'a> {
    config: &'a DeviceConfig,
    namespaces: Vec<Place>,
}

/// A namespace of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Device and inode number of the file.
    file: (u64, u64),
    namespace: Namespace,
}

/// Refuses windows of a file in which another guest has a namespace, unless they are marked with
/// [`expose_file`](WindowConfig::expose_file); warns where another guest has other devices of the file. The
/// namespaces are not claimed yet.
///
/// # Errors
///
/// [`Error::Exposed`]; or a file cannot be read, or has no such namespace.
pub(super) fn refuse_exposure(devices: &[&DeviceConfig]) -> Result<(), Error> {
    if devices.iter().all(|device| device.windows().is_empty()) {
        return Ok(());
    }
    let served: Vec<Served<'_>> =
        devices.iter().map(|device| Served::by(device)).collect::<Result<_, _>>()?;
    for (number, device) in served.iter().enumerate() {
        let others: Vec<&Served<'_>> = served
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .map(|(_, other)| other)
            .collect();
        for window in device.config.windows().iter().filter(|window| !window.expose_file) {
            refuse_window(device, window, &others)?;
        }
    }
    Ok(())
}

/// Refuses one window of `device`, if the file of the window holds a namespace of another guest.
fn refuse_window(
    device: &Served<'_>,
    window: &WindowConfig,
    others: &[&Served<'_>],
) -> Result<(), Error> {
    let (file, region) = open(window)?;
    let other = others.iter().find_map(|other| {
        let mut places = other.namespaces.iter().filter(|place| place.file == region.file);
        let place = places.find(|place| !device.namespaces.contains(place))?;
        Some(format!(
            "{}, which is served at {}",
            describe(&place.namespace),
            other.config.socket()
        ))
    });
    let exposed = match other {
        Some(other) => Some(other),
        None => held_by_others(&file, device)?,
    };
    if let Some(exposed) = exposed {
        let (device, path) = (window.device.clone(), window.region.path.clone());
        return Err(Error::Exposed { device, path, exposed });
    }
    if others.iter().any(|other| other.namespaces.contains(&region)) {
        warn!(
            "{}: window {:?}: its frontend gets a descriptor of the whole file, with the DAX devices of other \
             guests",
            window.region.path.display(),
            window.device,
        );
    }
    Ok(())
}

/// A namespace of `file` that another process serves, or works on.
fn held_by_others(file: &NvdimmFile, device: &Served<'_>) -> Result<Option<String>, Error> {
    for namespace in file.namespaces() {
        if device.namespaces.iter().any(|place| place.namespace == *namespace) {
            continue;
        }
        if let Some(holder) = file.holder(namespace)? {
            return Ok(Some(format!("{}, which is held by {holder}", describe(namespace))));
        }
    }
    Ok(None)
}

fn describe(namespace: &Namespace) -> String {
    match namespace.name.as_str() {
        "" => namespace.device_name(),
        name => format!("{} {name:?}", namespace.device_name()),
    }
}

impl Served<'_> {
    fn by(config: &DeviceConfig) -> Result<Served<'_>, Error> {
        let mut namespaces = Vec::new();
        if let DeviceConfig::Disk(disk) = config {
            let options = &disk.namespace;
            let (path, selection) = (&options.path, &options.selection);
            namespaces.push(
                find(path, options.label_size, |file| namespace::resolve(file, selection))?.1,
            );
        }
        for window in config.windows() {
            namespaces.push(open(window)?.1);
        }
        Ok(Served { config, namespaces })
    }
}

/// The file of a window, and the namespace that its region is in.
fn open(window: &WindowConfig) -> Result<(NvdimmFile, Place), Error> {
    let region = &window.region;
    find(&region.path, region.label_size, |file| {
        crate::namespace::region::resolve(file, &region.namespace)
    })
}

fn find(
    path: &Path,
    label_size: LabelSize,
    selection: impl Fn(&NvdimmFile) -> Selection,
) -> Result<(NvdimmFile, Place), Error> {
    let file = NvdimmFile::open(path, ClaimKind::Shared, label_size)?;
    let metadata = file.file().metadata();
    let metadata =
        metadata.map_err(|source| Error::System { action: "cannot identify the file", source })?;
    let namespace = file.select(&selection(&file))?.clone();
    let place = Place { file: (metadata.dev(), metadata.ino()), namespace };
    Ok((file, place))
}
