//! A disk that lets the power fail, to show what its guest makes of it.

use std::sync::{Arc, Weak};
use std::thread;

use log::warn;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use super::backend::Backend;
use super::disk::{DiskConfig, announce};
use super::error::Error;
use super::server::Server;
use super::socket::Endpoint;
use super::stop::Stop;
use crate::btt::MappedNamespace;
use crate::pmem::{PersistentMemory, PowerFail, PowerFailure};
use crate::virtio::block::{Disk, Raw, RawQueue};

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injection {
    /// Let the power fail.
    pub power_fail: Option<PowerFailure>,
    /// Serve the namespace's bytes, as sectors of so many, and not the BTT's.
    pub raw: Option<u32>,
}

impl DiskConfig {
    /// Opens the disk and serves it until stopped, or until the power fails.
    pub fn serve(&self, stop: Stop) -> Result<(), Error> {
        let Some(failure) = self.injection.power_fail else {
            return match self.injection.raw {
                None => self.open(stop)?.run(),
                Some(sector_size) => {
                    let (mapped, endpoint) = self.map()?;
                    self.open_raw(mapped, sector_size, endpoint, stop)?.run()
                }
            };
        };
        let (mapped, endpoint) = self.map()?;
        let mapped =
            mapped.with_medium(|mapping| Ok(Arc::new(PowerFail::new(mapping, failure)?)))?;
        fail_on_signal(Arc::downgrade(&mapped.medium))?;
        warn!("the power will fail, {failure}");
        match self.injection.raw {
            None => self.open_btt(mapped, endpoint, stop)?.run(),
            Some(sector_size) => self.open_raw(mapped, sector_size, endpoint, stop)?.run(),
        }
    }

    /// A server of the bytes of a namespace.
    fn open_raw<M: PersistentMemory + 'static>(
        &self,
        mapped: MappedNamespace<M>,
        sector_size: u32,
        endpoint: Endpoint,
        stop: Stop,
    ) -> Result<Server<RawQueue<M>>, Error> {
        let MappedNamespace { claim, medium, .. } = mapped;
        let (raw, queues) = Raw::open(medium, sector_size, self.queues.into());
        let device = self.device(&*raw, claim.namespace().uuid);
        warn!("these are the namespace's raw bytes: sectors are not atomic");
        announce(&claim, &device, (*raw).durability());
        Server::new(Backend::new(device, queues), endpoint, stop)
    }
}

/// Lets the power fail at SIGUSR1.
fn fail_on_signal(medium: Weak<PowerFail>) -> Result<(), Error> {
    let fails = |source| Error::System { action: "cannot watch for SIGUSR1", source };
    let mut signals = Signals::new([SIGUSR1]).map_err(fails)?;
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
        .map_err(fails)?;
    Ok(())
}
