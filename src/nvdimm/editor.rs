//! Making, changing and destroying namespaces.
//!
//! The label of a namespace decides whether it exists: an index block commits it. The contents of a
//! namespace are made before its label, and removed after it. A crash leaves no namespace or a complete
//! one.

use std::ops::Range;
use std::time::Duration;

use uuid::Uuid;

use super::claim::Claim;
use super::error::Error;
use super::file::NvdimmFile;
use super::holder::Holder;
use super::label::{
    LabelArea, LabelName, LabelVersion, LabelWriter, NO_COOKIE, NamespaceLabel, UpdateError,
    qemu_cookie,
};
use super::lock::{self, ClaimKind, duplicate};
use super::lost::LostLabel;
use super::namespace::{Abstraction, Namespace, PERSISTENT_MEMORY, Selection};
use super::space;
use crate::error_chain::in_one_line;
use crate::pmem::{DurabilityRequest, Mapping, Protection};

/// How long to wait while another process changes the labels.
const PATIENCE: Duration = Duration::from_secs(15);

/// A file whose labels no other process can change.
#[derive(Debug)]
pub struct LabelEditor {
    file: NvdimmFile,
    /// The label storage area.
    medium: Mapping,
    locked: Range<u64>,
}

/// Where a new namespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// To the lowest place where it fits.
    FirstFit {
        /// Its size in bytes; `None`: that of the largest free extent.
        size: Option<u64>,
        /// What its start and its size are multiples of, in bytes.
        alignment: u64,
    },
    /// To these bytes, which are free.
    At(Range<u64>),
}

/// What a new namespace's label says.
#[derive(Debug, Clone)]
pub struct NewNamespace {
    /// Where it goes.
    pub place: Place,
    /// Its name.
    pub name: LabelName,
    /// Its uuid.
    pub uuid: Uuid,
    /// What is in it; labels of version 1.1 do not say.
    pub abstraction: Abstraction,
    /// Bytes of a sector, 512 or 4096, or 0.
    pub sector_size: u64,
    /// QEMU's memory slot for the NVDIMM; `None`: that of the other namespaces, or 0, and none in dax mode,
    /// so that Linux passes over it.
    pub qemu_slot: Option<u32>,
}

/// A namespace that has its place and no label yet, so that no other process can see it.
#[derive(Debug)]
pub struct Reservation {
    /// The claim on its bytes.
    pub claim: Claim,
    label: NamespaceLabel,
}

impl NvdimmFile {
    /// Locks the labels for changing them; waits a moment if another process changes them.
    ///
    /// # Errors
    ///
    /// The file has no labels, was opened for reading, or [`Error::Busy`].
    pub fn edit_labels(mut self) -> Result<LabelEditor, Error> {
        let label_less = |file: &NvdimmFile| Error::LabelLess { path: file.path().into() };
        let size = self.labels().ok_or_else(|| label_less(&self))?.size;
        let locked = self.size() - size..self.size();
        let path = self.path().to_path_buf();
        match lock::lock_within(self.file(), &locked, PATIENCE) {
            Ok(true) => {}
            Ok(false) => {
                let holder = Holder::find(self.file(), &locked);
                return Err(Error::Busy { path, namespace: "the label area".into(), holder });
            }
            Err(source) => return Err(Error::File { action: "lock the labels of", path, source }),
        }
        self.refresh()?;
        match self.labels() {
            None => return Err(label_less(&self)),
            Some(area) if area.size != size => return Err(Error::Changed { path }),
            Some(_) => {}
        }
        let file = duplicate(&path, self.file())?;
        // Also without DAX every step is durable before the next: this is rare, and short.
        let medium =
            Mapping::new(file, locked.clone(), Protection::ReadWrite, DurabilityRequest::Strict)
                .map_err(|source| Error::Map { path: path.clone(), source })?;
        // Before anything is made in bytes that are free by labels which a power failure could undo.
        let persisted = self.labels().map_or(Ok(()), |area| area.persist(&medium));
        persisted.map_err(|source| Error::LabelMedia { path, source })?;
        Ok(LabelEditor { file: self, medium, locked })
    }
}

impl LabelEditor {
    /// The file, with its namespaces as they are now.
    #[must_use]
    pub fn file(&self) -> &NvdimmFile {
        &self.file
    }

    /// Version of the labels.
    #[must_use]
    pub fn version(&self) -> LabelVersion {
        self.area().index.version
    }

    /// Claims a namespace that exists.
    pub fn claim(&self, selection: &Selection) -> Result<Claim, Error> {
        self.file.claim_as_read(selection)
    }

    /// Refuses to allocate free bytes while those of a namespace whose label is lost may be
    /// among them.
    ///
    /// # Errors
    ///
    /// [`Error::LostLabel`].
    pub fn refuse_unknown_places(&self) -> Result<(), Error> {
        match self.file.lost().iter().find(|lost| !lost.is_whole) {
            Some(LostLabel { slot, fault, .. }) => {
                let (path, slot, fault) = (self.file.path().into(), *slot, *fault);
                Err(Error::LostLabel { path, slot, fault })
            }
            None => Ok(()),
        }
    }

