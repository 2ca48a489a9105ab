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

/// Extend a namespace, and the disk or DAX region in it, by the free bytes that follow it
///
/// No data are moved or lost, and a power failure leaves the old size or the new one. A disk grows by at
/// least 16 MiB. In dax mode, no process may hold the namespace or one of its devices.
///
/// A daemon that serves the namespace extends the disk before the next frontend connects. A connected
/// frontend keeps the old size. QEMU reads the size when the device is plugged in, not when it reconnects:
/// its guest sees the new size after QEMU was restarted, or after the device and its chardev were removed and
/// added again.
#[derive(Debug, Args)]
pub(super) struct GrowNamespace {
    /// The NVDIMM file
    file: PathBuf,

    #[command(flatten)]
    positional: PositionalNamespace,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Its new total size, without labels [default: all free bytes that follow it]
    #[arg(short, long)]
    size: Option<Size>,

    /// Overwrite a BTT in the free bytes: that of a namespace whose label was lost
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
                 extends the disk before its next connection; otherwise repeat the command when no \
                 process holds it"
            ),
        }
        Ok(())
    }
}
