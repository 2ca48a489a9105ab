//! Serves several devices in one process, each at its own socket.

use std::sync::Arc;

use super::addition::Additions;
use super::block::DiskConfig;
use super::control::{Administration, BoundControl, ControlConfig};
use super::error::Error;
use super::exposure::refuse_exposure;
use super::fleet::Fleet;
use super::medium::OpenMedium;
use super::pmem::PmemConfig;
use super::server::Server;
use super::sharing::refuse_sharing;
use super::socket::SocketSource;
use super::stop::Stop;
use super::supervisor::{Events, Stopper, enlist, supervise};
use super::windows::{OnlineResize, RegionConfig, Regions, WindowConfig};

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
    events: Events,
}

impl Devices {
    /// Opens devices, each with the handle that stops it, and a control socket. If one cannot be opened, none is.
    /// This starts no thread.
    pub fn open<'a>(
        devices: impl IntoIterator<Item = (&'a DeviceConfig, Stop)>,
        control: Option<ControlConfig>,
    ) -> Result<Devices, Error> {
        let devices: Vec<_> = devices.into_iter().collect();
        let configs: Vec<&DeviceConfig> = devices.iter().map(|(config, _)| *config).collect();
        refuse_exposure(&configs)?;
        let mut regions = Regions::new(configs.iter().flat_map(|config| config.written()))?;
        refuse_sharing(&configs, &mut regions)?;
        let servers = devices.into_iter().map(|(config, stop)| config.server(&mut regions, stop));
        let servers = servers.collect::<Result<_, _>>()?;
        let (dax_devices, fleet) = (OnlineResize::new(regions), Arc::new(Fleet::default()));
        let events = Events::default();
        let open = |ControlConfig { path, additions }| {
            let additions = Additions::new(additions, events.arrivals());
            let fleet = fleet.clone();
            BoundControl::open(path, Administration { dax_devices, fleet, additions })
        };
        let control = control.map(open).transpose()?;
        Ok(Devices { servers, fleet, control, events })
    }

    /// Devices that are served by `servers`, without a control socket.
    #[must_use]
    pub fn of(servers: Vec<Server>) -> Devices {
        Devices { servers, fleet: Arc::default(), control: None, events: Events::default() }
    }

    /// Number of devices.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// What stops all of them, and those that are added later.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.events.stopper()
    }

    /// Serves all of them until all are stopped. If there is none, it waits for those that are added until it
    /// is stopped.
    ///
    /// When this returns, every request that was taken off a ring is completed.
    ///
    /// # Errors
    ///
    /// One of them could not be served any more. That ends the others as little as it concerns them:
    /// they are other guests' devices.
    pub fn run(self) -> Result<(), Error> {
        let Devices { servers, fleet, control, events } = self;
        let devices = servers.into_iter().map(|server| enlist(server, &fleet)).collect();
        let _control = control.map(BoundControl::serve).transpose()?;
        supervise(devices, &fleet, events)
    }
}