    /// Finds a place for a namespace, and claims it.
    ///
    /// # Errors
    ///
    /// There is no space, no label slot, its name or uuid exists, its size is misaligned; or a process
    /// holds a part of the place, who has opened the file another way.
    pub fn reserve(&self, new: &NewNamespace) -> Result<Reservation, Error> {
        self.check_unique(new.uuid, new.name, None)?;
        let index = &self.area().index;
        if index.free_slots().nth(1).is_none() {
            return Err(self.update_error(UpdateError::NoSlot { slots: index.nslot }));
        }
        let range = self.place(&new.place)?;
        let label = self.label(new, &range);
        let before = self.file.namespaces().iter().filter(|other| other.range.start < range.start);
        let namespace = Namespace::labelled(before.count(), label.clone());
        let file = duplicate(self.file.path(), self.file.file())?;
        let path = self.file.path().to_path_buf();
        let claim = Claim::take(path, file, namespace, ClaimKind::Exclusive)?;
        Ok(Reservation { claim, label })
    }

    /// Writes the label of a new namespace: from now on, it exists.
    pub fn commit(&mut self, reservation: &Reservation) -> Result<Namespace, Error> {
        self.write(|writer| writer.create(&reservation.label).map(drop))?;
        let uuid = reservation.label.uuid.to_string();
        self.file.select(&Selection::Named(uuid)).cloned()
    }

    /// Takes the label of a namespace away: it exists no more, and its bytes are free.
    pub fn delete(&mut self, claim: &Claim) -> Result<(), Error> {
        let slot = self.label_of(claim)?.slot;
        self.write(|writer| writer.delete(&[slot]))
    }

    /// Writes the label of a namespace that has lost it, into another slot than `lost`, which is free from
    /// then on, in the same step.
    pub fn restore(
        &mut self,
        reservation: &Reservation,
        lost: Option<u32>,
    ) -> Result<Namespace, Error> {
        let Some(slot) = lost else { return self.commit(reservation) };
        self.write(|writer| writer.update(slot, &reservation.label).map(drop))?;
        let uuid = reservation.label.uuid.to_string();
        self.file.select(&Selection::Named(uuid)).cloned()
    }

    /// Takes a label away that does not count: the bytes that it named are free.
    ///
    /// # Errors
    ///
    /// [`Error::NotLost`]: that of a namespace, or none.
    pub fn drop_lost(&mut self, slot: u32) -> Result<(), Error> {
        if !self.file.lost().iter().any(|lost| lost.slot == slot) {
            return Err(Error::NotLost { path: self.file.path().into(), slot });
        }
        self.write(|writer| writer.delete(&[slot]))
    }

    /// Writes the index block anew that does not count, with the same contents as the other.
    pub fn mend_index(&mut self) -> Result<(), Error> {
        // Every change writes it, this one among them.
        self.write(|writer| writer.delete(&[]))
    }

    /// Gives a namespace another name.
    pub fn rename(&mut self, claim: &Claim, name: LabelName) -> Result<(), Error> {
        let old = self.label_of(claim)?.clone();
        self.check_unique(old.uuid, name, Some(old.uuid))?;
        let new = NamespaceLabel { name, ..old.clone() };
        self.write(|writer| writer.update(old.slot, &new).map(drop))
    }

    /// The bytes that a namespace gets if it is to have `size` in all, a multiple of `alignment`: some of
    /// those that are free after it; `None`: all of them. May be empty.
    ///
    /// # Errors
    ///
    /// [`Error::CannotGrow`], or the size is misaligned.
    pub fn growth(
        &self,
        selection: &Selection,
        size: Option<u64>,
        alignment: u64,
    ) -> Result<Range<u64>, Error> {
        let namespace = self.file.select(selection)?;
        let path = || self.file.path().into();
        let (current, start) = (namespace.size(), namespace.range.start);
        let extents = self.file.free_extents();
        let behind = extents.iter().find(|extent| extent.start == namespace.range.end);
        let end = behind.map_or(namespace.range.end, |extent| extent.end);
        let most = current.max((end - start) / alignment * alignment);
        let size = size.unwrap_or(most);
        if size < current || size > most {
            let namespace = namespace.device_name();
            return Err(Error::CannotGrow { path: path(), namespace, size, current, most });
        }
        if size > current && !size.is_multiple_of(alignment) {
            return Err(Error::misaligned(self.file.path(), size, alignment));
        }
        Ok(namespace.range.end..start + size)
    }

    /// Gives a namespace the bytes `growth`, which [`growth`](Self::growth) has found for it. A process
    /// that holds it goes on with the bytes that it had.
    pub fn grow(&mut self, selection: &Selection, growth: &Range<u64>) -> Result<Namespace, Error> {
        let namespace = self.file.select(selection)?.clone();
        if growth.is_empty() {
            return Ok(namespace);
        }
        let path = || self.file.path().into();
        let label = namespace.label.ok_or_else(|| Error::LabelLess { path: path() })?;
        if growth.start != namespace.range.end {
            return Err(Error::Changed { path: path() });
        }
        let rawsize = growth.end - namespace.range.start;
        let (slot, uuid) = (label.slot, label.uuid.to_string());
        let grown = NamespaceLabel { rawsize, ..label };
        self.write(|writer| writer.update(slot, &grown).map(drop))?;
        self.file.select(&Selection::Named(uuid)).cloned()
    }

