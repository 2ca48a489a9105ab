//! An NVDIMM file and the namespaces in it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::claim::{Claim, ClaimKind};
use super::error::Error;
use super::label::{self, LabelArea, LabelFault, NamespaceLabel};
use super::namespace::{Namespace, Selection};
use crate::pmem::{self, PAGE};

/// Where the label storage area of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    labels: Option<LabelArea>,
    namespaces: Vec<Namespace>,
}

impl NvdimmFile {
    /// Opens `path`, a regular file or a device-DAX device, for what `kind` needs.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read, is smaller than a page, or has a label storage area that
    /// is damaged beyond use.
    pub fn open(path: &Path, kind: ClaimKind, label_size: LabelSize) -> Result<NvdimmFile, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(kind == ClaimKind::Exclusive)
            .open(path)
            .map_err(|source| Error::File { action: "open", path: path.into(), source })?;
        let size =
            pmem::file_size(&file).map_err(|source| Error::Map { path: path.into(), source })?;
        if size < PAGE {
            return Err(Error::TooSmall { path: path.into(), size });
        }
        let labels = read_labels(path, &file, size, label_size)?;
        let namespaces = match &labels {
            Some(area) => labelled_namespaces(path, area)?,
            None => vec![Namespace::whole_file(size)],
        };
        Ok(NvdimmFile { path: path.into(), file, size, kind, labels, namespaces })
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

    /// The open file, to keep.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
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

    /// All namespaces, in the order of their addresses.
    #[must_use]
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The namespace that is meant by `selection`.
    pub fn select(&self, selection: &Selection) -> Result<&Namespace, Error> {
        let names = || {
            let names: Vec<String> = self.namespaces.iter().map(Namespace::device_name).collect();
            names.join(", ")
        };
        match (selection, self.namespaces.as_slice()) {
            (_, []) => Err(Error::NoNamespace { path: self.path.clone() }),
            (Selection::Only, [only]) => Ok(only),
            (Selection::Only, _) => Err(Error::Several { path: self.path.clone(), there: names() }),
            (Selection::Named(wanted), all) => all
                .iter()
                .find(|namespace| namespace.goes_by(wanted))
                .ok_or_else(|| Error::Unknown {
                    path: self.path.clone(),
                    wanted: wanted.clone(),
                    there: names(),
                }),
        }
    }

    /// Claims a namespace, as the file was opened for; nobody else can until the claim is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] names who holds it.
    pub fn claim(self, selection: &Selection) -> Result<Claim, Error> {
        let namespace = self.select(selection)?.clone();
        Claim::take(self.path, self.file, namespace, self.kind)
    }
}

/// The label storage area of a file, if it has one.
fn read_labels(
    path: &Path,
    file: &File,
    file_size: u64,
    label_size: LabelSize,
) -> Result<Option<LabelArea>, Error> {
    let fails = |source| Error::File { action: "read the labels of", path: path.into(), source };
    let offset = match label_size {
        LabelSize::None => return Ok(None),
        LabelSize::Detect => match label::find(file, file_size).map_err(fails)? {
            Some(offset) => offset,
            None => return Ok(None),
        },
        LabelSize::Bytes(size) => match file_size.checked_sub(size) {
            Some(offset) if size > 0 => offset,
            _ => {
                return Err(Error::NoLabels { path: path.into(), size });
            }
        },
    };
    match LabelArea::read(file, offset, file_size).map_err(fails)? {
        Ok(area) => Ok(Some(area)),
        Err([LabelFault::Signature, LabelFault::Signature]) => {
            Err(Error::NoLabels { path: path.into(), size: file_size - offset })
        }
        Err([first, second]) => Err(Error::Labels { path: path.into(), first, second }),
    }
}

/// The namespaces that labels describe, by address.
fn labelled_namespaces(path: &Path, area: &LabelArea) -> Result<Vec<Namespace>, Error> {
    let unusable = |slot, fault| Error::Label { path: path.into(), slot, fault };
    let mut labels: Vec<NamespaceLabel> = Vec::new();
    for (slot, label) in area.labels() {
        match label {
            Ok(label) => labels.push(label),
            // Linux passes over slots whose label does not count (`slot_valid`).
            Err(fault) => log::warn!("{}: label slot {slot}: {fault}", path.display()),
        }
    }
    labels.sort_by_key(|label| label.dpa);
    let data_size = area.offset - area.offset % PAGE;
    let mut end = 0;
    for (index, label) in labels.iter().enumerate() {
        let (slot, dpa, rawsize) = (label.slot, label.dpa, label.rawsize);
        if label.nlabel > 1 || labels[..index].iter().any(|other| other.uuid == label.uuid) {
            return Err(unusable(slot, LabelFault::Interleaved { labels: label.nlabel.max(2) }));
        }
        if dpa < end {
            let other = labels[index - 1].uuid;
            return Err(unusable(slot, LabelFault::Overlap { other }));
        }
        end = match dpa.checked_add(rawsize) {
            Some(end) if end <= data_size && rawsize > 0 => end,
            _ => return Err(unusable(slot, LabelFault::Range { dpa, rawsize })),
        };
    }
    let numbered = labels.iter().enumerate();
    Ok(numbered.map(|(number, label)| Namespace::labelled(number, label)).collect())
}
