//! `destroy-namespace` and `rename-namespace`.

use std::path::PathBuf;

use clap::Args;

use super::Error;
use crate::cli::name::{ALL, LabelSizeArg, NamespaceArgs};
use crate::cli::output::say;
use crate::cli::size::Size;
use crate::namespace;
use crate::nvdimm::label::LabelName;
use crate::nvdimm::{ClaimKind, LabelEditor, LabelSize, NvdimmFile, Selection};
use crate::pmem::DurabilityRequest;

/// Destroy a namespace, and free its bytes
///
/// In a file without labels the namespace remains, in raw mode. A namespace that contains data is destroyed
/// with --force only. A namespace that a process holds is never destroyed. Its bytes are given back to the
/// file system; on a device, the data stay until they are overwritten.
#[derive(Debug, Args)]
pub(super) struct DestroyNamespace {
    /// The NVDIMM file
    file: PathBuf,

    /// The namespace, by name, uuid or device name (device names change when a namespace is destroyed); 'all'
    /// for all of them
    namespace: String,

    /// Size of the label storage area at the end of the file, or 'none' [default: detected]
    #[arg(long, value_name = "SIZE")]
    label_size: Option<LabelSizeArg>,

    /// Destroy it although it contains data, which are lost
    #[arg(short, long)]
    force: bool,
}

/// Rename a namespace; its contents do not change
#[derive(Debug, Args)]
pub(super) struct RenameNamespace {
    /// The NVDIMM file
    file: PathBuf,

    /// The namespace, by name, uuid or device name
    namespace: String,

    /// Its new name, up to 63 bytes; '' for none
    #[arg(value_parser = LabelName::new)]
    name: LabelName,

    /// Size of the label storage area at the end of the file [default: detected]
    #[arg(long, value_name = "SIZE")]
    label_size: Option<LabelSizeArg>,
}

fn label_size(argument: Option<LabelSizeArg>) -> LabelSize {
    argument.map(LabelSizeArg::get).unwrap_or_default()
}

impl DestroyNamespace {
    pub(super) fn run(&self) -> Result<(), Error> {
        let size = label_size(self.label_size);
        let file = NvdimmFile::open(&self.file, ClaimKind::Exclusive, size)?;
        if file.labels().is_none() {
            drop(file);
            return self.in_whole_file();
        }
        drop(file);
        let mut editor = namespace::edit_labels(&self.file, size)?;
        for selection in self.selections(editor.file()) {
            self.destroy(&mut editor, &selection)?;
        }
        Ok(())
    }

    /// Returns what is to be destroyed. Namespaces are named by their uuids: device names change with each that
    /// is destroyed.
    fn selections(&self, file: &NvdimmFile) -> Vec<Selection> {
        if self.namespace != ALL || file.namespaces().iter().any(|namespace| namespace.goes_by(ALL))
        {
            return vec![Selection::Named(self.namespace.clone())];
        }
        let uuids = file.namespaces().iter().filter_map(|namespace| namespace.uuid);
        uuids.map(|uuid| Selection::Named(uuid.to_string())).collect()
    }

    fn destroy(&self, editor: &mut LabelEditor, selection: &Selection) -> Result<(), Error> {
        let gone = namespace::destroy_namespace(editor, selection, self.force)?;
        say!(
            "{}: destroyed {}{}: {} are free",
            self.file.display(),
            gone.device_name(),
            if gone.name.is_empty() { String::new() } else { format!(" {}", gone.name) },
            Size(gone.size()),
        );
        Ok(())
    }

    fn in_whole_file(&self) -> Result<(), Error> {
        let arguments = NamespaceArgs {
            namespace: Some(self.namespace.clone()).filter(|namespace| namespace != ALL),
            label_size: self.label_size,
            btt_version: None,
        };
        let options = arguments.options(&self.file, DurabilityRequest::Strict);
        let mapped = options.map(ClaimKind::Exclusive)?;
        mapped.empty(self.force)?;
        let name = mapped.claim.namespace().device_name();
        say!("{}: {name} is in raw mode now", self.file.display());
        Ok(())
    }
}

impl RenameNamespace {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut editor = namespace::edit_labels(&self.file, label_size(self.label_size))?;
        let named = Selection::Named(self.namespace.clone());
        let claim = editor.claim(&namespace::resolve(editor.file(), &named))?;
        editor.rename(&claim, self.name)?;
        let device = claim.namespace().device_name();
        match self.name.to_string().as_str() {
            "" => say!("{}: {device} has no name now", self.file.display()),
            name => say!("{}: {device} is named {name:?} now", self.file.display()),
        }
        Ok(())
    }
}
