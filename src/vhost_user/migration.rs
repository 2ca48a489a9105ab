//! The operations of a session that are for migration: the log of what is stored in guest memory.

use std::fs::File;
use std::os::fd::OwnedFd;

use log::Level;

use super::protocol::request::LogRange;
use super::session::Session;
use crate::pmem::{GuestRegionError, LogBitmap};

/// Why what is stored in guest memory cannot be logged. A guest that is migrated nevertheless would lose
/// some of it, so the connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The bitmap cannot be mapped.
    #[error("cannot map it")]
    Map(#[source] GuestRegionError),
    /// There are pages of guest memory without a bit.
    #[error("the log of a migration is too small: guest memory ends at {end:#x}")]
    TooSmall {
        /// Guest-physical address after the last.
        end: u64,
    },
}

impl Session<'_> {
    /// Returns `feature` if the device can be migrated. One with windows cannot: what the guest stores
    /// through them is in no log.
    pub(super) fn if_migratable(&self, feature: u64) -> u64 {
        if self.device.windows().is_empty() { feature } else { 0 }
    }

    /// Takes another bitmap to log in; no bit is set in the one before any more.
    pub(super) fn set_log(&self, range: LogRange, file: OwnedFd) -> Result<(), LogError> {
        let bitmap = LogBitmap::map(File::from(file), range.offset, range.size);
        let bitmap = bitmap.map_err(LogError::Map)?;
        let end = self.memory.end();
        if !bitmap.covers(end) {
            return Err(LogError::TooSmall { end });
        }
        self.memory.log().replace(bitmap);
        Ok(())
    }

    /// Switches the log on or off.
    pub(super) fn switch_log(&self, is_wanted: bool) {
        let log = self.memory.log();
        let was_on = log.is_on();
        if was_on == log.switch(is_wanted) {
            return;
        }
        // All stores are made with a ring's lock held: the ones that have not noticed are over with it.
        self.rings.iter().for_each(|ring| drop(ring.lock()));
        let done = if was_on { "not logged any more" } else { "logged, for a migration" };
        self.device.log().line(Level::Info, &format_args!("writes to guest memory are {done}"));
    }

    /// Returns an error if there are stores that cannot be logged.
    pub(super) fn check_log(&self) -> Result<(), LogError> {
        let (log, end) = (self.memory.log(), self.memory.end());
        if log.is_on() && !log.covers(end) { Err(LogError::TooSmall { end }) } else { Ok(()) }
    }
}
