//! `inspect`.

mod bar;
mod btt_drawing;
mod drawing;
mod region;
mod region_drawing;
mod svg;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::btt_drawing::Btt;
use self::drawing::{Contents, Inside};
use self::region::Region;
use super::create_file::permissions;
use super::{Error, io_error};
use crate::btt::check::{self, ArenaReport, CheckOptions, LaneCounts, MapCounts, Report};
use crate::btt::flog::LogLayout;
use crate::btt::{FoundArena, Geometry, LaneState, largest_group};
use crate::cli::name::{NamespaceArgs, PositionalNamespace};
use crate::cli::one_line;
use crate::cli::output::{self, say};
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::namespace::{NamespaceError, NamespaceOptions};
use crate::nvdimm::{ClaimKind, Namespace, NewFile, NvdimmFile, Selection};
use crate::pmem::{DurabilityRequest, Mapping};

/// Show the structure of a namespace: arenas (as Linux shows them in debugfs), lanes and map of a disk; or
/// journal, metadata, devices and free space of a DAX region
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The NVDIMM file
    file: PathBuf,

    #[command(flatten)]
    positional: PositionalNamespace,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// List every lane
    #[arg(long)]
    lanes: bool,

    /// Print JSON: an object
    #[arg(short, long)]
    json: bool,

    /// Draw the file to scale, with all namespaces or the one named, into the new file OUT or to standard
    /// output
    #[arg(long, value_name = "OUT", num_args = 0..=1, default_missing_value = "-")]
    #[arg(conflicts_with_all = ["json", "lanes"])]
    svg: Option<PathBuf>,

    /// Replace OUT if it exists
    #[arg(short, long, requires = "svg")]
    force: bool,

    /// Permissions of OUT, in octal [default: 600]
    #[arg(long, value_name = "OCTAL", value_parser = permissions, requires = "svg")]
    mode: Option<u32>,
}

/// What is shown of a namespace.
#[derive(Debug, Serialize)]
struct Inspected {
    #[serde(serialize_with = "super::path_to_json")]
    file: PathBuf,
    dev: String,
    uuid: String,
    parent_uuid: String,
    btt_version: String,
    sector_size: u32,
    sectors: u64,
    arenas: Vec<InspectedArena>,
}

/// What is shown of an arena. The names up to `flags` are those in debugfs, and so are the values:
/// offsets are counted from the start of the first arena.
#[derive(Debug, Serialize)]
struct InspectedArena {
    size: u64,
    external_lba_start: u64,
    internal_nlba: u32,
    internal_lbasize: u32,
    external_nlba: u32,
    external_lbasize: u32,
    nfree: u32,
    version_major: u16,
    version_minor: u16,
    nextoff: u64,
    infooff: u64,
    dataoff: u64,
    mapoff: u64,
    logoff: u64,
    info2off: u64,
    flags: u32,
    /// Offset of the arena in the namespace.
    start: u64,
    /// Which two of the four places of a lane hold its entries.
    log_places: [usize; 2],
    lane_states: LaneCounts,
    map: MapCounts,
    /// Bytes between the last block and the map.
    slack: u64,
    /// Records there of writes of several sectors that are all or nothing.
    group_records: u32,
    /// The largest of such writes, in bytes, with 1, 2, 4 and so on up to 64 queues.
    largest_atomic: [u32; 7],
    #[serde(skip_serializing_if = "Option::is_none")]
    lanes: Option<Vec<InspectedLane>>,
}

#[derive(Debug, Serialize)]
struct InspectedLane {
    lane: u32,
    free: u32,
    lba: u32,
    old_map: u32,
    new_map: u32,
    seq: u32,
}

impl Inspect {
    /// Takes a namespace that was given without an option for one that was given with it.
    pub(super) fn place_namespace(&mut self) {
        self.positional.move_into(&mut self.namespace);
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        if let Some(out) = &self.svg {
            return self.draw(out);
        }
        if let Some(region) = self.region()? {
            if self.lanes {
                return Err(Error::Usage("there are no lanes in dax mode"));
            }
            let inspected = region.describe(self.file.clone());
            if self.json {
                super::say_json(&inspected)?;
            } else {
                inspected.print();
            }
            return Ok(());
        }
        let options = self.namespace.options(&self.file, DurabilityRequest::PageCache);
        let mapped = options.map(ClaimKind::Shared)?;
        let found = mapped.find()?;
        let progress = Progress::new("reading", None);
        let check_options = CheckOptions { version: mapped.version, ..CheckOptions::default() };
        let report = check::check(&mapped.medium, &check_options, &mut |done, total| {
            progress.set(done, total);
        });
        drop(progress);
        let inspected = self.describe(&mapped.claim.namespace().device_name(), &found, &report);
        let mut inspected = inspected;
        if self.lanes {
            inspected
                .list_lanes(&mapped.medium, &found)
                .map_err(|source| Error::Sectors { path: self.file.clone(), source })?;
        }
        if self.json {
            super::say_json(&inspected)?;
        } else {
            inspected.print();
        }
        Ok(())
    }

