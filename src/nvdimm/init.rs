//! Creating NVDIMM files, and label storage areas in them.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::Error;
use super::holder::Holder;
use super::label::{
    self, LEAST_AREA_SIZE, LabelArea, LabelFault, LabelVersion, LabelWriter, MOST_AREA_SIZE,
    UpdateError,
};
use super::lock::{self, ClaimKind, duplicate};
use super::new_file::NewFile;
use super::space::LINUX_ALIGNMENT;
use crate::pmem::{self, DurabilityRequest, Mapping, PAGE, PersistentMemory, Protection};

/// What label storage area to make.
#[derive(Debug, Clone, Copy)]
pub struct InitOptions {
    /// Its size in bytes; `None`: that of the one that is there, or 128 KiB.
    pub size: Option<u64>,
    /// Version of its labels.
    pub version: LabelVersion,
    /// Give up namespaces, or whatever else is there.
    pub force: bool,
}

/// What label storage area was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialized {
    /// Its size in bytes.
    pub size: u64,
    /// Number of its label slots.
    pub slots: u32,
    /// Number of labels that were given up.
    pub given_up: usize,
}

/// Makes a sparse file with room for `size` bytes of namespaces, and a label storage area of
/// `label_size` bytes after them, if requested, with labels of version 1.2. Its permissions are `mode`;
/// `None`: its owner alone has any.
///
/// # Errors
///
/// The file exists, a size is out of range, or the operating system refuses.
pub fn create_file(
    path: &Path,
    size: u64,
    label_size: Option<u64>,
    mode: Option<u32>,
) -> Result<(), Error> {
    let fails = |action| move |source: io::Error| Error::File { action, path: path.into(), source };
    if let Some(label_size) = label_size {
        check_size(path, label_size)?;
    }
    let new = NewFile::create(path, mode).map_err(fails("create"))?;
    match label_size {
        None => new.file().set_len(size).map_err(fails("set the size of"))?,
        Some(label_size) => {
            label_new_file(path, new.file(), size, label_size, LabelVersion::V1_2)?;
        }
    }
    new.publish().map_err(fails("create"))
}

/// Makes a label storage area of `label_size` bytes after the first `size` bytes of a file that no process knows
/// yet, and that is going to be `path`.
///
/// # Errors
///
/// The operating system refuses.
pub fn label_new_file(
    path: &Path,
    file: &File,
    size: u64,
    label_size: u64,
    version: LabelVersion,
) -> Result<(), Error> {
    let total = size.saturating_add(label_size);
    file.set_len(total).map_err(|source| Error::File {
        action: "set the size of",
        path: path.into(),
        source,
    })?;
    let medium = map(path, file, size..total)?;
    LabelWriter::initialize(&medium, label_size, version)
        .map(drop)
        .map_err(|source| Error::Update { path: path.into(), source })
}

/// Makes a file without labels larger, to `size` bytes.
///
/// # Errors
///
/// It is larger already, or the operating system refuses.
pub fn grow_file(path: &Path, size: u64) -> Result<(), Error> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| Error::File { action: "open", path: path.into(), source })?;
    grow_open_file(path, &file, size)
}

/// As [`grow_file`], of a file that is open for writing, and that is called `path`.
///
/// # Errors
///
/// As there.
pub fn grow_open_file(path: &Path, file: &File, size: u64) -> Result<(), Error> {
    let fails = |action| move |source: io::Error| Error::File { action, path: path.into(), source };
    let current = file.metadata().map_err(fails("examine"))?.len();
    if size < current {
        let namespace = "the whole file".into();
        let most = i64::MAX.cast_unsigned();
        return Err(Error::CannotGrow { path: path.into(), namespace, size, current, most });
    }
    file.set_len(size).and_then(|()| file.sync_all()).map_err(fails("set the size of"))
}

/// Makes a label storage area at the end of a file that exists. All its namespaces are gone then.
///
/// # Errors
///
/// A process holds a namespace; there are labels, or other bytes than zeroes, in that place, and
/// `force` does not give them up; or the size is out of range.
pub fn init_labels(path: &Path, options: &InitOptions) -> Result<Initialized, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| Error::File { action: "open", path: path.into(), source })?;
    let file_size =
        pmem::file_size(&file).map_err(|source| Error::Map { path: path.into(), source })?;
    let size = options.size.unwrap_or(LEAST_AREA_SIZE);
    check_size(path, size)?;
    if file_size < size + LINUX_ALIGNMENT || !file_size.is_multiple_of(PAGE) {
        let reason = "leaves no 16M for namespaces, or the file does not end on a page";
        return Err(Error::LabelAreaSize { path: path.into(), size, reason });
    }
    lock_all(path, &file, file_size)?;

    let medium = map(path, &file, file_size - MOST_AREA_SIZE.min(file_size)..file_size)?;
    let present = Present::find(&medium, options.size);
    let old_size = present.size();
    let size = options.size.or(old_size).unwrap_or(LEAST_AREA_SIZE);
    if !options.force {
        present.check_dispensable(path, &medium, size)?;
    }
    let writer = match &present {
        Present::Labels(area) if area.size == size && area.index.version == options.version => {
            clear(&medium, size)
        }
        _ => make(&medium, size, old_size, options.version),
    };
    let writer = writer.map_err(|source| Error::Update { path: path.into(), source })?;
    let slots = writer.area().index.nslot;
    Ok(Initialized { size, slots, given_up: present.count() })
}

