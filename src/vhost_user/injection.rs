//! A disk that lets the power fail, to show what its guest makes of it.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;

use log::warn;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use super::announce::{announce, title};
use super::backend::Backend;
use super::disk::{DiskConfig, OpenDisk};
use super::error::Error;
use super::server::{AnyServer, Server};
use super::socket::Endpoint;
use super::stop::Stop;
use super::windows::{Lend, Regions};
use crate::btt::MappedNamespace;
use crate::pmem::{MapError, Mapping, PersistentMemory, PowerFail, PowerFailure};
use crate::virtio::block::{Disk, Raw};

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injection {
    /// Let the power fail.
    pub power_fail: Option<PowerFailure>,
    /// Serve the namespace's bytes, as sectors of so many, and not the BTT's.
    pub raw: Option<u32>,
}

impl DiskConfig {
    /// A server of the disk, or of what is to be served instead. `stop` stops it.
    pub fn server(&self, regions: &mut Regions, stop: Stop) -> Result<Box<dyn AnyServer>, Error> {
        let Injection { power_fail, raw } = self.injection;
        if let Some(failure) = power_fail {
            let (mapped, endpoint) = self.map()?;
            let fails = |mapping| Ok(Arc::new(PowerFail::new(mapping, failure)?));
            let mapped = mapped.with_medium(fails)?;
            fail_on_signal(Arc::downgrade(&mapped.medium))
                .map_err(|source| Error::System { action: "cannot watch for SIGUSR1", source })?;
            warn!("{}: the power will fail, {failure}", self.namespace.path.display());
            return match raw {
                None => {
                    let OpenDisk { claim, backend, .. } = self.open_btt(mapped)?;
                    let backend = backend.with_windows(self.open_windows(&claim, regions)?);
                    Ok(Box::new(Server::new(backend, endpoint, stop)?))
                }
                Some(sector_size) => self.open_raw(mapped, sector_size, endpoint, stop),
            };
        }
        match raw {
            None => Ok(Box::new(self.open(regions, stop)?)),
            Some(sector_size) => {
                let (mapped, endpoint) = self.map()?;
                self.open_raw(mapped, sector_size, endpoint, stop)
            }
        }
    }

    /// A server of the bytes of a namespace.
    fn open_raw<M: PersistentMemory + 'static>(
        &self,
        mapped: MappedNamespace<M>,
        sector_size: u32,
        endpoint: Endpoint,
        stop: Stop,
    ) -> Result<Box<dyn AnyServer>, Error> {
        let MappedNamespace { claim, medium, .. } = mapped;
        let (raw, queues) = Raw::open(medium, sector_size, self.queues.into());
        let device = self.device(&*raw, claim.namespace().uuid);
        warn!("{}: the raw bytes are served: sectors are not atomic", claim.path().display());
        announce(&claim, &device, (*raw).durability());
        let backend = Backend::new(&title(&claim), device, queues).polling(self.poll);
        Ok(Box::new(Server::new(backend, endpoint, stop)?))
    }
}

impl Injection {
    /// The medium of a region: `mapping`, or that with a power that fails; and how its file is lent.
    pub(super) fn medium(
        &self,
        mapping: Mapping,
    ) -> Result<(Arc<dyn PersistentMemory>, Lend), MapError> {
        let Some(failure) = self.power_fail else {
            let medium = Arc::new(mapping);
            return Ok((medium.clone(), Box::new(move |protection| medium.lend(protection))));
        };
        let medium = Arc::new(PowerFail::new(mapping, failure)?);
        fail_on_signal(Arc::downgrade(&medium))
            .map_err(|source| MapError::System { call: "watch for SIGUSR1", source })?;
        Ok((medium.clone(), Box::new(move |protection| medium.lend(protection))))
    }
}

/// Lets the power fail at SIGUSR1.
fn fail_on_signal(medium: Weak<PowerFail>) -> io::Result<()> {
    let mut signals = Signals::new([SIGUSR1])?;
    thread::Builder::new()
        .name("power-switch".into())
        .spawn(move || {
            // Without a medium the daemon is about to end by itself, with nothing to lose.
            if signals.forever().next().is_some()
                && let Some(medium) = medium.upgrade()
            {
                medium.fail();
            }
        })
        .map(drop)
}