    /// The region that is meant, if the namespace is in dax mode.
    fn region(&self) -> Result<Option<Region>, Error> {
        let file = NvdimmFile::open(&self.file, ClaimKind::Shared, self.namespace.label_size())?;
        let selection = crate::namespace::resolve(&file, &self.namespace.selection());
        let namespace = file.select(&selection)?;
        match crate::namespace::region::find_in(&file, namespace) {
            Some(_) => self.read_region(namespace).map(Some),
            None => Ok(None),
        }
    }

    fn read_region(&self, namespace: &Namespace) -> Result<Region, Error> {
        Region::read(&NamespaceOptions::new(
            self.file.clone(),
            Selection::Named(namespace.device_name()),
            self.namespace.label_size(),
        ))
    }

    /// Draws the file into `out`; `-` is standard output.
    fn draw(&self, out: &Path) -> Result<(), Error> {
        let file = NvdimmFile::open(&self.file, ClaimKind::Shared, self.namespace.label_size())?;
        let to_file = if out == Path::new("-") { None } else { Some(self.new_file(out, &file)?) };
        let namespaces = match &self.namespace.namespace {
            Some(_) => vec![file.select(&self.namespace.selection())?.clone()],
            None => file.namespaces().to_vec(),
        };
        let look = |namespace: Namespace| {
            let contents = self.look_inside(&file, &namespace).map_err(|error| {
                let has_none = match &error {
                    Error::Namespace(NamespaceError::NotSector { .. }) => true,
                    Error::Namespace(NamespaceError::Btt { source, .. }) => {
                        **source == crate::btt::Error::NotFound
                    }
                    _ => false,
                };
                let mode = namespace.abstraction.mode();
                if has_none { format!("{mode} mode: no BTT in it") } else { one_line(&error) }
            });
            Inside { namespace, contents }
        };
        let insides: Vec<Inside> = namespaces.into_iter().map(look).collect();
        let drawn = drawing::draw(&self.file, &file, &insides);
        match to_file {
            None => output::document(&drawn),
            Some(new) => {
                let fails = |source| Error::NewFile { path: out.into(), source };
                new.file().write_all(drawn.as_bytes()).map_err(fails)?;
                if self.force { new.replace() } else { new.publish() }.map_err(fails)?;
                say!("{}: drawn", out.display());
            }
        }
        Ok(())
    }

    /// The file for a drawing of `inspected`; it is not that file, by whatever name.
    fn new_file(&self, out: &Path, inspected: &NvdimmFile) -> Result<NewFile, Error> {
        let fails = |source| Error::NewFile { path: out.into(), source };
        let Ok(existing) = fs::metadata(out) else {
            return NewFile::create(out, self.mode).map_err(fails);
        };
        let input = inspected.file().metadata().map_err(io_error("examine the file"))?;
        if (existing.dev(), existing.ino()) == (input.dev(), input.ino()) {
            return Err(Error::DrawingOverInput { path: out.into() });
        }
        match (existing.is_file(), self.force) {
            (true, true) => NewFile::create_to_replace(out, self.mode).map_err(fails),
            (true, false) => Err(Error::DrawingExists { path: out.into() }),
            (false, _) => Err(fails(rustix::io::Errno::EXIST.into())),
        }
    }

    /// What a namespace holds, to be drawn.
    fn look_inside(&self, file: &NvdimmFile, namespace: &Namespace) -> Result<Contents, Error> {
        if crate::namespace::region::find_in(file, namespace).is_some() {
            return Ok(Contents::Region(Box::new(self.read_region(namespace)?)));
        }
        let named = NamespaceOptions {
            selection: Selection::Named(namespace.device_name()),
            ..self.namespace.options(&self.file, DurabilityRequest::PageCache)
        };
        let mapped = named.map(ClaimKind::Shared)?;
        let arenas = mapped.find()?;
        let progress = Progress::new("reading", None);
        let check_options = CheckOptions { version: mapped.version, ..CheckOptions::default() };
        let report = check::check(&mapped.medium, &check_options, &mut |done, total| {
            progress.set(done, total);
        });
        let usage = |arena| crate::btt::usage(&mapped.medium, arena, btt_drawing::PIECES).ok();
        let usages = arenas.iter().map(usage).collect();
        Ok(Contents::Btt(Box::new(Btt { arenas, usages, report })))
    }

    fn describe(&self, device: &str, found: &[FoundArena], report: &Report) -> Inspected {
        // A BTT has at least one arena, and all say the same of this.
        let info = &found[0].info;
        let first = found[0].start;
        let mut sectors = 0;
        let arenas = found
            .iter()
            .zip(&report.arenas)
            .map(|(arena, report)| {
                let described = InspectedArena::new(arena, report, first, sectors);
                sectors += u64::from(arena.info.geometry.external_nlba);
                described
            })
            .collect();
        Inspected {
            file: self.file.clone(),
            dev: device.into(),
            uuid: info.uuid.to_string(),
            parent_uuid: info.parent_uuid.to_string(),
            btt_version: info.version.to_string(),
            sector_size: info.geometry.lba_size.external(),
            sectors,
            arenas,
        }
    }
}

