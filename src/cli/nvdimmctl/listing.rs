//! A namespace in a listing.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use super::Error;
use crate::btt::{self, FoundArena, Geometry, Version};
use crate::cli::size::Size;
use crate::dax;
use crate::namespace;
use crate::nvdimm::label::{NO_COOKIE, NamespaceLabel, qemu_slot};
use crate::nvdimm::{Abstraction, Holder, Namespace, NvdimmFile, PfnInfo};
use crate::pmem::{Mapping, PersistentMemory};

/// A namespace as it is listed. Names as in ndctl, where it has them.
#[derive(Debug, Serialize)]
pub(super) struct Listing {
    #[serde(serialize_with = "super::path_to_json")]
    pub file: PathBuf,
    pub dev: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub mode: &'static str,
    /// Bytes that can be used: of the sectors in sector mode, of the pages in dax mode, of the namespace
    /// otherwise.
    pub size: u64,
    /// Bytes of the namespace.
    pub raw_size: u64,
    /// Its first byte in the file.
    pub start: u64,
    /// In Linux's fsdax and devdax modes: where the kernel keeps its page structures, `dev` or `mem`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<&'static str>,
    /// As ndctl has it: of the BTT in sector mode, of the region in dax mode, of the info block in fsdax and
    /// devdax mode, else of the namespace.
    pub uuid: Option<String>,
    /// Of the namespace, by its label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_uuid: Option<String>,
    /// Bytes of a sector, of the disk that Linux makes of a namespace without a BTT too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sector_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub btt_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arenas: Option<usize>,
    /// In dax mode: default alignment of devices; in fsdax and devdax mode: that of the usable bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub align: Option<u64>,
    pub atomic_sectors: bool,
    /// The largest `--atomic` with 1, 2, 4, 8, 16, 32 and 64 queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_atomic: Option<[u32; 7]>,
    pub health: Health,
    /// What is wrong, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<ListedLabel>,
    /// What the file is: fs-dax, device-dax or page-cache.
    pub backing: &'static str,
    /// What a fence makes durable there: dax or page-cache.
    pub durability: &'static str,
    pub holder: Option<ListedHolder>,
}

/// How much of a namespace works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Health {
    /// All of it, as far as a look at its info blocks tells.
    Ok,
    /// All of it, but something that is there twice is whole only once.
    Degraded,
    /// It can be read: an error was found while it was served.
    ReadOnly,
    /// Nothing.
    Unusable,
    /// Not known: it could not be read.
    Unknown,
}

/// Where a namespace's label is.
#[derive(Debug, Serialize)]
pub(super) struct ListedLabel {
    pub version: String,
    pub slot: u32,
    /// QEMU's memory slot that the label was written for; `None`: it was written for another machine, or for none.
    pub qemu_slot: Option<u32>,
    /// True if it was written for no machine, so that Linux ignores the namespace.
    pub is_hidden: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ListedHolder {
    pub pid: Option<u32>,
    pub program: Option<String>,
}

impl Health {
    pub(super) fn name(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::ReadOnly => "read-only",
            Health::Unusable => "unusable",
            Health::Unknown => "unknown",
        }
    }
}

impl Listing {
    /// Looks at a namespace, without claiming it; its BTT may be of the version `requested`, where
    /// the label does not say.
    pub(super) fn describe(
        file: &NvdimmFile,
        namespace: &Namespace,
        requested: Option<Version>,
    ) -> Result<Listing, Error> {
        let medium = file.map_to_look(namespace)?;
        let mut listing = Listing::of_label(file, namespace, &medium);
        if namespace.abstraction.may_be_btt() {
            let version = namespace::expected_version(namespace, requested);
            let found = btt::find(&medium, version).and_then(|arenas| {
                namespace.uuid.map_or(Ok(()), |uuid| btt::check_parent(&arenas, uuid))?;
                Ok(arenas)
            });
            listing.describe_btt(namespace.abstraction, found);
        }
        if let Some(failure) = medium.failed_read() {
            listing.health = Health::Unknown;
            listing.problem = Some(format!("it could not be read: {failure}"));
            return Ok(listing);
        }
        if listing.mode != "sector"
            && matches!(namespace.abstraction, Abstraction::Unstated | Abstraction::Dax)
        {
            listing.describe_region(namespace::find_region(&medium));
        }
        if listing.mode != "sector" && listing.align.is_none() {
            // One that cannot be read is Linux's to report.
            if let Ok(Some(info)) = PfnInfo::find(&medium, namespace.uuid) {
                listing.describe_linux_dax(&info);
            }
        }
        if ["raw", "fsdax"].contains(&listing.mode) {
            listing.sector_size = Some(disk_sector_size(namespace));
        }
        Ok(listing)
    }

    /// What is known of a namespace without a look at what it holds.
    fn of_label(file: &NvdimmFile, namespace: &Namespace, medium: &Mapping) -> Listing {
        Listing {
            file: file.path().into(),
            dev: namespace.device_name(),
            name: namespace.name.clone(),
            mode: namespace.abstraction.mode(),
            map: None,
            size: namespace.size(),
            raw_size: namespace.size(),
            start: namespace.range.start,
            uuid: namespace.uuid.map(|uuid| uuid.to_string()),
            raw_uuid: namespace.uuid.map(|uuid| uuid.to_string()),
            sector_size: None,
            btt_version: None,
            arenas: None,
            align: None,
            atomic_sectors: false,
            largest_atomic: None,
            health: Health::Ok,
            problem: None,
            label: namespace.label.as_ref().map(ListedLabel::from),
            backing: medium.backing().name(),
            durability: medium.durability().name(),
            holder: Holder::search(file.file(), &namespace.range).map(ListedHolder::from),
        }
    }

