//! Which files devices still need once they are open.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::devices::DeviceConfig;
use super::socket::SocketSource;
use crate::sandbox::{Grant, GrantKind};

/// The files that `devices`, and a control socket at `control`, are to keep: the NVDIMMs, which are opened
/// again when a namespace has grown, and the folders of sockets, whose names are removed at the end.
#[must_use]
pub fn grants(devices: &[DeviceConfig], control: Option<&Path>) -> Vec<Grant> {
    let mut grants = Vec::new();
    for device in devices {
        if let SocketSource::Path(socket) = device.socket() {
            grants.push(folder_of(&socket.path));
        }
        if let DeviceConfig::Disk(disk) = device {
            grants.extend(nvdimm(&disk.namespace.path, disk.read_only));
        }
        for window in device.windows() {
            grants.extend(nvdimm(&window.region.path, window.read_only));
        }
    }
    grants.extend(control.map(folder_of));
    grants
}

fn folder_of(socket: &Path) -> Grant {
    let folder = match socket.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Grant { path: folder.into(), kind: GrantKind::Sockets }
}

fn nvdimm(path: &Path, read_only: bool) -> Vec<Grant> {
    let kind = if read_only { GrantKind::Read } else { GrantKind::ReadWrite };
    let mut grants = vec![Grant { path: path.into(), kind }];
    // The size and the alignment of a device-DAX device are in sysfs.
    if path.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device()) {
        grants.push(Grant { path: "/sys".into(), kind: GrantKind::Read });
    }
    grants
}
