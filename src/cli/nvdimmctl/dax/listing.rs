//! Devices, regions and owners in listings. The names are those of daxctl, where it has them.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::super::listing::ListedHolder;
use crate::cli::size::Size;
use crate::dax::{Align, DeviceInfo, PAGE_SIZE, Region, RegionInfo};
use crate::nvdimm::{Holder, Namespace, NvdimmFile};
use crate::pmem::Mapping;

/// A device.
#[derive(Debug, Serialize)]
pub(super) struct ListedDevice {
    pub name: String,
    pub uuid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    pub size: u64,
    pub align: u64,
    pub contiguous: bool,
    /// In the order of device offsets.
    pub mappings: Vec<ListedExtent>,
}

/// A part of a device, or of what is free. `page_offset`, `start`, `end` and `size` mean what they mean in
/// daxctl (and in `/sys/bus/dax/devices/*/mapping*`).
#[derive(Debug, Serialize)]
pub(super) struct ListedExtent {
    /// Its first page of 4 KiB in the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_offset: Option<u64>,
    /// Its first byte in the file.
    pub start: u64,
    /// Its last byte in the file.
    pub end: u64,
    pub size: u64,
}

/// A namespace in dax mode, and how much of it is free.
#[derive(Debug, Serialize)]
pub(super) struct ListedRegion {
    #[serde(serialize_with = "super::super::path_to_json")]
    pub file: PathBuf,
    pub dev: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub uuid: String,
    /// Bytes for devices and owners, those of the journal among them.
    pub size: u64,
    /// Default alignment of devices.
    pub align: u64,
    /// Bytes that are free.
    pub free_size: u64,
    /// Bytes that devices of the default alignment can have.
    pub available_size: u64,
    pub max_available_extent: u64,
    /// The part of the available bytes that is not in the largest extent, 0 to 1.
    pub fragmentation: f64,
    pub free: Vec<ListedExtent>,
    pub holder: Option<ListedHolder>,
    /// `None`: they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<ListedDevice>>,
}

impl ListedDevice {
    pub(super) fn describe(device: DeviceInfo, namespace: &Namespace) -> ListedDevice {
        let mut offset = 0;
        let mappings = device.extents.iter().map(|extent| {
            let mapping = ListedExtent::new(Some(offset / PAGE_SIZE), extent, namespace);
            offset += mapping.size;
            mapping
        });
        ListedDevice {
            mappings: mappings.collect(),
            name: device.name,
            uuid: device.uuid.to_string(),
            label: device.label,
            size: device.size,
            align: device.align.bytes(),
            contiguous: device.contiguous,
        }
    }

    /// Returns whether an extent begins at a multiple of the alignment in the region and not in the file, as
    /// in regions that were made before alignment counted from the file's start.
    pub(super) fn is_misaligned(&self) -> bool {
        self.mappings.iter().any(|mapping| !mapping.start.is_multiple_of(self.align))
    }
}

impl ListedExtent {
    fn new(
        page_offset: Option<u64>,
        extent: &std::ops::Range<u64>,
        namespace: &Namespace,
    ) -> ListedExtent {
        let (start, size) = (namespace.range.start + extent.start, extent.end - extent.start);
        ListedExtent { page_offset, start, end: start + size - 1, size }
    }
}

impl ListedRegion {
    pub(super) fn describe(
        file: &NvdimmFile,
        namespace: &Namespace,
        region: &Region<Mapping>,
    ) -> ListedRegion {
        let info = region.info();
        let devices = region.devices().into_iter();
        let free = region.free_extents(Align::Page);
        ListedRegion {
            file: file.path().into(),
            dev: namespace.device_name(),
            name: namespace.name.clone(),
            uuid: info.uuid.to_string(),
            size: info.size,
            align: info.align.bytes(),
            free_size: info.free,
            available_size: info.available,
            max_available_extent: info.largest,
            fragmentation: RegionInfo::fragmentation(&info),
            free: free.iter().map(|extent| ListedExtent::new(None, extent, namespace)).collect(),
            holder: Holder::search(file.file(), &namespace.range).map(ListedHolder::from),
            devices: Some(
                devices.map(|device| ListedDevice::describe(device, namespace)).collect(),
            ),
        }
    }
}

impl fmt::Display for ListedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {}", self.name, Size(self.size), Extents(self.mappings.len()))?;
        write!(f, ", uuid {}", self.uuid)
    }
}

/// A number of extents, in words.
pub(super) struct Extents(pub usize);

impl fmt::Display for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 extent"),
            count => write!(f, "{count} extents"),
        }
    }
}

impl fmt::Display for ListedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { String::new() } else { format!(" {}", self.name) };
        write!(
            f,
            "{}: {}{name}: {} for devices, {} free in steps of {}, largest extent {}, {:.0} % \
             fragmented",
            self.file.display(),
            self.dev,
            Size(self.size),
            Size(self.available_size),
            Size(self.align),
            Size(self.max_available_extent),
            self.fragmentation * 100.0
        )?;
        self.holder.iter().try_for_each(|holder| write!(f, "; held by {holder}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(align: u64, starts: &[u64]) -> ListedDevice {
        let mapping = |&start| ListedExtent { page_offset: None, start, end: start, size: 1 };
        ListedDevice {
            name: "device".into(),
            uuid: String::new(),
            label: String::new(),
            size: align,
            align,
            contiguous: true,
            mappings: starts.iter().map(mapping).collect(),
        }
    }

    #[test]
    fn a_device_is_misaligned_if_any_of_its_extents_is_in_the_file() {
        let huge = 2 << 20;
        assert!(!device(huge, &[huge, 5 * huge]).is_misaligned());
        assert!(device(huge, &[huge, 5 * huge + PAGE_SIZE]).is_misaligned());
        assert!(!device(PAGE_SIZE, &[huge + PAGE_SIZE]).is_misaligned());
    }
}
