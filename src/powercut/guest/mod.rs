//! The initramfs of a small guest: busybox, kernel modules, and a user's programs.
//!
//! * [`Archive`] is an initramfs, in the "newc" format of cpio that the kernel unpacks;
//! * [`Initramfs`] says what is in it, and makes it.

mod archive;
mod initramfs;
mod modules;
mod programs;

pub use archive::Archive;
pub use initramfs::{GuestError, Initramfs};
