//! `list`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Error;
use super::dimm::{self, Dimm, Labels};
use super::json::JsonArgs;
use super::listing::Listing;
use crate::cli::name::{ALL, NamespaceArgs};
use crate::cli::one_line;
use crate::cli::output::{columns, remark, say};
use crate::cli::size::Size;
use crate::namespace;
use crate::nvdimm::{self, ClaimKind, LINUX_ALIGNMENT, NvdimmFile};

/// List the namespaces of NVDIMM files, and the processes that hold them
///
/// SIZE is the usable size: the data of the sectors in sector mode, the memory for devices in dax mode,
/// otherwise the size of the namespace.
#[derive(Debug, Args)]
pub(super) struct List {
    /// The NVDIMM files
    #[arg(required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,

    #[command(flatten)]
    kinds: KindArgs,

    /// Also show uuids, offsets, labels and durability
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    json: JsonArgs,
}

/// What is listed.
#[derive(Debug, Args)]
struct KindArgs {
    /// List the NVDIMMs: the files as a whole, with their label storage areas
    #[arg(short = 'D', long)]
    dimms: bool,

    /// List the namespaces (the default), also together with --regions or --dimms
    #[arg(short = 'N', long)]
    namespaces: bool,

    /// List the regions: what of each file is for namespaces, and what is free
    #[arg(short = 'R', long)]
    regions: bool,
}

/// A file as it is listed. Names as in ndctl, where it has them.
#[derive(Debug, Serialize)]
struct Region {
    #[serde(serialize_with = "super::path_to_json")]
    file: PathBuf,
    /// Bytes for namespaces.
    size: u64,
    /// Bytes that belong to none.
    available_size: u64,
    /// Bytes of the largest namespace that can be made.
    max_available_extent: u64,
    /// What places and sizes of namespaces are multiples of, unless 'create-namespace --align' says otherwise.
    align: u64,
    namespace_count: usize,
    labels: Option<Labels>,
    /// Labels that do not count; see 'check-labels'.
    lost_labels: usize,
    /// With --namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<Listing>>,
    /// With --dimms; listed before the regions.
    #[serde(skip)]
    dimm: Option<Dimm>,
}

/// Several kinds of things in one listing, as ndctl has them.
#[derive(Debug, Serialize)]
struct Kinds {
    dimms: Vec<Dimm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regions: Option<Vec<Region>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<Listing>>,
}

impl List {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut regions = Vec::new();
        let mut failed = None;
        for path in &self.files {
            match self.describe(path) {
                Ok(region) => regions.push(region),
                Err(error) => {
                    // The last one is reported by the caller, after what could be listed.
                    if let Some(earlier) = failed.replace(error) {
                        remark!("nvdimmctl: {}", one_line(&earlier));
                    }
                }
            }
        }
        if self.json.is_wanted() {
            self.say_json(regions)?;
        } else {
            self.print(regions);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Returns whether namespaces are listed.
    fn wants_namespaces(&self) -> bool {
        let KindArgs { dimms, namespaces, regions } = self.kinds;
        namespaces || !(regions || dimms)
    }

    /// Prints JSON: an array where one kind of things is listed, else an object with an array for each.
    fn say_json(&self, mut regions: Vec<Region>) -> Result<(), Error> {
        if !self.kinds.dimms {
            return if self.kinds.regions {
                self.json.say(&regions)
            } else {
                self.json.say(&listings(regions))
            };
        }
        let dimms: Vec<Dimm> = regions.iter_mut().filter_map(|region| region.dimm.take()).collect();
        match (self.kinds.regions, self.kinds.namespaces) {
            (false, false) => self.json.say(&dimms),
            (true, _) => self.json.say(&Kinds { dimms, regions: Some(regions), namespaces: None }),
            (false, true) => {
                let namespaces = Some(listings(regions));
                self.json.say(&Kinds { dimms, regions: None, namespaces })
            }
        }
    }

    /// What there is to list of the file `path`.
    fn describe(&self, path: &Path) -> Result<Region, Error> {
        let file = NvdimmFile::open(path, ClaimKind::Shared, self.namespace.label_size())?;
        let mut region = Region::describe(&file);
        if self.kinds.dimms {
            region.dimm = Some(Dimm::describe(&file)?);
        }
        if self.wants_namespaces() {
            region.namespaces = Some(self.describe_namespaces(&file)?);
        }
        Ok(region)
    }

    fn describe_namespaces(&self, file: &NvdimmFile) -> Result<Vec<Listing>, Error> {
        let version = self.namespace.btt_version.map(Into::into);
        if let Some(wanted) = self.namespace.namespace.as_ref().filter(|wanted| *wanted != ALL) {
            let selection = nvdimm::Selection::Named(wanted.clone());
            let selection = namespace::resolve(file, &selection);
            return Ok(vec![Listing::describe(file, file.select(&selection)?, version)?]);
        }
        let describe = |namespace| Listing::describe(file, namespace, version);
        file.namespaces().iter().map(describe).collect()
    }

    /// Prints NVDIMMs and namespaces, then the regions that are asked for, or that there is something to say of.
    fn print(&self, mut regions: Vec<Region>) {
        regions.iter().filter_map(|region| region.dimm.as_ref()).for_each(Dimm::print);
        let namespaces = regions.iter_mut().filter_map(|region| region.namespaces.take());
        let listed: Vec<Listing> = namespaces.flatten().collect();
        print_namespaces(&listed, self.verbose);
        let is_short = self.kinds.dimms && !self.kinds.namespaces;
        let worth_saying = |region: &&Region| {
            self.kinds.regions || !is_short && (self.verbose || region.namespace_count == 0)
        };
        regions.iter().filter(worth_saying).for_each(Region::print);
    }
}

/// The namespaces of all files.
fn listings(regions: Vec<Region>) -> Vec<Listing> {
    regions.into_iter().filter_map(|region| region.namespaces).flatten().collect()
}

impl Region {
    fn describe(file: &NvdimmFile) -> Region {
        let free = file.free_extents();
        Region {
            file: file.path().into(),
            size: file.data_size(),
            available_size: free.iter().map(|extent| extent.end - extent.start).sum(),
            max_available_extent: nvdimm::largest(&free, LINUX_ALIGNMENT),
            align: LINUX_ALIGNMENT,
            namespace_count: file.namespaces().len(),
            namespaces: None,
            dimm: None,
            lost_labels: file.lost().len(),
            labels: Labels::describe(file),
        }
    }

