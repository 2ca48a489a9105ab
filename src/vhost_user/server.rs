//! Serves a device to one frontend after another.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use log::{Level, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::device::VhostDevice;
use super::error::Error;
use super::fleet::{Description, Growth, Member};
use super::page_tables::PageTables;
use super::peer::Peer;
use super::protocol::message::MessageError;
use super::session::{Session, SessionEnd};
use super::socket::Endpoint;
use super::stop::Stop;
use super::totals::Totals;
use crate::error_chain::in_one_line;
use crate::sandbox::{ThreadKind, enter_thread};

/// How long to wait before trying again what failed for want of descriptors or memory.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A device and the socket at which it is served.
pub struct Server {
    device: Arc<dyn VhostDevice>,
    endpoint: Endpoint,
    stop: Stop,
    /// `None`: no administrator can ask of it.
    description: Option<Description>,
    /// `None`: the medium has none that could be filled.
    page_tables: Option<Arc<PageTables>>,
}

impl Server {
    /// A server for `device` at `endpoint`, which `stop` stops.
    pub(super) fn new(device: Arc<dyn VhostDevice>, endpoint: Endpoint, stop: Stop) -> Server {
        Server { device, endpoint, stop, description: None, page_tables: None }
    }

    /// Says what the device is, for the administrator, and how it grows.
    pub(super) fn described(self, description: Description) -> Server {
        Server { description: Some(description), ..self }
    }

    /// Fills `page_tables` while it serves.
    pub(super) fn filling(self, page_tables: Arc<PageTables>) -> Server {
        Server { page_tables: Some(page_tables), ..self }
    }

    /// What the administrator sees of it, once.
    pub(super) fn take_member(&mut self) -> Option<Arc<Member>> {
        let description = self.description.take()?;
        let (device, stop) = (self.device.clone(), self.stop.clone());
        Some(Arc::new(Member { device, description, stop, standstill: Mutex::default() }))
    }

    /// What stops it.
    pub(super) fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// The name that an administrator knows it by.
    pub(super) fn known_as(&self) -> &str {
        self.description.as_ref().map_or(self.name(), |known| known.identity.name.as_str())
    }

    /// What the log calls the device.
    #[must_use]
    pub fn name(&self) -> &str {
        self.device.log().name()
    }

    /// Serves until stopped; a device with a connected socket, until that is closed.
    ///
    /// When this returns, every request that was taken off a ring is completed.
    ///
    /// # Errors
    ///
    /// The listening socket cannot be used any more.
    pub fn run(self) -> Result<(), Error> {
        self.run_with(None)
    }

    /// As [`run`](Self::run), with the growth of the disk.
    pub(super) fn run_with(self, growth: Option<Arc<dyn Growth>>) -> Result<(), Error> {
        enter_thread(ThreadKind::Device);
        let Server { device, endpoint, stop, description, page_tables } = self;
        let _filling = page_tables.and_then(PageTables::fill);
        let growth = growth.or_else(|| description.and_then(|description| description.growth));
        let serving = Serving { device, growth, stop };
        match endpoint {
            Endpoint::Listening(listener, _name) => serving.serve_all(&listener),
            Endpoint::Connected(stream) => {
                serving.serve(stream, None);
                Ok(())
            }
        }
    }
}

/// A server at work.
struct Serving {
    device: Arc<dyn VhostDevice>,
    /// `None`: the disk stays as large as it is.
    growth: Option<Arc<dyn Growth>>,
    stop: Stop,
}

impl Serving {
    fn serve_all(self, listener: &UnixListener) -> Result<(), Error> {
        let fails = |source| Error::System { action: "cannot wait for a frontend", source };
        // A frontend that has left again is not to be waited for.
        listener.set_nonblocking(true).map_err(fails)?;
        while !self.stop.is_stopped() {
            self.wait_for_frontend(listener).map_err(fails)?;
            if self.stop.is_stopped() {
                break;
            }
            if let Some(stream) = self.accept(listener) {
                self.take_growth();
                self.serve(stream, Some(listener));
            }
        }
        Ok(())
    }

    /// Waits until a frontend wants to connect, or the server is stopped.
    fn wait_for_frontend(&self, listener: &UnixListener) -> io::Result<()> {
        let readable = PollFlags::POLLIN;
        let mut sources =
            [PollFd::new(listener.as_fd(), readable), PollFd::new(self.stop.as_fd(), readable)];
        loop {
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Accepts a connection. Returns `None` if there is none any more, or none can be had now.
    fn accept(&self, listener: &UnixListener) -> Option<UnixStream> {
        match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                self.try_again_later("cannot accept a connection", &error);
                None
            }
        }
    }

    /// Says what fails for a reason that may pass, and waits a moment.
    fn try_again_later(&self, what: &str, error: &io::Error) {
        self.device.log().line(Level::Warn, &format_args!("{what}: {error}"));
        thread::sleep(TRY_AGAIN);
    }

    /// Takes what the namespace of the disk has gained.
    fn take_growth(&self) {
        let Some(growth) = &self.growth else { return };
        if let Err(error) = growth.take() {
            warn!("the disk stays as large as it was: {}", in_one_line(&error));
        }
    }

    /// Serves a frontend until it leaves. `listener` is where others connect.
    fn serve(&self, stream: UnixStream, listener: Option<&UnixListener>) {
        let log = self.device.log();
        let listener = listener.map(|listener| listener as &dyn AsFd);
        let session = Session::new(self.device.clone(), stream, &self.stop, listener);
        let mut session = match session {
            Ok(session) => session,
            Err(error) => return self.try_again_later("cannot serve a frontend", &error),
        };
        let peer = Peer::of(session.stream());
        log.line(Level::Info, &format_args!("a frontend has connected: {peer}"));
        let before = Totals::of(&*self.device);
        let end = session.run();
        // Before the log says so, all that was held for the frontend is free.
        drop(session);
        let done = Totals::of(&*self.device) - before;
        match end {
            SessionEnd::Stopped => log.line(Level::Info, &format_args!("stopped: {done}")),
            SessionEnd::Connection(MessageError::Disconnected) => {
                log.line(Level::Info, &format_args!("the frontend has disconnected: {done}"));
            }
            end => {
                let text = in_one_line(&end);
                log.line(Level::Warn, &format_args!("the connection has ended: {text}; {done}"));
            }
        }
    }
}
