//! Stopping a server from another thread.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::debug;
use nix::sys::socket::{Shutdown, shutdown};
use vhost_user_backend::ShutdownHandle;

/// A handle by which a server is stopped. Clones stop the same server.
#[derive(Clone, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    stopped: bool,
    listener: Option<UnixListener>,
    connection: Option<ShutdownHandle>,
}

impl Stop {
    /// Stops the server: it accepts no more connections, ends the one it has, and returns once the
    /// requests in flight are completed.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        if let Some(listener) = &state.listener {
            // Wakes whoever waits in accept().
            if let Err(error) = shutdown(listener.as_raw_fd(), Shutdown::Both) {
                debug!("cannot shut the listening socket down: {error}");
            }
        }
        if let Some(connection) = &state.connection {
            connection.shutdown();
        }
    }

    /// Whether the server has been told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    pub(super) fn listens_on(&self, listener: UnixListener) {
        self.state().listener = Some(listener);
    }

    /// Says which connection there is, and ends it if the server was told to stop meanwhile.
    pub(super) fn serves(&self, connection: Option<ShutdownHandle>) {
        let mut state = self.state();
        state.connection = connection;
        if let (true, Some(connection)) = (state.stopped, &state.connection) {
            connection.shutdown();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
