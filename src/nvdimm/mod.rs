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
mod error;
mod file;
mod holder;
pub mod label;
mod namespace;

pub use claim::{Claim, ClaimKind};
pub use error::Error;
pub use file::{LabelSize, NvdimmFile};
pub use holder::Holder;
pub use namespace::{Abstraction, Namespace, Selection};
