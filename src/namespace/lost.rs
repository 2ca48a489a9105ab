//! Namespaces that have lost their label, told by what is in them.
//!
//! A BTT says which namespace it belongs to, and a DAX region has the uuid of its own. So what stands in
//! bytes that no label names tells uuid, place and size of the namespace that it was in. It may be one
//! that was being destroyed, or made, when that was cut off: nothing comes of it unless asked for.

use std::ops::Range;

use uuid::Uuid;

use super::error::NamespaceError;
use super::labels;
use super::probe::{Signature, find_region};
use crate::btt::{self};
use crate::nvdimm::label::{LabelName, LabelVersion};
use crate::nvdimm::{
    self, Abstraction, LINUX_ALIGNMENT, LabelEditor, LostLabel, Namespace, NewNamespace,
    NvdimmFile, Place,
};
use crate::pmem::{PAGE, PersistentMemory};

/// A namespace without a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its bytes in the file, as far as what it holds takes them up.
    pub range: Range<u64>,
    /// What it holds: a BTT or a DAX region.
    pub holds: Signature,
    /// What its label had as sector size.
    sector_size: u64,
}

impl Orphan {
    /// What stands at the start of `range`, some pages of `file`, and says which namespace it is of.
    ///
    /// # Errors
    ///
    /// The bytes cannot be mapped.
    pub fn at(file: &NvdimmFile, range: &Range<u64>) -> Result<Option<Orphan>, nvdimm::Error> {
        let medium = file.map_bytes_to_look(range.clone())?;
        let found = |uuid: Uuid, end, holds, sector_size| {
            let range = range.start..range.start + u64::next_multiple_of(end, PAGE);
            (!uuid.is_nil()).then_some(Orphan { uuid, range, holds, sector_size })
        };
        if let Ok(arenas) = btt::find(&medium, None)
            && let [first, .., last] | [first @ last] = &arenas[..]
        {
            let (info, end) = (&first.info, last.start + last.info.geometry.size());
            let sector_size = info.geometry.lba_size.in_label();
            return Ok(found(info.parent_uuid, end, Signature::Btt(info.version), sector_size));
        }
        let region = find_region(&medium).ok();
        Ok(region.and_then(|region| found(region.uuid, region.end, Signature::Region, 512)))
    }

    /// All that stand in bytes that no label names: at multiples of 16 MiB, and where a label that is
    /// lost seems to say.
    ///
    /// # Errors
    ///
    /// The file cannot be mapped.
    pub fn find_all(file: &NvdimmFile) -> Result<Vec<Orphan>, nvdimm::Error> {
        let mut found = Vec::new();
        for extent in file.free_extents() {
            let medium = file.map_bytes_to_look(extent.clone())?;
            let mut end = extent.start;
            for (start, bounds) in candidates(&extent, file.lost()) {
                let first_bytes = start - extent.start + 2 * PAGE;
                if start < end || medium.next_stored(start - extent.start) >= first_bytes {
                    continue;
                }
                for bound in bounds {
                    if let Some(orphan) = Orphan::at(file, &(start..bound))? {
                        // What is inside it is what a guest has written.
                        end = orphan.range.end;
                        found.push(orphan);
                        break;
                    }
                }
            }
        }
        let is_taken = |orphan: &Orphan| {
            file.namespaces().iter().any(|namespace| namespace.uuid == Some(orphan.uuid))
        };
        found.retain(|orphan| !is_taken(orphan));
        Ok(found)
    }

    /// The label that it has lost, if one seems to have been of its uuid.
    #[must_use]
    pub fn lost_label<'f>(&self, file: &'f NvdimmFile) -> Option<&'f LostLabel> {
        file.lost().iter().find(|lost| !lost.is_whole && lost.label.uuid == self.uuid)
    }

    fn abstraction(&self, version: LabelVersion) -> Option<Abstraction> {
        match self.holds {
            Signature::Btt(btt) => labels::abstraction(version, btt),
            _ => Some(Abstraction::Dax),
        }
    }
}

/// Where namespaces may start in `extent`, in order, and where each may end.
fn candidates(extent: &Range<u64>, lost: &[LostLabel]) -> Vec<(u64, Vec<u64>)> {
    let aligned = (extent.start.next_multiple_of(LINUX_ALIGNMENT)..extent.end)
        .step_by(LINUX_ALIGNMENT as usize);
    let said = lost.iter().map(|lost| lost.label.dpa);
    let said = said.filter(|dpa| extent.contains(dpa) && dpa.is_multiple_of(PAGE));
    let mut starts: Vec<u64> = aligned.chain(said).chain([extent.start]).collect();
    starts.sort_unstable();
    starts.dedup();
    // From the end alone, where the first info block is gone, only an arena that ends there is found.
    let ends = |start| {
        let said = lost.iter().filter(move |lost| lost.label.dpa == start);
        let said = said.filter_map(move |lost| lost.label.rawsize.checked_add(start));
        let said = said.filter(|end| start < *end && *end < extent.end);
        said.chain([extent.end]).collect()
    };
    starts.into_iter().map(|start| (start, ends(start))).collect()
}

/// Gives `orphan` a label again: with the name that it seems to have had, if no other namespace has it.
///
/// # Errors
///
/// Linux would not find the BTT by a label of that version; there is no slot; a process holds the bytes.
pub fn restore_label(
    editor: &mut LabelEditor,
    orphan: &Orphan,
) -> Result<Namespace, NamespaceError> {
    let path = || editor.file().path().into();
    let abstraction = orphan.abstraction(editor.version());
    let abstraction = abstraction.ok_or_else(|| NamespaceError::OldLabels { path: path() })?;
    let lost = orphan.lost_label(editor.file());
    let name = lost.and_then(|lost| LabelName::new(&lost.label.name.to_string()).ok());
    let is_free = |name: &LabelName| editor.check_unique(orphan.uuid, *name, None).is_ok();
    let new = NewNamespace {
        place: Place::At(orphan.range.clone()),
        name: name.filter(is_free).unwrap_or(LabelName::NONE),
        uuid: orphan.uuid,
        abstraction,
        sector_size: orphan.sector_size,
        qemu_slot: None,
    };
    let lost = lost.map(|lost| lost.slot);
    let reservation = editor.reserve(&new)?;
    Ok(editor.restore(&reservation, lost)?)
}
