//! Options with which both programs name a namespace and how to read it.

use std::path::Path;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::size::Size;
use crate::btt::Version;
use crate::namespace::NamespaceOptions;
use crate::nvdimm::{LabelSize, Selection};
use crate::pmem::DurabilityRequest;

/// Stands for all namespaces of a file, as in ndctl, where a command can take several.
pub(super) const ALL: &str = "all";

/// Which namespace of a file, and how to find it.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct NamespaceArgs {
    /// The namespace, by device name (namespace0.0), name or uuid; not needed where there is only one
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Size of the label storage area at the end of the file, or 'none' [default: detected]
    #[arg(long, value_name = "SIZE")]
    pub label_size: Option<LabelSizeArg>,

    /// Version of the BTT; needed only where a file contains traces of both
    #[arg(long, value_name = "VERSION")]
    pub btt_version: Option<VersionArg>,
}

/// The namespace as ndctl takes it: after the file, without an option.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PositionalNamespace {
    /// The namespace, as with --namespace
    #[arg(value_name = "NAMESPACE", conflicts_with = "namespace")]
    wanted: Option<String>,
}

impl PositionalNamespace {
    /// Puts the namespace, if there is one, where `--namespace` would have put it.
    pub(super) fn move_into(&mut self, arguments: &mut NamespaceArgs) {
        if let Some(wanted) = self.wanted.take() {
            arguments.namespace = Some(wanted);
        }
    }
}

impl NamespaceArgs {
    /// The options for a namespace of the file `path`.
    #[must_use]
    pub(super) fn options(&self, path: &Path, durability: DurabilityRequest) -> NamespaceOptions {
        NamespaceOptions {
            path: path.into(),
            file: None,
            selection: self.selection(),
            label_size: self.label_size(),
            version: self.btt_version.map(Into::into),
            durability,
        }
    }

    /// The namespace that is meant.
    #[must_use]
    pub(super) fn selection(&self) -> Selection {
        self.namespace.clone().map_or(Selection::Only, Selection::Named)
    }

    /// Where the file's labels are.
    #[must_use]
    pub(super) fn label_size(&self) -> LabelSize {
        self.label_size.map(LabelSizeArg::get).unwrap_or_default()
    }
}

/// The value of `--label-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LabelSizeArg(LabelSize);

impl LabelSizeArg {
    /// Where the labels are.
    #[must_use]
    pub(super) fn get(self) -> LabelSize {
        self.0
    }
}

impl FromStr for LabelSizeArg {
    type Err = super::size::SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(LabelSizeArg(LabelSize::None));
        }
        text.parse().map(|Size(bytes)| LabelSizeArg(LabelSize::Bytes(bytes)))
    }
}

/// The value of `--btt-version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VersionArg {
    /// First arena at byte 4096: what Linux makes without labels, or with v1.1 labels
    #[value(name = "1.1")]
    V1_1,
    /// First arena at byte 0: what Linux makes with v1.2 labels
    #[value(name = "2.0")]
    V2_0,
}

impl From<VersionArg> for Version {
    fn from(version: VersionArg) -> Version {
        match version {
            VersionArg::V1_1 => Version::V1_1,
            VersionArg::V2_0 => Version::V2_0,
        }
    }
}