impl InspectedArena {
    fn new(
        arena: &FoundArena,
        report: &ArenaReport,
        first: u64,
        external_lba_start: u64,
    ) -> InspectedArena {
        let geometry: &Geometry = &arena.info.geometry;
        let (version_major, version_minor) = arena.info.version.numbers();
        let infooff = arena.start - first;
        InspectedArena {
            size: geometry.size(),
            external_lba_start,
            internal_nlba: geometry.internal_nlba,
            internal_lbasize: geometry.internal_lbasize,
            external_nlba: geometry.external_nlba,
            external_lbasize: geometry.lba_size.external(),
            nfree: geometry.nfree,
            version_major,
            version_minor,
            nextoff: geometry.nextoff,
            infooff,
            dataoff: infooff + geometry.dataoff,
            mapoff: infooff + geometry.mapoff,
            logoff: infooff + geometry.logoff,
            info2off: infooff + geometry.info2off,
            flags: u32::from(arena.info.error),
            start: arena.start,
            log_places: match report.layout {
                LogLayout::Standard => [0, 1],
                LogLayout::Old => [0, 2],
            },
            lane_states: report.lanes,
            map: report.map,
            slack: geometry.slack(),
            group_records: report.records,
            largest_atomic: std::array::from_fn(|power| largest_group(&[*geometry], 1 << power)),
            lanes: None,
        }
    }
}

impl From<LaneState> for InspectedLane {
    fn from(state: LaneState) -> InspectedLane {
        InspectedLane {
            lane: state.lane.0,
            free: state.free.0,
            lba: state.newest.lba,
            old_map: state.newest.old_map,
            new_map: state.newest.new_map,
            seq: state.newest.seq,
        }
    }
}

impl Inspected {
    fn list_lanes(
        &mut self,
        medium: &Mapping,
        found: &[FoundArena],
    ) -> Result<(), crate::btt::Error> {
        for (number, (arena, described)) in found.iter().zip(&mut self.arenas).enumerate() {
            let (_, lanes) = crate::btt::lanes(medium, number, arena)?;
            described.lanes = Some(lanes.into_iter().map(InspectedLane::from).collect());
        }
        Ok(())
    }

    fn print(&self) {
        say!("{}: {}, BTT {} {}", self.file.display(), self.dev, self.btt_version, self.uuid);
        say!(
            "  {} sectors of {} bytes in {} arenas; parent uuid {}",
            self.sectors,
            self.sector_size,
            self.arenas.len(),
            self.parent_uuid
        );
        for (number, arena) in self.arenas.iter().enumerate() {
            say!("arena {number}: {} at byte {}", Size(arena.size), arena.start);
            arena.print();
        }
    }
}

/// How many hundredths of `whole` a part is, rounded up; none of nothing.
fn percent(part: u64, whole: u64) -> u64 {
    (part * 100).div_ceil(whole.max(1))
}

impl InspectedArena {
    fn print(&self) {
        self.print_info();
        let LaneCounts { pristine, applied, pending, superseded, undecided } = self.lane_states;
        say!(
            "  lanes               {pristine} never used, {applied} applied, {superseded} \
             superseded, {pending} pending, {undecided} undecided; places {:?}",
            self.log_places
        );
        let MapCounts { never_written, data, zero, error, out_of_range, unreadable, .. } = self.map;
        say!(
            "  map                 {data} with data, {zero} zero, {error} with an error, \
             {never_written} never written, {out_of_range} out of range, {unreadable} unreadable"
        );
        let sizes = self.largest_atomic.map(|size| Size(size.into()).to_string()).join(", ");
        say!(
            "  groups              {} bytes for records, {} in use; --atomic up to {sizes} with 1, 2, 4, 8, \
             16, 32, 64 queues",
            self.slack,
            self.group_records
        );
        let out_of_order = self.map.out_of_order;
        say!(
            "  order               {out_of_order} of {data} sectors with data do not lie behind the one \
             before ({} %)",
            percent(out_of_order, data)
        );
        for lane in self.lanes.iter().flatten() {
            let InspectedLane { lane, free, lba, old_map, new_map, seq } = lane;
            say!(
                "  lane {lane:<5} free {free:<10} last write: lba {lba}, old {old_map:#x}, new \
                 {new_map:#x}, seq {seq}"
            );
        }
    }

    /// The fields of the info block.
    fn print_info(&self) {
        let numbers = [
            ("external_lba_start", self.external_lba_start),
            ("external_lbasize", self.external_lbasize.into()),
            ("external_nlba", self.external_nlba.into()),
            ("internal_lbasize", self.internal_lbasize.into()),
            ("internal_nlba", self.internal_nlba.into()),
            ("nfree", self.nfree.into()),
            ("nextoff", self.nextoff),
            ("infooff", self.infooff),
            ("dataoff", self.dataoff),
            ("mapoff", self.mapoff),
            ("logoff", self.logoff),
            ("info2off", self.info2off),
            ("flags", self.flags.into()),
        ];
        for (name, value) in numbers {
            say!("  {name:18}  {value}");
        }
    }
}
