//! `create` and `init-labels`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Error;
use crate::cli::escape::shell_path;
use crate::cli::output::say;
use crate::cli::size::Size;
use crate::namespace;
use crate::nvdimm::label::LabelVersion;
use crate::nvdimm::{self, InitOptions, LINUX_ALIGNMENT};
use crate::pmem::PAGE;

/// Smallest file without labels that is worth making, in bytes: it has room for a BTT of version 1.1, which
/// begins 4 KiB after the first byte of the namespace.
const LEAST_SIZE: u64 = 17 << 20;
/// Smallest room for namespaces with labels, in bytes: a BTT of version 2.0 fills it.
const LEAST_LABELLED_SIZE: u64 = 16 << 20;

/// Make a sparse NVDIMM file; with --label-size, one for several namespaces
///
/// Without labels, the whole file is one namespace. With labels, 'create-namespace' makes several. QEMU needs
/// to know the size of the labels: '-device nvdimm,label-size=SIZE'.
#[derive(Debug, Args)]
pub(super) struct CreateFile {
    /// The file; it must not exist yet
    file: PathBuf,

    /// Room for namespaces, a multiple of 4 KiB; with labels, of the alignment
    #[arg(short, long)]
    size: Size,

    /// Size of the label storage area, in addition to --size: 128K (QEMU's minimum) to 16M
    #[arg(long, value_name = "SIZE")]
    label_size: Option<Size>,

    /// Alignment of the size if there are labels; Linux requires 16M [default: 16M]
    #[arg(short, long, value_name = "SIZE", value_parser = alignment, requires = "label_size")]
    align: Option<u64>,

    /// Permissions of the file, in octal [default: 600]
    #[arg(long, value_name = "OCTAL", value_parser = permissions)]
    mode: Option<u32>,
}

/// Make a label storage area at the end of an existing file, as 'ndctl init-labels' does
///
/// All namespaces of the file are lost, and a disk that fills a file without labels loses its end. Without
/// --force, a file that contains data is refused.
#[derive(Debug, Args)]
pub(super) struct InitLabels {
    /// The NVDIMM file
    file: PathBuf,

    /// Size of the area: 128K (QEMU's minimum) to 16M [default: that of the existing area, or 128K]
    #[arg(long, value_name = "SIZE")]
    label_size: Option<Size>,

    /// Version of the labels
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "1.2")]
    label_version: LabelVersionArg,

    /// Discard the namespaces and data that are there
    #[arg(short, long)]
    force: bool,
}

/// The value of `--label-version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LabelVersionArg {
    /// Labels of 128 bytes, for systems that support no others
    #[value(name = "1.1")]
    V1_1,
    /// Labels of 256 bytes, with checksums
    #[value(name = "1.2")]
    V1_2,
}

impl From<LabelVersionArg> for LabelVersion {
    fn from(version: LabelVersionArg) -> LabelVersion {
        match version {
            LabelVersionArg::V1_1 => LabelVersion::V1_1,
            LabelVersionArg::V1_2 => LabelVersion::V1_2,
        }
    }
}

/// The value of `--align`.
pub(super) fn alignment(text: &str) -> Result<u64, String> {
    let Size(bytes) = text.parse().map_err(|error: crate::cli::SizeError| error.to_string())?;
    if bytes.is_power_of_two() && bytes >= PAGE {
        Ok(bytes)
    } else {
        Err("not a power of two of at least 4 KiB".into())
    }
}

/// The value of `--mode`, of a file that is made.
pub(super) fn permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "not permissions in octal, as 640".into())
}

impl CreateFile {
    pub(super) fn run(&self) -> Result<(), Error> {
        let bad = |reason| Err(Error::BadSize { size: self.size.0, reason });
        match self.label_size {
            None if self.size.0 < LEAST_SIZE => {
                return bad(
                    "a namespace with atomic sectors needs 17 MiB at least, without labels",
                );
            }
            Some(_) if self.size.0 < LEAST_LABELLED_SIZE => {
                return bad("a namespace with atomic sectors needs 16 MiB at least");
            }
            _ => {}
        }
        let (alignment, by) = match self.label_size {
            Some(_) => (self.align.unwrap_or(LINUX_ALIGNMENT), "see --align"),
            None => (PAGE, "a page"),
        };
        if !self.size.0.is_multiple_of(alignment) {
            return Err(Error::MisalignedSize { size: self.size.0, alignment, by });
        }
        nvdimm::create_file(
            &self.file,
            self.size.0,
            self.label_size.map(|size| size.0),
            self.mode,
        )?;
        let file = self.file.display();
        match self.label_size {
            Some(labels) => say!("{file}: created, {}, and {labels} of labels", self.size),
            None => say!("{file}: created, {}", self.size),
        }
        say!("next: nvdimmctl create-namespace {}", shell_path(&self.file));
        Ok(())
    }
}

impl InitLabels {
    pub(super) fn run(&self) -> Result<(), Error> {
        let options = InitOptions {
            size: self.label_size.map(|size| size.0),
            version: self.label_version.into(),
            force: self.force,
        };
        let made = namespace::init_labels(&self.file, &options)?;
        let file = self.file.display();
        say!(
            "{file}: {} of labels initialized: version {}, {} slots{}",
            Size(made.size),
            options.version,
            made.slots,
            match made.given_up {
                0 => String::new(),
                count => format!("; {count} namespaces were removed"),
            }
        );
        say!("next: nvdimmctl create-namespace {}", shell_path(&self.file));
        Ok(())
    }
}
