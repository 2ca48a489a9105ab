//! The file as an NVDIMM: label storage area, namespaces, and claims on them.
//!
//! ```text
//! 0                                                    S − L               S
//! | namespaces, where their labels say                | label storage area |
//! ```
//!
//! A file without a label storage area is one namespace, `namespace0.0`. The same file can be
//! attached to QEMU as an NVDIMM device, and Linux then sees the same namespaces. Facts:
//! `drivers/nvdimm/label.c` of Linux; the UEFI specification, chapter "NVDIMM Label Protocol".

#![forbid(unsafe_code)]

mod claim;
mod content;
mod editor;
mod error;
mod file;
mod holder;
mod init;
pub mod label;
mod label_reader;
mod lock;
mod lost;
mod namespace;
mod new_file;
mod pfn;
mod renewal;
mod space;
mod stray;
#[cfg(test)]
mod tests;

pub use claim::Claim;
pub use content::{Content, HEAD_SIZE, first_stored, first_stored_from};
pub use editor::{LabelEditor, NewNamespace, Place, Reservation};
pub use error::Error;
pub use file::{LabelSize, NvdimmFile};
pub use holder::Holder;
pub use init::{
    InitOptions, Initialized, create_file, grow_file, grow_open_file, init_labels, label_new_file,
};
pub use lock::{ClaimKind, is_locked};
pub use lost::LostLabel;
pub use namespace::{Abstraction, Namespace, Selection};
pub use new_file::{NewFile, unnamed};
pub use pfn::PfnInfo;
pub use space::{LINUX_ALIGNMENT, largest};
pub use stray::StrayLabels;
