//! Namespaces: named ranges of an NVDIMM.

use std::ops::Range;

use uuid::{Uuid, uuid};

use super::label::{LabelVersion, NamespaceLabel};
use crate::pmem::PAGE;

/// The kind of all namespaces on persistent memory (the NFIT's range type, `NFIT_SPA_PM`).
pub(super) const PERSISTENT_MEMORY: Uuid = uuid!("66f0d379-b4f3-4074-ac43-0d3318b78cdb");
/// `EFI_BTT_ABSTRACTION_GUID`: a BTT of version 1.1.
const BTT: Uuid = uuid!("8aed63a2-29a2-4c66-8b12-f05d15d3922a");
/// `EFI_BTT_ABSTRACTION_GUID` of UEFI 2.7: a BTT of version 2.0.
const BTT2: Uuid = uuid!("18633bfc-1735-4217-8ac9-17239282d3f8");
/// Linux's PFN device: struct pages kept on the medium, for file systems with DAX.
const PFN: Uuid = uuid!("266400ba-fb9f-4677-bcb0-968f11d0d225");
/// Linux's device-DAX.
const DAX: Uuid = uuid!("97a86d9c-3cdd-4eda-986f-5068b4f80088");

/// What a namespace's label says that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abstraction {
    /// Nothing is said: there is no label, or one of version 1.1.
    Unstated,
    /// Plain bytes.
    Raw,
    /// A BTT of version 1.1.
    Btt,
    /// A BTT of version 2.0.
    Btt2,
    /// A file system with DAX ("fsdax"): Linux's alone.
    Pfn,
    /// Device-DAX ("devdax").
    Dax,
    /// Something else.
    Unknown(Uuid),
}

impl Abstraction {
    /// The mode in ndctl's words, as far as the label tells: a BTT is looked for in a namespace
    /// that is raw, or unstated.
    #[must_use]
    pub fn mode(self) -> &'static str {
        match self {
            Abstraction::Unstated | Abstraction::Raw => "raw",
            Abstraction::Btt | Abstraction::Btt2 => "sector",
            Abstraction::Pfn => "fsdax",
            Abstraction::Dax => "devdax",
            Abstraction::Unknown(_) => "unknown",
        }
    }

    /// Returns whether a BTT is looked for: Linux, too, does so in a namespace whose label says nothing.
    #[must_use]
    pub fn may_be_btt(self) -> bool {
        !matches!(self, Abstraction::Pfn | Abstraction::Dax | Abstraction::Unknown(_))
    }

    fn of(label: &NamespaceLabel) -> Abstraction {
        match (label.version, label.abstraction_guid) {
            (LabelVersion::V1_1, _) => Abstraction::Unstated,
            (_, BTT) => Abstraction::Btt,
            (_, BTT2) => Abstraction::Btt2,
            (_, PFN) => Abstraction::Pfn,
            (_, DAX) => Abstraction::Dax,
            (_, guid) if guid.is_nil() => Abstraction::Raw,
            (_, guid) => Abstraction::Unknown(guid),
        }
    }

    /// What a label of version 1.2 says of it.
    pub(super) fn guid(self) -> Uuid {
        match self {
            Abstraction::Unstated | Abstraction::Raw => Uuid::nil(),
            Abstraction::Btt => BTT,
            Abstraction::Btt2 => BTT2,
            Abstraction::Pfn => PFN,
            Abstraction::Dax => DAX,
            Abstraction::Unknown(guid) => guid,
        }
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its number: namespaces are numbered in the order of their addresses, so it changes when one
    /// before it comes or goes. (Linux means to do the same when it finds them.)
    pub number: usize,
    /// The name in its label; empty: none.
    pub name: String,
    /// Its uuid; `None`: it has no label.
    pub uuid: Option<Uuid>,
    /// The bytes of the file that belong to it.
    pub range: Range<u64>,
    /// What its label says that it holds.
    pub abstraction: Abstraction,
    /// Its label; `None`: the whole file, which has none.
    pub label: Option<NamespaceLabel>,
}

impl Namespace {
    /// The one namespace of a file of `file_size` bytes without labels.
    pub(super) fn whole_file(file_size: u64) -> Namespace {
        Namespace {
            number: 0,
            name: String::new(),
            uuid: None,
            range: 0..file_size - file_size % PAGE,
            abstraction: Abstraction::Unstated,
            label: None,
        }
    }

    /// The namespace that `label` describes, as number `number` of its file.
    pub(super) fn labelled(number: usize, label: NamespaceLabel) -> Namespace {
        Namespace {
            number,
            name: label.name.to_string(),
            uuid: Some(label.uuid),
            range: label.dpa..label.dpa + label.rawsize,
            abstraction: Abstraction::of(&label),
            label: Some(label),
        }
    }

    /// Its device name, as Linux and ndctl have it.
    #[must_use]
    pub fn device_name(&self) -> String {
        format!("namespace0.{}", self.number)
    }

    /// Its device name, with the name that its label gives it, if any, in parentheses.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.name.as_str() {
            "" => self.device_name(),
            name => format!("{} ({name})", self.device_name()),
        }
    }

    /// Bytes of the namespace.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns whether it goes by `wanted`: its device name, its name or its uuid.
    #[must_use]
    pub fn goes_by(&self, wanted: &str) -> bool {
        let is_uuid = Uuid::try_parse(wanted).is_ok_and(|wanted| self.uuid == Some(wanted));
        is_uuid || wanted == self.device_name() || (!wanted.is_empty() && wanted == self.name)
    }
}

/// Which namespace of a file is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Selection {
    /// The only one.
    #[default]
    Only,
    /// The one that goes by this device name, name or uuid.
    Named(String),
}
