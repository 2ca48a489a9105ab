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
use super::handed::{self, Handed};
use super::hold::Hold;
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
    /// `None`: what it needs is held all the time.
    holder: Option<Arc<dyn Hold>>,
}

impl Server {
    /// A server for `device` at `endpoint`, which `stop` stops.
    pub(super) fn new(device: Arc<dyn VhostDevice>, endpoint: Endpoint, stop: Stop) -> Server {
        Server { device, endpoint, stop, description: None, page_tables: None, holder: None }
    }

    /// Says what the device is, for the administrator, and how it grows.
    pub(super) fn described(self, description: Description) -> Server {
        Server { description: Some(description), ..self }
    }

    /// Fills `page_tables` while it serves.
    pub(super) fn filling(self, page_tables: Arc<PageTables>) -> Server {
        Server { page_tables: Some(page_tables), ..self }
    }

    /// Has `holder` hold what it needs while rings run.
    pub(super) fn holding(self, holder: Arc<dyn Hold>) -> Server {
        Server { holder: Some(holder), ..self }
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
        let Server { device, endpoint, stop, description, page_tables, holder } = self;
        let _filling = page_tables.and_then(PageTables::fill);
        let growth = growth.or_else(|| description.and_then(|description| description.growth));
        let serving = Serving { device, growth, holder, stop };
        match endpoint {
            Endpoint::Listening(listener, _name) => {
                // A frontend that has left again is not to be waited for.
                listener.set_nonblocking(true).map_err(cannot_wait)?;
                serving.serve_all(&listener)
            }
            Endpoint::Handed(handed) => serving.serve_all(&handed),
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
    holder: Option<Arc<dyn Hold>>,
    stop: Stop,
}

/// Where frontends come from; readable when there is one.
trait Source: AsFd {
    /// Takes a connection, without waiting.
    fn next(&self) -> io::Result<UnixStream>;

    /// Says that the device is served from now on, or that a connection is over, to the process that hands connections over.
    fn say(&self, byte: u8) -> io::Result<()>;
}

impl Source for UnixListener {
    fn next(&self) -> io::Result<UnixStream> {
        self.accept().map(|(stream, _)| stream)
    }

    fn say(&self, _byte: u8) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Handed {
    fn next(&self) -> io::Result<UnixStream> {
        self.accept()
    }

    fn say(&self, byte: u8) -> io::Result<()> {
        Handed::say(self, byte)
    }
}

fn cannot_wait(source: io::Error) -> Error {
    Error::System { action: "cannot wait for a frontend", source }
}

impl Serving {
    fn serve_all(self, source: &impl Source) -> Result<(), Error> {
        self.say(source, handed::SERVING);
        while !self.stop.is_stopped() {
            self.wait_for_frontend(source).map_err(cannot_wait)?;
            if self.stop.is_stopped() {
                break;
            }
            if let Some(stream) = self.accept(source) {
                self.take_growth();
                self.serve(stream, Some(source));
                // A frontend that was served up to the end of the process goes on with the next.
                if !self.stop.is_stopped() {
                    self.say(source, handed::OVER);
                }
            }
        }
        Ok(())
    }

    fn say(&self, source: &impl Source, byte: u8) {
        if let Err(error) = source.say(byte) {
            self.device
                .log()
                .line(Level::Warn, &format_args!("the keeper does not listen: {error}"));
        }
    }

    /// Waits until a frontend wants to connect, or the server is stopped.
    fn wait_for_frontend(&self, source: &impl Source) -> io::Result<()> {
        let readable = PollFlags::POLLIN;
        let mut sources =
            [PollFd::new(source.as_fd(), readable), PollFd::new(self.stop.as_fd(), readable)];
        loop {
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Accepts a connection. Returns `None` if there is none any more, or none can be had now.
    fn accept(&self, source: &impl Source) -> Option<UnixStream> {
        match source.next() {
            Ok(stream) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.device
                    .log()
                    .line(Level::Warn, &"the keeper is gone: no frontend can connect any more");
                self.stop.stop();
                None
            }
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
    fn serve(&self, stream: UnixStream, listener: Option<&dyn AsFd>) {
        let log = self.device.log();
        let holder = self.holder.as_deref();
        let session = Session::new(self.device.clone(), stream, &self.stop, listener, holder);
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
