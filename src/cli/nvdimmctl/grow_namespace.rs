//! `grow-namespace`.

use std::path::PathBuf;

use clap::Args;

use super::Error;
use crate::cli::name::{NamespaceArgs, PositionalNamespace};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::namespace::{self, Contents};
use crate::pmem::DurabilityRequest;

/// Make a namespace larger: its disk, or in dax mode the memory for its devices, grows by the bytes that are
/// free behind it
///
/// Nothing that is there is moved or lost, and a power failure leaves the old size or the new one.
/// It takes 16 MiB at least to make the disk larger. In dax mode, nobody may hold the namespace, or a device of
/// it.
///
/// A daemon that serves the namespace lets the disk grow itself, before the next frontend connects;
/// the one that is connected keeps the size that it knows, and the daemon does not tell it of another.
/// QEMU reads the size when the device is plugged in, and not when it reconnects, so its guest sees the
/// new one when QEMU is started again, or device and chardev are removed and added again.
#[derive(Debug, Args)]
pub struct GrowNamespace {
    /// The NVDIMM file
    file: PathBuf,

    #[command(flatten)]
    positional: PositionalNamespace,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Its new size in all, labels not counted; otherwise all that is free behind it
    #[arg(short, long)]
    size: Option<Size>,

    /// Write over a BTT in the free bytes, that of a namespace whose label was lost
    #[arg(short, long)]
    force: bool,
}

impl GrowNamespace {
    /// Takes a namespace that was given without an option for one that was given with it.
    pub(super) fn place_namespace(&mut self) {
        self.positional.move_into(&mut self.namespace);
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let options = self.namespace.options(&self.file, DurabilityRequest::Strict);
        let progress = Progress::new("clearing the map", None);
        let report = |done, total| progress.set(done, total);
        let grown =
            namespace::grow_namespace(&options, self.size.map(|size| size.0), self.force, report)?;
        drop(progress);
        let (file, name) = (self.file.display(), grown.namespace.device_name());
        let size = Size(grown.namespace.size());
        match grown.contents {
            Contents::Grown(growth) => say!(
                "{file}: {name} has {size} now, and {} sectors where it had {}",
                growth.new_sectors,
                growth.old_sectors
            ),
            Contents::Full => say!("{file}: {name} has {size}, and its disk fills it"),
            Contents::Region(growth) => say!(
                "{file}: {name} has {size} now, and its devices {} where they had {}",
                Size(growth.new_size),
                Size(growth.old_size)
            ),
            Contents::Raw => say!("{file}: {name} has {size} now"),
            Contents::Held(holder) => say!(
                "{file}: {name} has {size} now; held by {holder}: a daemon that serves it for writing \
                 lets the disk grow before its next connection, otherwise it grows by the same command \
                 once nobody holds it"
            ),
        }
        Ok(())
    }
}
