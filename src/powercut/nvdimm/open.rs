//! Opens media whose power fails, and lets it fail at SIGUSR1.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;

use log::warn;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use super::{PowerFail, PowerFailure, Raw};
use crate::pmem::{MapError, Mapping, PersistentMemory, ShareFile};
use crate::vhost_user::{Error, MappedDisk, OpenMedium, Server};

/// Opens media whose power fails.
#[derive(Debug, Clone, Copy)]
pub struct FailingMedium {
    /// When the power fails, and what is left then.
    pub failure: PowerFailure,
    /// Serve the namespace's bytes as sectors of so many, and not the BTT.
    pub raw: Option<u32>,
}

impl FailingMedium {
    fn open(&self, mapping: Mapping) -> Result<Arc<PowerFail>, MapError> {
        let medium = Arc::new(PowerFail::new(mapping, self.failure)?);
        fail_on_signal(Arc::downgrade(&medium))
            .map_err(|source| MapError::System { call: "sigaction", source })?;
        Ok(medium)
    }
}

impl OpenMedium for FailingMedium {
    fn disk(&self, disk: MappedDisk<'_>) -> Result<Server, Error> {
        warn!("{}: the power will fail, {}", disk.path().display(), self.failure);
        let disk = disk.with_medium(|mapping| self.open(mapping))?;
        let Some(sector_size) = self.raw else { return disk.serve_btt() };
        warn!("{}: the raw bytes are served: sectors are not atomic", disk.path().display());
        disk.serve_instead(|medium, queues| Raw::open(medium, sector_size, queues))
    }

    fn region(&self, mapping: Mapping) -> Result<(Arc<dyn PersistentMemory>, ShareFile), MapError> {
        let medium = self.open(mapping)?;
        Ok((medium.clone(), Box::new(move |protection| medium.share_file(protection))))
    }
}

/// Lets the power fail at SIGUSR1.
fn fail_on_signal(medium: Weak<PowerFail>) -> io::Result<()> {
    let mut signals = Signals::new([SIGUSR1])?;
    thread::Builder::new()
        .name("power-switch".into())
        .spawn(move || {
            // Without a medium the process is about to end by itself, with nothing to lose.
            if signals.forever().next().is_some()
                && let Some(medium) = medium.upgrade()
            {
                medium.fail();
            }
        })
        .map(drop)
}