    fn print(&self) {
        say!(
            "{}: {} for namespaces, {} free, largest extent {}; {}",
            display(&self.file),
            Size(self.size),
            Size(self.available_size),
            Size(self.max_available_extent),
            dimm::labels_text(self.labels.as_ref(), self.lost_labels)
        );
    }
}

const HEADER: [&str; 9] =
    ["FILE", "NAMESPACE", "MODE", "SIZE", "SECTOR", "BTT", "HEALTH", "BACKING", "HELD BY"];

/// Prints one line per namespace, in columns, and what there is to say of it below.
fn print_namespaces(listed: &[Listing], verbose: bool) {
    if listed.is_empty() {
        return;
    }
    let rows: Vec<[String; HEADER.len()]> = listed.iter().map(row).collect();
    let lines = columns(&HEADER, &rows);
    say!("{}", lines[0]);
    for (line, namespace) in lines[1..].iter().zip(listed) {
        say!("{line}");
        if verbose {
            print_details(namespace);
        }
        if let Some(problem) = &namespace.problem {
            let check = if namespace.mode == "dax" { "dax check" } else { "check-namespace" };
            say!("  problem: {problem}; see nvdimmctl {check}");
        } else if namespace.mode == "raw" {
            say!("  raw: bytes as they are, whose sectors are not atomic");
        }
    }
}

fn row(namespace: &Listing) -> [String; HEADER.len()] {
    let dash = || "-".to_string();
    [
        display(&namespace.file),
        namespace.names(),
        namespace.mode.into(),
        Size(namespace.size).to_string(),
        namespace
            .sector_size
            .filter(|_| namespace.atomic_sectors)
            .map_or_else(dash, |size| size.to_string()),
        namespace.btt_version.clone().unwrap_or_else(dash),
        namespace.health.name().into(),
        namespace.backing.into(),
        namespace.holder.as_ref().map_or_else(dash, ToString::to_string),
    ]
}

fn print_details(namespace: &Listing) {
    let line = |name: &str, text: String| say!("  {name:11} {text}");
    if let Some(uuid) = &namespace.uuid {
        line("uuid", uuid.clone());
    }
    if let Some(uuid) = &namespace.raw_uuid {
        line("raw uuid", format!("{uuid}, by the label"));
    }
    line("raw size", format!("{} bytes from byte {} on", namespace.raw_size, namespace.start));
    line("size", format!("{} bytes", namespace.size));
    if let Some(map) = namespace.map {
        line("map", map.into());
    }
    if let Some(align) = namespace.align {
        line("align", Size(align).to_string());
    }
    if let Some(arenas) = namespace.arenas {
        line("arenas", arenas.to_string());
    }
    if let Some(label) = &namespace.label {
        let slot = match label.qemu_slot {
            Some(slot) => format!("QEMU's memory slot {slot}"),
            None if label.is_hidden => "no machine: Linux passes over it".into(),
            None => "another machine than QEMU's".into(),
        };
        line("label", format!("version {}, slot {}, for {slot}", label.version, label.slot));
    }
    line("durability", namespace.durability.into());
    if let Some([_, _, four, _, sixteen, _, most]) = namespace.largest_atomic {
        let [four, sixteen, most] = [four, sixteen, most].map(|size| Size(size.into()));
        let text = format!(
            "aligned writes of up to {four} with 4 queues, {sixteen} with 16, {most} with 64 (--atomic); across \
             power failures where the durability is dax or strict"
        );
        line("atomic", text);
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