    fn describe_btt(
        &mut self,
        abstraction: Abstraction,
        found: Result<Vec<FoundArena>, btt::Error>,
    ) {
        let arenas = match found {
            Ok(arenas) => arenas,
            // A namespace in raw mode, or one that nothing was made in yet.
            Err(btt::Error::NotFound)
                if matches!(abstraction, Abstraction::Unstated | Abstraction::Raw) =>
            {
                return;
            }
            Err(error) => {
                self.mode = "sector";
                self.health = Health::Unusable;
                self.problem = Some(error.to_string());
                return;
            }
        };
        let sectors: u64 =
            arenas.iter().map(|arena| u64::from(arena.info.geometry.external_nlba)).sum();
        // `find` returns one arena at least.
        let info = &arenas[0].info;
        let lba_size = info.geometry.lba_size;
        self.mode = "sector";
        self.atomic_sectors = true;
        let geometries: Vec<Geometry> = arenas.iter().map(|arena| arena.info.geometry).collect();
        let largest = |power: usize| btt::largest_group(&geometries, 1_usize << power);
        self.largest_atomic = Some(std::array::from_fn(largest));
        self.size = sectors * u64::from(lba_size.data());
        self.uuid = Some(info.uuid.to_string());
        self.sector_size = Some(lba_size.external());
        self.btt_version = Some(info.version.to_string());
        self.arenas = Some(arenas.len());
        let problem = arenas.iter().enumerate().find_map(|(number, arena)| {
            problem_of(arena)
                .map(|(health, problem)| (health, format!("arena {number}: {problem}")))
        });
        if let Some((health, problem)) = problem {
            (self.health, self.problem) = (health, Some(problem));
        } else if self.label.is_none() && !info.parent_uuid.is_nil() {
            (self.health, self.problem) = (Health::Degraded, Some(labels_lost(info.parent_uuid)));
        }
    }

    fn describe_region(&mut self, found: Result<dax::Found, dax::Error>) {
        match found {
            Ok(found) => {
                self.mode = "dax";
                self.size = found.size;
                self.uuid = Some(found.uuid.to_string());
                self.align = Some(found.align.bytes());
                if let Some((offset, fault)) = found.degraded {
                    self.health = Health::Degraded;
                    self.problem = Some(format!("superblock at byte {offset:#x}: {fault}"));
                }
            }
            Err(dax::Error::NotFound) => {}
            Err(error) => {
                self.mode = "dax";
                self.health = Health::Unusable;
                self.problem = Some(error.to_string());
            }
        }
    }

    /// Takes over what the info block of Linux's fsdax and devdax modes says.
    fn describe_linux_dax(&mut self, info: &PfnInfo) {
        (self.mode, self.map, self.size, self.align) = (info.mode, info.map, info.size, info.align);
        self.uuid = Some(info.uuid.to_string());
        (self.health, self.problem) = (Health::Ok, None);
    }

    /// Device name, and name if it has one.
    pub(super) fn names(&self) -> String {
        if self.name.is_empty() { self.dev.clone() } else { format!("{} {}", self.dev, self.name) }
    }
}

/// What is to be said of a BTT of the namespace `parent` in a file without labels.
fn labels_lost(parent: Uuid) -> String {
    format!(
        "it is of namespace {parent}, which has a label, and the file has no labels: they were lost, or cut \
         off ('truncate -s +128K' makes room for new ones then); 'nvdimmctl init-labels --force' makes new \
         ones, and 'nvdimmctl check-labels --restore {parent}' that of the namespace"
    )
}

/// Bytes of a sector of the disk that Linux makes of a namespace without a BTT (`pmem_lbasize` in
/// `drivers/nvdimm/namespace_devs.c`).
fn disk_sector_size(namespace: &Namespace) -> u32 {
    match &namespace.label {
        Some(label) if label.lbasize == 4096 => 4096,
        _ => 512,
    }
}

fn problem_of(arena: &FoundArena) -> Option<(Health, String)> {
    if arena.info.error {
        return Some((Health::ReadOnly, "read-only after an error".into()));
    }
    let problem = match arena.copies {
        btt::Copies::Intact => return None,
        btt::Copies::Differ => "the two info blocks differ".into(),
        btt::Copies::OnlyPrimary(fault) => format!("second info block: {fault}"),
        btt::Copies::OnlyBackup(fault) => format!("first info block: {fault}"),
    };
    Some((Health::Degraded, problem))
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} mode, {}", self.names(), self.mode, Size(self.size))?;
        if let (Some(size), Some(version)) = (self.sector_size, &self.btt_version) {
            write!(f, " in sectors of {size} bytes, BTT {version}")?;
        }
        if let Some(align) = self.align {
            write!(f, " for devices in steps of {}", Size(align))?;
        }
        self.uuid.iter().try_for_each(|uuid| write!(f, ", uuid {uuid}"))
    }
}

impl From<&NamespaceLabel> for ListedLabel {
    fn from(label: &NamespaceLabel) -> ListedLabel {
        ListedLabel {
            version: label.version.to_string(),
            slot: label.slot,
            qemu_slot: qemu_slot(label.version, label.isetcookie),
            is_hidden: label.isetcookie == NO_COOKIE,
        }
    }
}

impl From<Holder> for ListedHolder {
    fn from(holder: Holder) -> ListedHolder {
        match holder {
            Holder::Process { pid, program } => {
                ListedHolder { pid: Some(pid), program: Some(program) }
            }
            Holder::Unknown => ListedHolder { pid: None, program: None },
        }
    }
}

impl fmt::Display for ListedHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListedHolder { pid: Some(pid), program: Some(program) } => {
                write!(f, "{program} ({pid})")
            }
            _ => f.write_str("another process"),
        }
    }
}
