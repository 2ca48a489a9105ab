//! Refuses DAX devices that several guests would have at the same time.
//!
//! The claim on the namespace keeps other processes from a region that one of them writes to. Within a
//! process, one open region serves all guests, so the devices are compared here, before any socket is
//! opened.

use std::sync::Arc;

use uuid::Uuid;

use super::devices::DeviceConfig;
use super::error::Error;
use super::windows::{OpenRegion, Regions, WindowConfig};

/// A DAX device, and the guest that is to have it.
struct Use<'a> {
    guest: &'a DeviceConfig,
    window: &'a WindowConfig,
    region: Arc<OpenRegion>,
    uuid: Uuid,
}

impl Use<'_> {
    /// Returns whether both are the same device for different guests, which not both may only read, and
    /// which not both allow.
    fn conflicts_with(&self, other: &Use<'_>) -> bool {
        let is_same = Arc::ptr_eq(&self.region, &other.region) && self.uuid == other.uuid;
        let is_written = !(self.window.read_only && other.window.read_only);
        let is_allowed = self.window.share_rw && other.window.share_rw;
        is_same && is_written && !is_allowed && !std::ptr::eq(self.guest, other.guest)
    }
}

/// Refuses a DAX device for two guests at the same time unless both can only read it, or both windows are
/// marked with [`share_rw`](WindowConfig::share_rw).
///
/// # Errors
///
/// [`Error::SharedDevice`]; or a region cannot be opened.
pub(super) fn refuse_sharing(
    devices: &[&DeviceConfig],
    regions: &mut Regions,
) -> Result<(), Error> {
    let mut uses: Vec<Use<'_>> = Vec::new();
    for guest in devices {
        for window in guest.windows() {
            let region = regions.open(&window.region)?;
            // A device that is not there is reported by what opens the window.
            let Ok(device) = region.region().device(&window.device) else { continue };
            let new = Use { guest, window, region, uuid: device.uuid };
            if let Some(first) = uses.iter().find(|other| new.conflicts_with(other)) {
                return Err(Error::SharedDevice {
                    device: window.device.clone(),
                    first: first.guest.socket().to_string(),
                    second: guest.socket().to_string(),
                });
            }
            uses.push(new);
        }
    }
    Ok(())
}
