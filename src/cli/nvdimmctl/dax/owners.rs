//! `dax owners`.

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::super::{Error, say_json};
use super::RegionArgs;
use crate::cli::output::{columns, say};
use crate::cli::size::Size;
use crate::dax::{OwnedBlock, OwnerInfo, PAGE_SIZE, Region};
use crate::namespace::NamespaceError;
use crate::nvdimm::{ClaimKind, Namespace};
use crate::pmem::Mapping;

/// List the applications that have pages of a namespace other than through a device, by uuid
#[derive(Debug, Args)]
pub(super) struct Owners {
    #[command(flatten)]
    region: RegionArgs,

    /// Also list every block that they have
    #[arg(short, long)]
    verbose: bool,

    /// Print JSON: an array of objects
    #[arg(short, long)]
    json: bool,
}

/// Free all pages of applications that are gone
///
/// 'dax owners' lists the owners. The next owner finds the pages zero.
#[derive(Debug, Args)]
pub(super) struct FreePages {
    #[command(flatten)]
    region: RegionArgs,

    /// The owners, by uuid; the pages of each are freed in one transaction, in this order
    #[arg(required = true)]
    owners: Vec<Uuid>,

    /// Free them although they contain data, which are lost
    #[arg(short, long)]
    force: bool,
}

/// An owner as it is listed.
#[derive(Debug, Serialize)]
struct ListedOwner {
    uuid: String,
    label: String,
    /// It is the allocator itself, whose pages are the journal's.
    allocator: bool,
    size: u64,
    blocks: Vec<ListedBlock>,
}

#[derive(Debug, Serialize)]
struct ListedBlock {
    /// Its first byte in the namespace.
    offset: u64,
    /// Its first byte in the file.
    start: u64,
    order: u32,
    size: u64,
}

const HEADER: [&str; 4] = ["OWNER", "SIZE", "BLOCKS", "LABEL"];

impl Owners {
    pub(super) fn run(&self) -> Result<(), Error> {
        let options = self.region.options();
        let (namespace, region) = options.look_at_region()?;
        let owners = region.owners().into_iter();
        let listed = owners.map(|owner| ListedOwner::describe(owner, &region, &namespace));
        let listed: Result<Vec<ListedOwner>, crate::dax::Error> = listed.collect();
        let listed =
            listed.map_err(|error| NamespaceError::region(&options.path, &namespace, error))?;
        if self.json {
            say_json(&listed)?;
        } else {
            self.print(&listed);
        }
        Ok(())
    }

    fn print(&self, listed: &[ListedOwner]) {
        let rows: Vec<[String; HEADER.len()]> = listed.iter().map(ListedOwner::row).collect();
        let lines = columns(&HEADER, &rows);
        let (header, lines) = lines.split_at(1);
        say!("{}", header[0]);
        for (line, owner) in lines.iter().zip(listed) {
            say!("{line}");
            for block in owner.blocks.iter().filter(|_| self.verbose) {
                let ListedBlock { offset, order, size, .. } = block;
                say!("  block       {} at byte {offset:#x}, order {order}", Size(*size));
            }
        }
    }
}

impl FreePages {
    pub(super) fn run(&self) -> Result<(), Error> {
        let open = self.region.open(ClaimKind::Exclusive)?;
        for owner in &self.owners {
            let blocks = open.region.pages_of(*owner).map_err(|error| open.error(error))?;
            let is_written = |block: &OwnedBlock| {
                let end = block.offset + (PAGE_SIZE << block.order);
                open.region.next_stored(block.offset) < end
            };
            if !self.force && blocks.iter().any(is_written) {
                let path = open.claim.path().into();
                return Err(Error::PagesHoldData { path, owner: *owner });
            }
        }
        for owner in &self.owners {
            let blocks = open.region.free_all(*owner).map_err(|error| open.error(error))?;
            let size = Size(blocks.iter().map(|block| PAGE_SIZE << block.order).sum());
            say!("{}: the pages of {owner} are free: {size}", self.region.file.display());
        }
        Ok(())
    }
}

impl ListedOwner {
    fn describe(
        owner: OwnerInfo,
        region: &Region<Mapping>,
        namespace: &Namespace,
    ) -> Result<ListedOwner, crate::dax::Error> {
        let blocks = region.pages_of(owner.uuid)?.into_iter();
        let blocks = blocks.map(|block| ListedBlock {
            offset: block.offset,
            start: namespace.range.start + block.offset,
            order: block.order,
            size: PAGE_SIZE << block.order,
        });
        Ok(ListedOwner {
            uuid: owner.uuid.to_string(),
            label: owner.label,
            allocator: owner.is_allocator,
            size: owner.size,
            blocks: blocks.collect(),
        })
    }

    fn row(&self) -> [String; HEADER.len()] {
        let Self { uuid, size, blocks, label, .. } = self;
        [uuid.clone(), Size(*size).to_string(), blocks.len().to_string(), label.clone()]
    }
}
