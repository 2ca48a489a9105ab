//! The options of a persistent memory device, and the server that they describe.

use std::sync::Arc;

use log::{info, warn};

use super::super::block::claim_name;
use super::super::control::Identity;
use super::super::error::Error;
use super::super::fleet::Description;
use super::super::server::Server;
use super::super::socket::{Endpoint, SocketSource};
use super::super::stop::Stop;
use super::super::windows::{Regions, Window, WindowConfig, Windows};
use super::device::pmem_device;
use crate::pmem::{Durability, PersistentMemory};

/// What is served, where, and how.
#[derive(Debug, Clone)]
pub struct PmemConfig {
    /// Where frontends connect.
    pub socket: SocketSource,
    /// The device's memory.
    pub window: WindowConfig,
}

impl PmemConfig {
    /// Opens the device, and begins to listen. `stop` stops the server.
    ///
    /// # Errors
    ///
    /// As [`WindowConfig::open`]; or the socket cannot be used.
    pub fn server(&self, regions: &mut Regions, stop: Stop) -> Result<Server, Error> {
        let window = self.window.open(regions)?.fixed();
        let endpoint = Endpoint::open(&self.socket)?;
        let log_name = format!("{}: {}", window.region().log_name(), window.name());
        info!(
            "{log_name}: serving persistent memory of {} bytes{}",
            window.device_size(),
            if self.window.read_only { ", read-only" } else { "" },
        );
        if window.region().region().medium().durability() != Durability::Dax {
            warn!(
                "{log_name}: what the guest flushes is as durable as fdatasync makes it; what it stored since \
                 then may be lost, and torn, when the power of this host fails"
            );
        }
        let identity = self.identity(&window);
        let windows = Arc::new(Windows::new(&log_name, vec![window]));
        regions.used_by(&windows);
        let description = Description {
            identity,
            facts: None,
            growth: None,
            group: None,
            page_tables: None,
            windows: vec![self.window.clone()],
            handed_over: None,
        };
        Ok(Server::new(pmem_device(&log_name, windows), endpoint, stop).described(description))
    }

    /// What the administrator knows the device by.
    fn identity(&self, window: &Window) -> Identity {
        let claim = window.region().claim();
        Identity {
            name: window.name().to_owned(),
            kind: "pmem".into(),
            file: claim.path().into(),
            namespace: claim.namespace().device_name(),
            uuid: Some(window.uuid().to_string()),
            socket: self.socket.to_string(),
            claim: claim_name(claim.kind()).into(),
            handed_over: false,
        }
    }
}
