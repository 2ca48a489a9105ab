//! The options of a window, and what the frontend gets.

use super::super::error::Error;
use super::region::{RegionConfig, Regions};
use super::window::Window;
use crate::pmem::Protection;

/// A window to a DAX device, as it is asked for.
#[derive(Debug, Clone)]
pub struct WindowConfig {
    /// Where the device is.
    pub region: RegionConfig,
    /// Name of the device.
    pub device: String,
    /// Bytes of the window; `None`: as many as the device has.
    pub reserve: Option<u64>,
    /// The guest can only read it.
    pub read_only: bool,
    /// The frontend may get a descriptor of the file although other guests have namespaces in it.
    pub expose_file: bool,
    /// Other guests may have the device at the same time although one of them can write to it.
    pub share_rw: bool,
}

impl WindowConfig {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// The region is not there, belongs to another process, or cannot be used; or there is no such device, or none
    /// of a size that can be mapped.
    pub fn open(&self, regions: &mut Regions) -> Result<Window, Error> {
        let protection = if self.read_only { Protection::ReadOnly } else { Protection::ReadWrite };
        Window::open(regions.open(&self.region)?, &self.device, protection, self.reserve)
    }

    /// The region, if the guest may write to it.
    #[must_use]
    pub fn written(&self) -> Option<&RegionConfig> {
        (!self.read_only).then_some(&self.region)
    }
}
