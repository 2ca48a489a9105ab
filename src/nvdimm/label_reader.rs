//! Reading the labels of a file while another process may be changing them.
//!
//! A change rewrites one of the two index blocks, which is unusable until the change is complete. A
//! reader takes no lock, so it may meet such a block. A block that looks damaged is therefore reported
//! as damaged only if no process has the labels locked and a second read returns the same bytes.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::error::Error;
use super::file::LabelSize;
use super::label::{self, LabelArea, LabelFault};
use super::lock::{self, duplicate};
use crate::pmem::{DurabilityRequest, Mapping, PAGE, Protection};

/// How long a reader waits for a change of the labels to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reader waits between two looks at labels that seem damaged.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns the label storage area of a file, if it has one.
///
/// # Errors
///
/// The file cannot be read, has no labels where they were said to be, or neither index block is valid.
pub(super) fn read_labels(
    path: &Path,
    file: &File,
    file_size: u64,
    label_size: LabelSize,
) -> Result<Option<LabelArea>, Error> {
    let read = || read_once(path, file, file_size, label_size);
    let is_locked = |size: u64| {
        let labels = file_size - size.min(file_size)..file_size;
        lock::is_locked(file, &labels).unwrap_or(false)
    };
    read_settled(read, is_locked, || thread::sleep(PAUSE))
}

/// Calls `read` until it returns labels that are whole, or twice the same damaged ones while no other
/// process has the labels locked. Gives up after [`PATIENCE`], and returns what was read last.
fn read_settled(
    read: impl Fn() -> Result<Option<LabelArea>, Error>,
    is_locked: impl Fn(u64) -> bool,
    pause: impl Fn(),
) -> Result<Option<LabelArea>, Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut unlocked_look = None;
    loop {
        let labels = read();
        let Some(look) = Look::at_damage(&labels) else { return labels };
        let is_locked = is_locked(look.size());
        if !is_locked && unlocked_look.as_ref() == Some(&look) || Instant::now() >= deadline {
            return labels;
        }
        unlocked_look = (!is_locked).then_some(look);
        pause();
    }
}

/// What a reader saw of labels that seem damaged.
#[derive(Debug, PartialEq)]
enum Look {
    /// An index block, or a label, is damaged.
    Partly(Box<LabelArea>),
    /// Both index blocks are damaged.
    Wholly([LabelFault; 2]),
}

impl Look {
    /// Returns what was seen; `None` where nothing seems damaged, or nothing can be read.
    fn at_damage(labels: &Result<Option<LabelArea>, Error>) -> Option<Look> {
        match labels {
            Ok(Some(area)) if !area.is_whole() => Some(Look::Partly(Box::new(area.clone()))),
            Err(Error::Labels { first, second, .. }) => Some(Look::Wholly([*first, *second])),
            _ => None,
        }
    }

    /// Returns the size of the label storage area in bytes, or the smallest that there is.
    fn size(&self) -> u64 {
        match self {
            Look::Partly(area) => area.size,
            Look::Wholly(_) => label::LEAST_AREA_SIZE,
        }
    }
}

/// Reads the labels as they are at this moment.
fn read_once(
    path: &Path,
    file: &File,
    file_size: u64,
    label_size: LabelSize,
) -> Result<Option<LabelArea>, Error> {
    let fails = |source| Error::LabelMedia { path: path.into(), source };
    // Where the file does not end on a page, no label area does.
    let longest = match label_size {
        LabelSize::Bytes(size) => size,
        LabelSize::Detect if file_size.is_multiple_of(PAGE) => label::MOST_AREA_SIZE.min(file_size),
        LabelSize::Detect | LabelSize::None => return Ok(None),
    };
    let missing = || Error::NoLabels { path: path.into(), size: longest };
    let start = file_size.checked_sub(longest).filter(|start| *start < file_size);
    let start = start.filter(|start| start.is_multiple_of(PAGE)).ok_or_else(missing)?;
    let medium = map_end(path, file, start..file_size)?;
    let size = match label_size {
        LabelSize::Bytes(size) => Some(size),
        _ => label::find(&medium).map_err(fails)?,
    };
    let Some(size) = size else { return Ok(None) };
    match LabelArea::read(&medium, size).map_err(fails)? {
        Ok(area) => Ok(Some(area)),
        Err([LabelFault::Signature, LabelFault::Signature]) => Err(missing()),
        Err([first, second]) => Err(Error::Labels { path: path.into(), first, second }),
    }
}

/// Maps the end of a file: device-DAX knows no other way to read it.
fn map_end(path: &Path, file: &File, range: Range<u64>) -> Result<Mapping, Error> {
    let file = duplicate(path, file)?;
    Mapping::new(file, range, Protection::ReadOnly, DurabilityRequest::PageCache)
        .map_err(|source| Error::Map { path: path.into(), source })
}
