//! Serves several devices in one process, each at its own socket.

use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use log::error;

use super::block::DiskConfig;
use super::control::{Administration, BoundControl};
use super::error::Error;
use super::exposure::refuse_exposure;
use super::fleet::{Fleet, Member};
use super::medium::OpenMedium;
use super::pmem::PmemConfig;
use super::server::Server;
use super::sharing::refuse_sharing;
use super::socket::SocketSource;
use super::stop::Stop;
use super::windows::{OnlineResize, RegionConfig, Regions, WindowConfig};
use crate::error_chain::in_one_line;

/// A device to be served.
#[derive(Debug, Clone)]
pub enum DeviceConfig {
    /// A disk.
    Disk(DiskConfig),
    /// Persistent memory.
    Pmem(PmemConfig),
}

impl DeviceConfig {
    fn server(&self, regions: &mut Regions, stop: Stop) -> Result<Server, Error> {
        match self {
            DeviceConfig::Disk(disk) => disk.server(regions, stop),
            DeviceConfig::Pmem(pmem) => pmem.server(regions, stop),
        }
    }

    /// Has its media opened by `medium`.
    pub fn open_by(&mut self, medium: &Arc<dyn OpenMedium>) {
        let windows = match self {
            DeviceConfig::Disk(disk) => {
                disk.medium = medium.clone();
                &mut disk.windows[..]
            }
            DeviceConfig::Pmem(pmem) => std::slice::from_mut(&mut pmem.window),
        };
        for window in windows {
            window.region.medium = medium.clone();
        }
    }

    /// The DAX devices that its guest maps.
    pub(super) fn windows(&self) -> &[WindowConfig] {
        match self {
            DeviceConfig::Disk(disk) => &disk.windows,
            DeviceConfig::Pmem(pmem) => std::slice::from_ref(&pmem.window),
        }
    }

    /// Where its frontend connects.
    #[must_use]
    pub fn socket(&self) -> &SocketSource {
        match self {
            DeviceConfig::Disk(disk) => &disk.socket,
            DeviceConfig::Pmem(pmem) => &pmem.socket,
        }
    }

    /// As `DeviceConfig::socket`, to be changed.
    pub fn socket_mut(&mut self) -> &mut SocketSource {
        match self {
            DeviceConfig::Disk(disk) => &mut disk.socket,
            DeviceConfig::Pmem(pmem) => &mut pmem.socket,
        }
    }

    /// The regions that its guest may write to.
    fn written(&self) -> Vec<&RegionConfig> {
        self.windows().iter().filter_map(WindowConfig::written).collect()
    }
}

/// Devices that are open, and listen.
pub struct Devices {
    servers: Vec<Server>,
    /// Those of them that the administrator sees.
    fleet: Arc<Fleet>,
    /// Served as long as they are.
    control: Option<BoundControl>,
}

impl Devices {
    /// Opens devices, each with the handle that stops it, and a control socket at `control`. If one
    /// cannot be opened, none is. This starts no thread.
    pub fn open<'a>(
        devices: impl IntoIterator<Item = (&'a DeviceConfig, Stop)>,
        control: Option<PathBuf>,
    ) -> Result<Devices, Error> {
        let devices: Vec<_> = devices.into_iter().collect();
        let configs: Vec<&DeviceConfig> = devices.iter().map(|(config, _)| *config).collect();
        refuse_exposure(&configs)?;
        let mut regions = Regions::new(configs.iter().flat_map(|config| config.written()))?;
        refuse_sharing(&configs, &mut regions)?;
        let servers = devices.into_iter().map(|(config, stop)| config.server(&mut regions, stop));
        let servers = servers.collect::<Result<_, _>>()?;
        let (dax_devices, fleet) = (OnlineResize::new(regions), Arc::new(Fleet::default()));
        let administration = Administration { dax_devices, fleet: fleet.clone() };
        let control = control.map(|path| BoundControl::open(path, administration)).transpose()?;
        Ok(Devices { servers, fleet, control })
    }

    /// Devices that are served by `servers`, without a control socket.
    #[must_use]
    pub fn of(servers: Vec<Server>) -> Devices {
        Devices { servers, fleet: Arc::default(), control: None }
    }

    /// Number of devices.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Serves all of them until all are stopped.
    ///
    /// When this returns, every request that was taken off a ring is completed.
    ///
    /// # Errors
    ///
    /// One of them could not be served any more. That ends the others as little as it concerns them:
    /// they are other guests' devices.
    pub fn run(self) -> Result<(), Error> {
        let Devices { servers, fleet, control } = self;
        let mut servers: Vec<_> =
            servers.into_iter().map(|server| enlist(server, &fleet)).collect();
        let _control = control.map(BoundControl::serve).transpose()?;
        match servers.pop() {
            Some((only, member)) if servers.is_empty() => {
                return serve(only, member.as_ref(), &fleet);
            }
            last => servers.extend(last),
        }
        let (devices, fleet) = (servers.len(), &*fleet);
        let failed = thread::scope(|scope| {
            let running: Vec<_> = servers
                .into_iter()
                .map(|(server, member)| {
                    thread::Builder::new().name("device".into()).spawn_scoped(scope, move || {
                        serve_one_of_several(server, member.as_ref(), fleet)
                    })
                })
                .collect();
            let ended_well = |thread: io::Result<ScopedJoinHandle<'_, bool>>| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(error) => {
                    error!("cannot start a thread for a device: {error}");
                    false
                }
            };
            running.into_iter().map(ended_well).filter(|well| !well).count()
        });
        if failed == 0 { Ok(()) } else { Err(Error::Devices { failed, devices }) }
    }
}

/// Shows a device to the administrator.
fn enlist(mut server: Server, fleet: &Fleet) -> (Server, Option<Arc<Member>>) {
    let member = server.take_member();
    if let Some(member) = &member {
        fleet.add(member.clone());
    }
    (server, member)
}

/// Serves a device until it ends.
fn serve(server: Server, member: Option<&Arc<Member>>, fleet: &Fleet) -> Result<(), Error> {
    let growth = member.and_then(|member| member.description.growth.clone());
    let result = server.run_with(growth);
    if let Some(member) = member {
        fleet.ended(member);
    }
    result
}

/// Serves one of several devices. Returns whether it was served to the end.
fn serve_one_of_several(server: Server, member: Option<&Arc<Member>>, fleet: &Fleet) -> bool {
    let title = server.name().to_owned();
    match serve(server, member, fleet) {
        Ok(()) => true,
        Err(error) => {
            error!("{title}: {}", in_one_line(&error));
            false
        }
    }
}