/// Takes all labels of an area away: one step, so that a crash leaves all of them or none.
fn clear(medium: &Mapping, size: u64) -> Result<LabelWriter<'_, Mapping>, UpdateError> {
    let mut writer = LabelWriter::open(medium, size)?;
    writer.clear()?;
    Ok(writer)
}

/// Makes an area, in the place of one of `old_size` bytes if there is one.
fn make(
    medium: &Mapping,
    size: u64,
    old_size: Option<u64>,
    version: LabelVersion,
) -> Result<LabelWriter<'_, Mapping>, UpdateError> {
    if let Some(old_size) = old_size {
        label::erase(medium, old_size)?;
    }
    LabelWriter::initialize(medium, size, version)
}

/// What there is where labels are to be made.
enum Present {
    Labels(LabelArea),
    /// Index blocks, none of which can be used, or a place that cannot be read.
    Damaged {
        /// Bytes of the area.
        size: u64,
    },
    Nothing,
}

impl Present {
    /// What there is at the end of `medium`, in `size` bytes or as many as the labels there have.
    fn find(medium: &Mapping, size: Option<u64>) -> Present {
        let Ok(found) = label::find(medium) else {
            return Present::Damaged { size: size.unwrap_or(LEAST_AREA_SIZE) };
        };
        for size in size.into_iter().chain(found) {
            match LabelArea::read(medium, size) {
                Ok(Ok(area)) => return Present::Labels(area),
                Ok(Err([LabelFault::Signature, LabelFault::Signature])) => {}
                Ok(Err(_)) | Err(_) => return Present::Damaged { size },
            }
        }
        Present::Nothing
    }

    fn size(&self) -> Option<u64> {
        match self {
            Present::Labels(area) => Some(area.size),
            Present::Damaged { size } => Some(*size),
            Present::Nothing => None,
        }
    }

    /// Number of labels.
    fn count(&self) -> usize {
        match self {
            Present::Labels(area) => area.index.used_slots().count(),
            Present::Damaged { .. } | Present::Nothing => 0,
        }
    }

    /// Refuses to give up labels, or what else the last `size` bytes of `medium` hold.
    fn check_dispensable(&self, path: &Path, medium: &Mapping, size: u64) -> Result<(), Error> {
        let path = path.to_path_buf();
        match self {
            Present::Labels(area) => {
                Err(Error::LabelsExist { path, size: area.size, namespaces: self.count() })
            }
            Present::Damaged { .. } => Err(Error::Occupied { path, size }),
            Present::Nothing => {
                let mut bytes = vec![0; size as usize];
                let read = medium.read_bytes(medium.size() - size, &mut bytes);
                read.map_err(|source| Error::LabelMedia { path: path.clone(), source })?;
                if bytes.iter().all(|byte| *byte == 0) {
                    Ok(())
                } else {
                    Err(Error::Occupied { path, size })
                }
            }
        }
    }
}

/// Refuses sizes of label storage areas that are not made.
fn check_size(path: &Path, size: u64) -> Result<(), Error> {
    let fails = |reason| Err(Error::LabelAreaSize { path: path.into(), size, reason });
    if !(LEAST_AREA_SIZE..=MOST_AREA_SIZE).contains(&size) {
        fails("is less than QEMU takes (128K), or more than 16M")
    } else if !size.is_multiple_of(PAGE) {
        fails("is not a multiple of 4K")
    } else {
        Ok(())
    }
}

/// Locks all of a file, against every namespace in it, for as long as it is open.
fn lock_all(path: &Path, file: &File, size: u64) -> Result<(), Error> {
    let all = 0..size;
    match lock::lock_patiently(file, &all, ClaimKind::Exclusive) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let holder = Holder::find(file, &all);
            Err(Error::Busy { path: path.into(), namespace: "a namespace".into(), holder })
        }
        Err(source) => Err(Error::File { action: "lock", path: path.into(), source }),
    }
}

/// Maps the end of a file, for writing step by step.
fn map(path: &Path, file: &File, range: Range<u64>) -> Result<Mapping, Error> {
    let file = duplicate(path, file)?;
    Mapping::new(file, range, Protection::ReadWrite, DurabilityRequest::Strict)
        .map_err(|source| Error::Map { path: path.into(), source })
}