    fn area(&self) -> &LabelArea {
        self.file.labels().expect("an editor is only made for a file with labels")
    }

    fn write(
        &mut self,
        change: impl FnOnce(&mut LabelWriter<'_, Mapping>) -> Result<(), UpdateError>,
    ) -> Result<(), Error> {
        LabelWriter::open(&self.medium, self.area().size)
            .and_then(|mut writer| change(&mut writer))
            .map_err(|source| self.update_error(source))?;
        self.file.refresh()
    }

    fn update_error(&self, source: UpdateError) -> Error {
        Error::Update { path: self.file.path().into(), source }
    }

    /// The label of a claimed namespace as it is now.
    fn label_of(&self, claim: &Claim) -> Result<&NamespaceLabel, Error> {
        let claimed = |namespace: &&Namespace| namespace.range == claim.namespace().range;
        let found = self.file.namespaces().iter().find(claimed);
        found
            .and_then(|namespace| namespace.label.as_ref())
            .ok_or_else(|| Error::Changed { path: self.file.path().into() })
    }

    /// Refuses a name or uuid that a namespace other than the one with uuid `except` has.
    pub fn check_unique(
        &self,
        uuid: Uuid,
        name: LabelName,
        except: Option<Uuid>,
    ) -> Result<(), Error> {
        let mut others = self.file.namespaces().iter().filter(|other| other.uuid != except);
        let name = name.to_string();
        let mut lost = self.file.lost().iter().filter(|lost| lost.is_whole);
        if let Some(lost) = lost.find(|lost| lost.label.uuid == uuid) {
            let (what, namespace) = (format!("uuid {uuid}"), format!("label slot {}", lost.slot));
            return Err(Error::Exists { path: self.file.path().into(), what, namespace });
        }
        let same = others.find_map(|other| {
            let what = if other.uuid == Some(uuid) {
                format!("uuid {uuid}")
            } else if !name.is_empty() && other.name == name {
                format!("name {name:?}")
            } else {
                return None;
            };
            Some((what, other.device_name()))
        });
        match same {
            Some((what, namespace)) => {
                Err(Error::Exists { path: self.file.path().into(), what, namespace })
            }
            None => Ok(()),
        }
    }

    fn place(&self, place: &Place) -> Result<Range<u64>, Error> {
        let (wanted, alignment) = match place {
            Place::At(range) => return Ok(range.clone()),
            Place::FirstFit { size, alignment } => (*size, *alignment),
        };
        let extents = self.file.free_extents();
        let largest = space::largest(&extents, alignment);
        let size = wanted.unwrap_or(largest);
        if wanted.is_some() && (size == 0 || !size.is_multiple_of(alignment)) {
            return Err(Error::misaligned(self.file.path(), size, alignment));
        }
        let found = if size == 0 { None } else { space::first_fit(&extents, size, alignment) };
        found.ok_or_else(|| {
            let (path, size) = (self.file.path().into(), size.max(alignment));
            Error::NoSpace { path, size, largest, alignment }
        })
    }

    /// The label of a new namespace, as Linux writes it.
    fn label(&self, new: &NewNamespace, range: &Range<u64>) -> NamespaceLabel {
        let version = self.version();
        let others = self.file.namespaces().iter().filter_map(|other| other.label.as_ref());
        let mut cookies = others.map(|label| label.isetcookie).filter(|other| *other != NO_COOKIE);
        let isetcookie = match (new.qemu_slot, new.abstraction) {
            (Some(slot), _) => qemu_cookie(version, slot),
            // Linux knows nothing of regions like ours, and would have a disk of plain bytes there.
            (None, Abstraction::Dax) => NO_COOKIE,
            (None, _) => cookies.next().unwrap_or(qemu_cookie(version, 0)),
        };
        let (type_guid, abstraction_guid) = match version {
            LabelVersion::V1_1 => (Uuid::nil(), Uuid::nil()),
            LabelVersion::V1_2 => (PERSISTENT_MEMORY, new.abstraction.guid()),
        };
        NamespaceLabel {
            version,
            uuid: new.uuid,
            name: new.name,
            flags: 0,
            nlabel: 1,
            position: 0,
            isetcookie,
            lbasize: new.sector_size,
            dpa: range.start,
            rawsize: range.end - range.start,
            // Whichever is free when it is written.
            slot: 0,
            align: 0,
            type_guid,
            abstraction_guid,
        }
    }
}

impl Drop for LabelEditor {
    fn drop(&mut self) {
        // Claims that were made here share the open file description, and live on with it; the lock
        // on the labels must not.
        if let Err(error) = self.file.unlock(&self.locked) {
            log::warn!("{}", in_one_line(&error));
        }
    }
}
