//! A recording and its base image, as commands get them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::exit;
use crate::cli::complain;
use crate::powercut::explore::ExploreError;
use crate::powercut::log::{Log, LogError};
use crate::powercut::states::{CheckError, ImageError, NoSuchMark, base_hash};
use crate::vhost_user;

/// How the first mark of a recording begins.
pub(super) const BASE_MARK: &str = "powercut base=";

/// The first mark of a recording whose base has this hash and size.
pub(super) fn base_mark(hash: &str, size: u64) -> String {
    format!("{BASE_MARK}{hash} size={size}")
}

/// Why states cannot be checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordingError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Mark(#[from] NoSuchMark),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Explore(#[from] ExploreError),
    #[error(transparent)]
    Device(#[from] vhost_user::Error),
    #[error("a disk has sectors of 512 or 4096 bytes, and those of the log have {0}")]
    SectorSize(u32),
    #[error("{base} is not the image that was recorded: its hash is {found}, and not {expected}")]
    OtherBase { base: PathBuf, found: String, expected: String },
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
}

impl RecordingError {
    /// The exit status that says it.
    pub(super) fn status(&self) -> u8 {
        match self {
            RecordingError::Check(CheckError::CannotRun { .. } | CheckError::NotFound { .. })
            | RecordingError::Explore(
                ExploreError::CannotRun { .. } | ExploreError::NeverAsked { .. },
            ) => exit::NO_COMMAND,
            _ => exit::BAD_INPUT,
        }
    }
}

/// Opens the log at `path`, of a disk that was `base` before.
pub(super) fn open(path: &Path, base: &Path) -> Result<Log, RecordingError> {
    let log = Log::open(path)?;
    if log.missing() > 0 {
        complain(format_args!(
            "powercut: {} is cut off: it lacks {} of its entries, and the first {} are used",
            path.display(),
            log.missing(),
            log.entries().len()
        ));
    }
    check_base(&log, base)?;
    Ok(log)
}

/// Refuses a base that is not the one that was recorded.
fn check_base(log: &Log, base: &Path) -> Result<(), RecordingError> {
    let mut marks = log.entries().iter().filter_map(|entry| entry.mark.as_ref());
    let first = marks.next().and_then(|mark| mark.strip_prefix(BASE_MARK));
    let Some(expected) = first.and_then(|mark| mark.split(' ').next()) else { return Ok(()) };
    let fails = |source| RecordingError::File { action: "read", path: base.into(), source };
    let found = base_hash(&mut File::open(base).map_err(fails)?).map_err(fails)?;
    if found == expected {
        return Ok(());
    }
    Err(RecordingError::OtherBase { base: base.into(), found, expected: expected.into() })
}

/// A folder of our own, which goes when this is dropped.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Folder, RecordingError> {
        let name = format!("powercut-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let fails = |source| RecordingError::File { action: "make", path: path.clone(), source };
        fs::create_dir(&path).map_err(fails)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let remove = |path: &Path| fs::remove_dir_all(path);
        if let Err(error) = remove(&self.0) {
            complain(format_args!("powercut: cannot remove {}: {error}", self.0.display()));
        }
    }
}
