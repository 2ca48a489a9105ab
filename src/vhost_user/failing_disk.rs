//! A disk that lets the power fail, or whose sectors are not atomic.

use std::sync::Arc;

use log::warn;

use super::announce::{announce, title};
use super::block::{BlockDevice, DiskConfig, OpenDisk};
use super::error::Error;
use super::injection::{Injection, fail_on_signal};
use super::server::Server;
use super::socket::Endpoint;
use super::stop::Stop;
use super::windows::Regions;
use crate::namespace::MappedNamespace;
use crate::pmem::{PersistentMemory, PowerFail};
use crate::virtio::block::{Disk, Raw};

impl DiskConfig {
    /// A server of the disk, or of what is to be served instead. `stop` stops it.
    pub fn server(&self, regions: &mut Regions, stop: Stop) -> Result<Server, Error> {
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
                    let OpenDisk { claim, device, .. } = self.open_btt(mapped)?;
                    let device = device.with_windows(self.open_windows(&claim, regions)?);
                    Ok(Server::new(device.into_device(), endpoint, stop))
                }
                Some(sector_size) => self.open_raw(mapped, sector_size, regions, endpoint, stop),
            };
        }
        match raw {
            None => self.open(regions, stop),
            Some(sector_size) => {
                let (mapped, endpoint) = self.map()?;
                self.open_raw(mapped, sector_size, regions, endpoint, stop)
            }
        }
    }

    /// A server of the bytes of a namespace.
    fn open_raw<M: PersistentMemory + 'static>(
        &self,
        mapped: MappedNamespace<M>,
        sector_size: u32,
        regions: &mut Regions,
        endpoint: Endpoint,
        stop: Stop,
    ) -> Result<Server, Error> {
        let MappedNamespace { claim, medium, .. } = mapped;
        let (raw, queues) = Raw::open(medium, sector_size, self.queues.into());
        let device = self.device(&*raw, claim.namespace().uuid);
        warn!("{}: the raw bytes are served: sectors are not atomic", claim.path().display());
        announce(&claim, &device, (*raw).durability());
        let device = BlockDevice::new(&title(&claim), device, queues).polling(self.poll);
        let device = device.with_windows(self.open_windows(&claim, regions)?);
        Ok(Server::new(device.into_device(), endpoint, stop))
    }
}
