//! An NVDIMM file and the namespaces in it.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::claim::Claim;
use super::error::Error;
use super::holder::Holder;
use super::label::LabelArea;
use super::label_reader::read_labels;
use super::lock::{self, ClaimKind, duplicate};
use super::lost::{self, LostLabel, Sorted};
use super::namespace::{Namespace, Selection};
use super::space;
use super::stray::StrayLabels;
use crate::pmem::{self, DurabilityRequest, Mapping, PAGE, Protection};

/// Of how many label slots that are passed over each is said what is wrong with it.
const MOST_WARNINGS: usize = 4;

/// How often a namespace is looked for again when the labels change before it is claimed.
const MOST_ATTEMPTS: usize = 4;

/// Where the label storage area of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LabelSize {
    /// Wherever it is found; a file may have none.
    #[default]
    Detect,
    /// The file has none, whatever its last bytes look like.
    None,
    /// The last so many bytes.
    Bytes(u64),
}

/// An open NVDIMM file.
#[derive(Debug)]
pub struct NvdimmFile {
    path: PathBuf,
    file: File,
    size: u64,
    kind: ClaimKind,
    /// Where the labels were said to be.
    label_size: LabelSize,
    labels: Option<LabelArea>,
    namespaces: Vec<Namespace>,
    lost: Vec<LostLabel>,
}

impl NvdimmFile {
    /// Opens `path`, a regular file or a device-DAX device, for what `kind` needs.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read, is smaller than a page, or has a label storage area that
    /// is damaged beyond use.
    pub fn open(path: &Path, kind: ClaimKind, label_size: LabelSize) -> Result<NvdimmFile, Error> {
        let opened = NvdimmFile::open_quietly(path, kind, label_size)?;
        opened.warn_of_faults();
        Ok(opened)
    }

