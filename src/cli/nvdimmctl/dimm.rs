//! An NVDIMM in a listing: a file as a whole, with its label storage area.

use std::path::PathBuf;

use serde::Serialize;

use super::Error;
use crate::cli::output::say;
use crate::cli::size::Size;
use crate::nvdimm::NvdimmFile;

/// An NVDIMM as it is listed. Names as in ndctl, where it has them.
#[derive(Debug, Serialize)]
pub(super) struct Dimm {
    /// As namespaces are of region 0, a file is NVDIMM 0 of its own.
    dev: &'static str,
    #[serde(serialize_with = "super::path_to_json")]
    file: PathBuf,
    /// Bytes of the file, labels included.
    size: u64,
    labels: Option<Labels>,
    /// Labels that do not count; see 'check-labels'.
    lost_labels: usize,
    /// What the file is: fs-dax, device-dax or page-cache.
    backing: &'static str,
}

/// A label storage area.
#[derive(Debug, Serialize)]
pub(super) struct Labels {
    size: u64,
    version: String,
    slots: u32,
    free_slots: usize,
}

impl Dimm {
    pub(super) fn describe(file: &NvdimmFile) -> Result<Dimm, Error> {
        Ok(Dimm {
            dev: "nmem0",
            file: file.path().into(),
            size: file.size(),
            labels: Labels::describe(file),
            lost_labels: file.lost().len(),
            backing: file.map_whole_to_look()?.backing().name(),
        })
    }

    pub(super) fn print(&self) {
        say!(
            "{}: NVDIMM of {}, {}; {}",
            self.file.display(),
            Size(self.size),
            self.backing,
            labels_text(self.labels.as_ref(), self.lost_labels)
        );
    }
}

impl Labels {
    /// The labels of a file, if it has any.
    pub(super) fn describe(file: &NvdimmFile) -> Option<Labels> {
        file.labels().map(|area| Labels {
            size: area.size,
            version: area.index.version.to_string(),
            slots: area.index.nslot,
            free_slots: area.index.free_slots().count(),
        })
    }
}

/// What there is to say of a file's labels.
pub(super) fn labels_text(labels: Option<&Labels>, lost: usize) -> String {
    let labels = match labels {
        Some(Labels { size, version, slots, free_slots }) => {
            format!("labels {version} in {}, {free_slots} of {slots} slots free", Size(*size))
        }
        None => "no labels".into(),
    };
    match lost {
        0 => labels,
        lost => format!("{labels}, {lost} labels lost: see nvdimmctl check-labels"),
    }
}
