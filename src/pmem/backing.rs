//! The backing of a file (DAX, device-DAX or page cache), its size, and the alignment that its mappings
//! need.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::{MapError, PAGE};

/// What a mapping is backed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// A file on a DAX file system, mapped with `MAP_SYNC`.
    FsDax,
    /// A device-DAX character device.
    DeviceDax,
    /// Any other file: the mapping is the page cache.
    PageCache,
}

impl Backing {
    /// The words used in listings and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backing::FsDax => "fs-dax",
            Backing::DeviceDax => "device-dax",
            Backing::PageCache => "page-cache",
        }
    }
}

/// The two kinds of file that can be mapped, with what mapping them needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mappable {
    /// Size in bytes.
    pub size: u64,
    /// What start and length of a mapping have to be multiples of, in bytes.
    pub granule: u64,
    /// A device-DAX character device.
    pub is_device: bool,
}

impl Mappable {
    pub(super) fn of(file: &File) -> Result<Mappable, MapError> {
        let metadata =
            file.metadata().map_err(|source| MapError::System { call: "fstat", source })?;
        if metadata.is_file() {
            Ok(Mappable { size: metadata.len(), granule: PAGE, is_device: false })
        } else if metadata.file_type().is_char_device() {
            let size = device_attribute(&metadata, "size")?;
            let granule = device_attribute(&metadata, "align")?.max(PAGE);
            Ok(Mappable { size, granule, is_device: true })
        } else {
            Err(MapError::NotMappable)
        }
    }
}

/// Size in bytes of a regular file or a device-DAX device (whose own length reads as zero).
pub fn file_size(file: &File) -> Result<u64, MapError> {
    Mappable::of(file).map(|mappable| mappable.size)
}

/// Reads a number that device-DAX shows in sysfs.
fn device_attribute(metadata: &Metadata, name: &str) -> Result<u64, MapError> {
    let device = metadata.rdev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = PathBuf::from(format!("/sys/dev/char/{major}:{minor}/{name}"));
    let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MapError::NotMappable,
        _ => MapError::Sysfs { path: path.clone(), source },
    })?;
    text.trim().parse().map_err(|_| MapError::Sysfs {
        path,
        source: io::Error::new(io::ErrorKind::InvalidData, format!("not a number: {text:?}")),
    })
}