    /// As [`open`](Self::open), without a warning of what is passed over in the labels: for who says so.
    pub fn open_quietly(
        path: &Path,
        kind: ClaimKind,
        label_size: LabelSize,
    ) -> Result<NvdimmFile, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(kind == ClaimKind::Exclusive)
            // A FIFO is opened without waiting for its other end, and refused below for what it is.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| Error::File { action: "open", path: path.into(), source })?;
        NvdimmFile::from_open(path, file, kind, label_size)
    }

    /// As [`open`](Self::open), of a file that is open already for what `kind` needs, and that is called `path`.
    /// Locks on it, such as claims, are those of all that use `file`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn of(
        path: &Path,
        file: &File,
        kind: ClaimKind,
        label_size: LabelSize,
    ) -> Result<NvdimmFile, Error> {
        let opened = NvdimmFile::from_open(path, duplicate(path, file)?, kind, label_size)?;
        opened.warn_of_faults();
        Ok(opened)
    }

    /// As [`open`](Self::open), of a file that is open already for what `kind` needs. What is passed
    /// over in its labels was said when it was opened.
    pub(super) fn from_open(
        path: &Path,
        file: File,
        kind: ClaimKind,
        label_size: LabelSize,
    ) -> Result<NvdimmFile, Error> {
        let size =
            pmem::file_size(&file).map_err(|source| Error::Map { path: path.into(), source })?;
        if size < PAGE {
            return Err(Error::TooSmall { path: path.into(), size });
        }
        let (labels, namespaces, lost) = (None, Vec::new(), Vec::new());
        let path = path.into();
        let mut opened =
            NvdimmFile { path, file, size, kind, label_size, labels, namespaces, lost };
        opened.refresh()?;
        Ok(opened)
    }

    /// Says which parts of the label storage area are passed over.
    fn warn_of_faults(&self) {
        let path = self.path.display();
        if let Some((number, fault)) = self.labels.as_ref().and_then(|area| area.unusable) {
            log::warn!(
                "{path}: label index block {number}: {fault}; the other one is used, which may be \
                 older: namespaces made or changed last may be missing"
            );
        }
        if let Some(StrayLabels { start, file_size }) = self.stray_labels() {
            log::warn!(
                "{path}: there are labels at byte {start}, and not at the end: the file seems to have been \
                 made {}; while it is in use by nothing, 'truncate -s {file_size}' makes it as it was, and \
                 '--label-size none' says that it has no labels",
                if file_size < self.size { "longer" } else { "shorter" }
            );
        }
        for LostLabel { slot, fault, .. } in self.lost.iter().take(MOST_WARNINGS) {
            log::warn!("{path}: label slot {slot}: {fault}; its namespace is ignored");
        }
        if let more @ 1.. = self.lost.len().saturating_sub(MOST_WARNINGS) {
            log::warn!("{path}: {more} more label slots are ignored");
        }
    }

    /// Returns the labels that the file seems to have, if they are not at its end. A file with labels, or
    /// that has none as was said when it was opened, has no others.
    #[must_use]
    pub fn stray_labels(&self) -> Option<StrayLabels> {
        let is_searched = self.labels.is_none() && self.label_size == LabelSize::Detect;
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        (is_searched && is_file).then(|| StrayLabels::find(&self.file, self.size)).flatten()
    }

    /// Reads the labels again, which another process may have changed.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        self.labels = read_labels(&self.path, &self.file, self.size, self.label_size)?;
        let data_size = self.data_size();
        let sorted = self.labels.as_ref().map(|area| lost::sort(area, data_size));
        (self.namespaces, self.lost) = match sorted {
            Some(Sorted { usable, lost }) => {
                let numbered = usable.into_iter().enumerate();
                (numbered.map(|(number, label)| Namespace::labelled(number, label)).collect(), lost)
            }
            None => (vec![Namespace::whole_file(self.size)], Vec::new()),
        };
        Ok(())
    }

    /// The path that the file was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Maps a namespace to look at what it holds, without claiming it.
    pub fn map_to_look(&self, namespace: &Namespace) -> Result<Mapping, Error> {
        self.map_bytes_to_look(namespace.range.clone())
    }

    /// As [`map_to_look`](Self::map_to_look), as a claim with `durability` would map it.
    pub fn map_to_look_as(
        &self,
        namespace: &Namespace,
        durability: DurabilityRequest,
    ) -> Result<Mapping, Error> {
        let file = duplicate(&self.path, &self.file)?;
        Mapping::new(file, namespace.range.clone(), Protection::ReadOnly, durability)
            .map_err(|source| Error::Map { path: self.path.clone(), source })
    }

    /// As [`map_to_look`](Self::map_to_look), of whole pages that need not belong to a namespace.
    pub fn map_bytes_to_look(&self, range: Range<u64>) -> Result<Mapping, Error> {
        let file = duplicate(&self.path, &self.file)?;
        Mapping::new(file, range, Protection::ReadOnly, DurabilityRequest::Auto)
            .map_err(|source| Error::Map { path: self.path.clone(), source })
    }

    /// As [`map_to_look`](Self::map_to_look), of all whole pages of the file, as if it had no labels.
    pub fn map_whole_to_look(&self) -> Result<Mapping, Error> {
        self.map_bytes_to_look(0..self.size / PAGE * PAGE)
    }

    /// Where the labels were said to be when the file was opened.
    #[must_use]
    pub fn label_size(&self) -> LabelSize {
        self.label_size
    }

    /// Bytes of the file, label storage area included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The label storage area, if there is one.
    #[must_use]
    pub fn labels(&self) -> Option<&LabelArea> {
        self.labels.as_ref()
    }

    /// Bytes at the start of the file that namespaces can have: whole pages, up to the labels.
    #[must_use]
    pub fn data_size(&self) -> u64 {
        let labels = self.labels.as_ref().map_or(0, |area| area.size);
        (self.size - labels) / PAGE * PAGE
    }

    /// The bytes that belong to no namespace, by address; as far as that is known: the label of one
    /// may be [lost](Self::lost).
    #[must_use]
    pub fn free_extents(&self) -> Vec<Range<u64>> {
        let namespaces = self.namespaces.iter().map(|namespace| namespace.range.clone());
        let lost = self.lost.iter().filter_map(LostLabel::range);
        space::free_extents(self.data_size(), namespaces.chain(lost).collect())
    }

    /// The labels that do not count, by slot.
    #[must_use]
    pub fn lost(&self) -> &[LostLabel] {
        &self.lost
    }

    /// What the file was opened for.
    #[must_use]
    pub fn kind(&self) -> ClaimKind {
        self.kind
    }

    /// All namespaces, in the order of their addresses.
    #[must_use]
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// Returns the process that holds a claim on `namespace`, or on a part of it, other than through this
    /// file; `None` if there is no claim.
    ///
    /// # Errors
    ///
    /// The file system does not tell.
    pub fn holder(&self, namespace: &Namespace) -> Result<Option<Holder>, Error> {
        let range = &namespace.range;
        let fails = |source| Error::File {
            action: "ask for the locks of",
            path: self.path.clone(),
            source,
        };
        let is_locked = lock::is_locked(&self.file, range).map_err(fails)?;
        Ok(is_locked.then(|| Holder::find(&self.file, range)))
    }

    /// Returns whether another process has the labels locked, as it does while it changes them.
    pub fn labels_are_locked(&self) -> Result<bool, Error> {
        let labels = self.size - self.labels.as_ref().map_or(0, |area| area.size)..self.size;
        let fails = |source| Error::File {
            action: "ask for the locks of",
            path: self.path.clone(),
            source,
        };
        if labels.is_empty() {
            Ok(false)
        } else {
            lock::is_locked(&self.file, &labels).map_err(fails)
        }
    }

    /// The namespace that is meant by `selection`.
    pub fn select(&self, selection: &Selection) -> Result<&Namespace, Error> {
        let names = || {
            let names: Vec<String> = self.namespaces.iter().map(Namespace::full_name).collect();
            names.join(", ")
        };
        match (selection, self.namespaces.as_slice()) {
            (_, []) => Err(Error::NoNamespace { path: self.path.clone() }),
            (Selection::Only, [only]) => Ok(only),
            (Selection::Only, _) => Err(Error::Several { path: self.path.clone(), there: names() }),
            (Selection::Named(wanted), all) => {
                let mut found = all.iter().filter(|namespace| namespace.goes_by(wanted));
                match (found.next(), found.next()) {
                    (Some(one), None) => Ok(one),
                    (None, _) => Err(Error::Unknown {
                        path: self.path.clone(),
                        wanted: wanted.clone(),
                        there: names(),
                    }),
                    (Some(_), Some(_)) => Err(self.ambiguous(wanted)),
                }
            }
        }
    }

    fn ambiguous(&self, wanted: &str) -> Error {
        let named = self.namespaces.iter().filter(|namespace| namespace.goes_by(wanted));
        let uuids: Vec<String> =
            named.filter_map(|namespace| Some(namespace.uuid?.to_string())).collect();
        let (path, wanted) = (self.path.clone(), wanted.into());
        Error::Ambiguous { path, wanted, uuids: uuids.join(", ") }
    }

    /// Claims a namespace for what the file was opened for; no other process can until the claim is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] names who holds it.
    pub fn claim(mut self, selection: &Selection) -> Result<Claim, Error> {
        self.claim_and_keep(selection)
    }

    /// As [`claim`](Self::claim), for a caller that goes on using the file: the claim lasts until both are
    /// dropped.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn claim_and_keep(&mut self, selection: &Selection) -> Result<Claim, Error> {
        self.claim_by(|file| file.claim_as_read(selection))
    }

    /// Claims the first `head` bytes of a namespace for reading, to add other bytes of it to the claim
    /// ([`Claim::add`]). Several may do so, each for bytes of their own.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]: another process has claimed it for writing.
    pub fn claim_head(mut self, selection: &Selection, head: u64) -> Result<Claim, Error> {
        self.claim_by(|file| {
            let namespace = file.select(selection)?.clone();
            let descriptor = duplicate(&file.path, &file.file)?;
            Claim::take_head(file.path.clone(), descriptor, namespace, head)
        })
    }

    fn claim_by(
        &mut self,
        claim: impl Fn(&NvdimmFile) -> Result<Claim, Error>,
    ) -> Result<Claim, Error> {
        for _ in 0..MOST_ATTEMPTS {
            let claim = claim(self)?;
            // Before the claim, another process may have destroyed it, and made another there. From
            // now on, that is impossible.
            self.refresh()?;
            if self.namespaces.contains(claim.namespace()) {
                self.persist()?;
                return Ok(claim);
            }
            self.unlock(&claim.namespace().range)?;
        }
        Err(Error::Changed { path: self.path.clone() })
    }

    /// Makes the labels that were read durable, if the file was opened for writing: what is written to
    /// the namespaces relies on them.
    pub(super) fn persist(&self) -> Result<(), Error> {
        let Some(area) = self.labels.as_ref().filter(|_| self.kind == ClaimKind::Exclusive) else {
            return Ok(());
        };
        let file = duplicate(&self.path, &self.file)?;
        // Where the file is not on DAX, a sync of what was written makes the labels durable as well.
        let range = self.size - area.size..self.size;
        let medium = Mapping::new(file, range, Protection::ReadWrite, DurabilityRequest::Auto)
            .map_err(|source| Error::Map { path: self.path.clone(), source })?;
        area.persist(&medium)
            .map_err(|source| Error::LabelMedia { path: self.path.clone(), source })
    }

    /// Claims a namespace as the labels were when they were last read.
    pub(super) fn claim_as_read(&self, selection: &Selection) -> Result<Claim, Error> {
        let namespace = self.select(selection)?.clone();
        let file = duplicate(&self.path, &self.file)?;
        Claim::take(self.path.clone(), file, namespace, self.kind)
    }

    /// Gives up what was locked through this file.
    pub(super) fn unlock(&self, range: &Range<u64>) -> Result<(), Error> {
        let fails = |source| Error::File { action: "unlock", path: self.path.clone(), source };
        lock::unlock(&self.file, range).map_err(fails)
    }
}
