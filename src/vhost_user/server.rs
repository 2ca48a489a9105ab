//! Serving a device to one frontend after another.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::error::Error;
use super::relay;
use super::ring::{Memory, Ring};
use super::socket::{Endpoint, SocketName};
use super::stop::Stop;
use crate::btt::NamespaceError;

/// How long to wait before accepting again when that failed, for want of descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Opens a disk again that is larger by now; `None`: it is as it was. No frontend is connected.
pub(super) type Reopen<B> = Box<dyn FnMut() -> Result<Option<B>, NamespaceError> + Send>;

/// A device, beside what the crate wants to know of it.
pub trait Served: VhostUserBackend<Bitmap = (), Vring = Ring> + 'static {
    /// What the log calls it.
    fn title(&self) -> &str;

    /// Guest memory.
    fn memory(&self) -> &Memory;

    /// Begins a connection. Returns the descriptors by which workers are woken, if they can be: the event
    /// loop of each listens to its own, as the event after that of its end.
    fn wakes(&self) -> io::Result<Vec<RawFd>> {
        Ok(Vec::new())
    }

    /// Takes no more requests off any ring.
    fn stop(&self) {}

    /// Completes what was taken off the rings, and forgets what the last frontend has set up. Its event
    /// loops have ended.
    fn reset(&self);
}

/// The event that wakes a worker of a device with so many queues: after those of its rings, and that of
/// the end of its thread.
pub(super) fn wake_event(queues: usize) -> usize {
    queues + 1
}

/// How a worker of a device is told to end; `None`: it cannot be.
pub(super) fn exit_event() -> Option<(EventConsumer, EventNotifier)> {
    let flags = EventFlag::NONBLOCK | EventFlag::CLOEXEC;
    new_event_consumer_and_notifier(flags).inspect_err(|e| warn!("no exit event: {e}")).ok()
}

/// A device and the socket at which it is served.
pub struct Server<B: Served> {
    backend: Arc<B>,
    /// `None`: the disk stays as it is.
    reopen: Option<Reopen<B>>,
    listener: Listener,
    /// The same socket, to wait at.
    waiting: UnixListener,
    /// Taken away when the server ends.
    _name: Option<SocketName>,
    /// There will be only one connection.
    once: bool,
    stop: Stop,
}

/// A server of any kind of device.
pub trait AnyServer: Send {
    /// What the log calls the device.
    fn title(&self) -> &str;

    /// As [`Server::run`].
    fn run(self: Box<Self>) -> Result<(), Error>;
}

impl<B: Served> AnyServer for Server<B> {
    fn title(&self) -> &str {
        self.backend.title()
    }

    fn run(self: Box<Self>) -> Result<(), Error> {
        (*self).run()
    }
}

impl<B: Served> Server<B> {
    /// A server for `backend` at `endpoint`, which `stop` stops.
    pub fn new(backend: B, endpoint: Endpoint, stop: Stop) -> Result<Server<B>, Error> {
        let system = |action| move |source| Error::System { action, source };
        let (listener, name, once) = match endpoint {
            Endpoint::Listening(listener, name) => (listener, name, false),
            Endpoint::Connected(stream) => {
                let relayed =
                    relay::listener_for(stream).map_err(system("relay the connection"))?;
                (relayed, None, true)
            }
        };
        let clone = || listener.try_clone().map_err(system("duplicate the socket"));
        stop.listens_on(clone()?);
        let waiting = clone()?;
        let (backend, listener) = (Arc::new(backend), Listener::from(listener));
        Ok(Server { backend, reopen: None, listener, waiting, _name: name, once, stop })
    }

    /// Lets the disk be opened again before each connection, if it has grown.
    pub(super) fn reopened_by(self, reopen: Reopen<B>) -> Server<B> {
        Server { reopen: Some(reopen), ..self }
    }

    /// Serves until stopped; a device with a connected socket, until that is closed.
    ///
    /// When this returns, every request that was taken off a ring is completed.
    pub fn run(mut self) -> Result<(), Error> {
        // Before each wait as well: whoever stopped the server before it listened has woken nobody.
        while !self.stop.is_stopped() {
            self.wait_for_frontend()?;
            if self.stop.is_stopped() {
                break;
            }
            self.take_growth();
            self.serve_one()?;
            if self.once {
                break;
            }
        }
        Ok(())
    }

    /// Waits until a frontend wants to connect, or the server is stopped.
    fn wait_for_frontend(&self) -> Result<(), Error> {
        let mut sockets = [PollFd::new(self.waiting.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut sockets, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let action = "cannot wait for a frontend";
                    return Err(Error::System { action, source: errno.into() });
                }
            }
        }
    }

    /// Serves the larger disk from now on, if it has grown.
    fn take_growth(&mut self) {
        let Some(reopen) = &mut self.reopen else { return };
        match reopen() {
            Ok(Some(larger)) => self.backend = Arc::new(larger),
            Ok(None) => {}
            Err(error) => warn!("the disk stays as large as it was: {error}"),
        }
    }

    /// Waits for a frontend and serves it until it leaves.
    fn serve_one(&mut self) -> Result<(), Error> {
        // A new one for each connection: what a frontend has negotiated goes with it, and so do the
        // worker threads, whose end is waited for when this is dropped.
        let mut daemon = VhostUserDaemon::new(
            "connection".into(),
            self.backend.clone(),
            self.backend.memory().clone(),
        )
        .map_err(Error::Setup)?;
        self.connect(&daemon)?;
        match daemon.start(&mut self.listener) {
            Ok(()) => {}
            Err(_) if self.stop.is_stopped() => return Ok(()),
            Err(error) => {
                warn!("{}: cannot accept a connection: {error}", self.title());
                thread::sleep(ACCEPT_AGAIN);
                return Ok(());
            }
        }
        info!("{}: a frontend has connected", self.title());
        self.stop.serves(daemon.shutdown_handle());
        match daemon.wait() {
            Ok(())
            | Err(DaemonError::HandleRequest(
                ProtocolError::Disconnected | ProtocolError::PartialMessage,
            )) => info!("{}: the frontend has disconnected", self.title()),
            Err(error) => warn!("{}: the connection ended: {error}", self.title()),
        }
        self.stop.serves(None);
        // In this order: a guest may keep its rings full, and a worker's thread ends only when it has
        // come to rest.
        self.backend.stop();
        drop(daemon);
        self.backend.reset();
        Ok(())
    }

    /// Lets the event loops of a connection hear what the workers wait for besides their rings.
    fn connect(&self, daemon: &VhostUserDaemon<Arc<B>>) -> Result<(), Error> {
        let fails = |source| Error::System { action: "cannot wait for flushes", source };
        let event = wake_event(self.backend.num_queues()) as u64;
        let wakes = self.backend.wakes().map_err(fails)?;
        for (wake, events) in wakes.into_iter().zip(daemon.get_epoll_handlers()) {
            events.register_listener(wake, EventSet::IN, event).map_err(fails)?;
        }
        Ok(())
    }
}
