//! `dax list`.

use clap::Args;

use super::super::Error;
use super::super::json::JsonArgs;
use super::RegionArgs;
use super::listing::{Extents, ListedDevice, ListedExtent, ListedRegion};
use crate::cli::output::{columns, say};
use crate::cli::size::Size;
use crate::dax::PAGE_SIZE;
use crate::nvdimm::{ClaimKind, NvdimmFile};

/// List the devices of a namespace, and its free space; also while a process holds it
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    region: RegionArgs,

    /// Also show uuids, offsets in the file, and the free extents
    #[arg(short, long)]
    verbose: bool,

    /// List the devices only; in JSON, an array
    #[arg(short = 'D', long, conflicts_with = "regions")]
    devices: bool,

    /// List the namespace only, as daxctl lists a region
    #[arg(short = 'R', long)]
    regions: bool,

    #[command(flatten)]
    json: JsonArgs,
}

const HEADER: [&str; 6] = ["DEVICE", "SIZE", "ALIGN", "EXTENTS", "CONTIGUOUS", "LABEL"];

impl List {
    pub(super) fn run(&self) -> Result<(), Error> {
        let options = self.region.options();
        let (namespace, region) = options.look_at_region()?;
        let file = NvdimmFile::open(&options.path, ClaimKind::Shared, options.label_size)?;
        let mut listed = ListedRegion::describe(&file, &namespace, &region);
        if self.regions {
            listed.devices = None;
        }
        match (self.json.is_wanted(), self.devices) {
            (true, true) => self.json.say(&listed.devices.unwrap_or_default())?,
            (true, false) => self.json.say(&listed)?,
            (false, _) => self.print(&listed),
        }
        Ok(())
    }

    fn print(&self, listed: &ListedRegion) {
        let devices = listed.devices.as_deref().unwrap_or_default();
        let rows: Vec<[String; HEADER.len()]> = devices.iter().map(row).collect();
        let lines = columns(&HEADER, &rows);
        let (header, lines) = lines.split_at(1);
        if !lines.is_empty() {
            say!("{}", header[0]);
        }
        for (line, device) in lines.iter().zip(devices) {
            say!("{line}");
            if self.verbose {
                say!("  uuid        {}", device.uuid);
                device.mappings.iter().for_each(print_mapping);
            }
        }
        for device in devices.iter().filter(|device| device.is_misaligned()) {
            let (name, align) = (&device.name, Size(device.align));
            say!(
                "note: {name} is not aligned to {align} in the file, and cannot be mapped by pages of {align}: the \
                 region was made by an older version; a new namespace is aligned"
            );
        }
        if self.devices {
            return;
        }
        say!("{listed}");
        if self.verbose {
            say!("  uuid        {}", listed.uuid);
            say!("  free        {} in {}", Size(listed.free_size), Extents(listed.free.len()));
            listed.free.iter().for_each(print_mapping);
        }
    }
}

fn row(device: &ListedDevice) -> [String; HEADER.len()] {
    [
        device.name.clone(),
        Size(device.size).to_string(),
        Size(device.align).to_string(),
        device.mappings.len().to_string(),
        if device.contiguous { "yes" } else { "no" }.into(),
        if device.label.is_empty() { "-".into() } else { device.label.clone() },
    ]
}

fn print_mapping(mapping: &ListedExtent) {
    let ListedExtent { page_offset, start, size, .. } = mapping;
    let offset = page_offset.map_or_else(String::new, |page| format!("{:#x}: ", page * PAGE_SIZE));
    say!("  extent      {offset}{} from byte {start:#x} of the file on", Size(*size));
}
