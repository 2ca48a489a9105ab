//! The frontend of a device, as far as others than its session want to know of it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::net::sockopt::socket_peercred;

use super::control::FrontendReport;
use super::feature_names;
use super::protocol::back_channel::{BackChannel, BackChannelError};

/// What is known of the frontend of a device.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// How many there were.
    count: AtomicU64,
    frontend: Mutex<Option<Frontend>>,
    /// The socket for requests to it; beside the frontend, so that a thread that asks for that does not wait
    /// for a request that is under way.
    channel: Mutex<Option<BackChannel>>,
}

/// A frontend that is connected.
#[derive(Debug)]
struct Frontend {
    pid: Option<i32>,
    since: Instant,
    features: u64,
    protocol_features: u64,
}

impl Connection {
    /// A frontend has connected, at the other end of `stream`.
    pub(super) fn begin(&self, stream: &UnixStream) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let pid = socket_peercred(stream).ok().map(|peer| peer.pid.as_raw_nonzero().get());
        let frontend = Frontend { pid, since: Instant::now(), features: 0, protocol_features: 0 };
        *self.frontend() = Some(frontend);
    }

    /// Its driver has accepted `features`.
    pub(super) fn accept_features(&self, features: u64) {
        if let Some(frontend) = &mut *self.frontend() {
            frontend.features = features;
        }
    }

    /// It has accepted the protocol features `features`.
    pub(super) fn accept_protocol_features(&self, features: u64) {
        if let Some(frontend) = &mut *self.frontend() {
            frontend.protocol_features = features;
        }
    }

    /// It has handed over a socket for requests to it.
    pub(super) fn set_channel(&self, descriptor: OwnedFd) {
        *self.channel() = Some(BackChannel::new(descriptor));
    }

    /// Tells it that the configuration space has changed, if it can be told.
    pub(super) fn config_changed(&self) -> Result<bool, BackChannelError> {
        match &mut *self.channel() {
            Some(channel) => channel.config_changed().map(|()| true),
            None => Ok(false),
        }
    }

    /// It has disconnected.
    pub(super) fn end(&self) {
        *self.frontend() = None;
        *self.channel() = None;
    }

    /// Returns whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.frontend().is_some()
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// What is said of it.
    pub(super) fn report(&self, of_device: &[(u32, &str)]) -> Option<FrontendReport> {
        self.frontend().as_ref().map(|frontend| FrontendReport {
            pid: frontend.pid,
            connected: frontend.since.elapsed().as_secs(),
            features: feature_names::list(frontend.features, of_device),
            protocol_features: feature_names::protocol(frontend.protocol_features),
        })
    }

    fn frontend(&self) -> MutexGuard<'_, Option<Frontend>> {
        // Replaced as a whole, or in one number.
        self.frontend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self) -> MutexGuard<'_, Option<BackChannel>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
