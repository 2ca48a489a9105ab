//! Namespaces of an NVDIMM file with what is in them: a BTT, a DAX region, or bytes.
//!
//! `btt` and `dax` know media, `nvdimm` knows labels; here they come together. Making and destroying a
//! namespace, mapping what is in one, growing it, and finding one whose label was lost.

#![forbid(unsafe_code)]

mod copy;
mod error;
mod grow;
mod labels;
mod lost;
mod make;
mod mapped;
mod options;
mod probe;
pub mod region;
mod zero_runs;

pub use copy::{CopyError, Original, Reflink};
pub use error::NamespaceError;
pub use grow::{Contents, Grown, grow_claimed, grow_namespace};
pub use labels::expected_version;
pub use lost::{Orphan, restore_label};
pub use make::{
    Made, Mode, Provision, create, create_namespace, destroy_namespace, edit_labels, init_labels,
    reconfigure_namespace, refuse_stray_labels,
};
pub use mapped::{Atomic, MappedNamespace, SeenNamespace, resolve};
pub use options::NamespaceOptions;
pub use probe::{Signature, erase, find_region, probe};
pub use zero_runs::zero_runs;
