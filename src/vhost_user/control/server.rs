//! The server of the control socket.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Scope};
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::error::Error;
use super::super::socket::{Endpoint, SocketName, SocketSource};
use super::super::stop::Stop;
use super::administration::Administration;
use super::connection::{Connection, LineError};
use super::protocol::{Answer, Request};
use crate::error_chain::in_one_line;
use crate::pmem::catch_faults;
use crate::sandbox::{ThreadKind, enter_thread};

/// Most clients that are connected at a time. A further one takes the place of the client that has been
/// silent for the longest time.
const MOST_CLIENTS: usize = 32;

/// How often to look whether a device has been quiesced for too long, in milliseconds.
const LOOK_AGAIN_MS: u16 = 500;

/// How long to wait before accepting again when that failed, for want of descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A control socket that is bound, and not served yet.
pub struct BoundControl {
    service: Service,
    listener: UnixListener,
    name: Option<SocketName>,
}

/// A control socket that is served, until dropped.
pub struct Control {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
    /// Removes the socket's name at last.
    _name: Option<SocketName>,
}

impl BoundControl {
    /// Listens at `path` for requests to `administration`.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound.
    pub fn open(path: PathBuf, administration: Administration) -> Result<BoundControl, Error> {
        let Endpoint::Listening(listener, name) =
            Endpoint::open(&SocketSource::Path(path.clone().into()))?
        else {
            return Err(Error::NotASocket { path });
        };
        let fails = |source| Error::System { action: "cannot serve the control socket", source };
        listener.set_nonblocking(true).map_err(fails)?;
        // The first disk may be one that is added.
        catch_faults().map_err(fails)?;
        let stop = Stop::new().map_err(fails)?;
        let service = Service { administration, stop, clients: Mutex::default() };
        info!("{}: listening for administrators", path.display());
        Ok(BoundControl { service, listener, name })
    }

    /// Starts the thread that answers requests.
    ///
    /// # Errors
    ///
    /// There are not enough threads.
    pub fn serve(self) -> Result<Control, Error> {
        let BoundControl { service, listener, name } = self;
        let stop = service.stop.clone();
        let fails = |source| Error::System { action: "cannot serve the control socket", source };
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || service.serve_all(&listener))
            .map_err(fails)?;
        Ok(Control { stop, thread: Some(thread), _name: name })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the control socket's thread has panicked");
        }
    }
}

/// What the threads of the control socket share.
struct Service {
    administration: Administration,
    stop: Stop,
    clients: Mutex<Vec<Client>>,
}

/// A client that is connected.
struct Client {
    stream: Arc<UnixStream>,
    /// Since when it has had no request in hand; `None` while one is carried out.
    silent_since: Option<Instant>,
}

impl Service {
    /// Accepts clients and serves each in a thread of its own, until stopped.
    fn serve_all(&self, listener: &UnixListener) {
        enter_thread(ThreadKind::Control);
        thread::scope(|scope| {
            while !self.stop.is_stopped() {
                self.administration.fleet.resume_overdue();
                if let Err(error) = self.accept(scope, listener) {
                    warn!("control socket: cannot accept a connection: {error}");
                    thread::sleep(ACCEPT_AGAIN);
                }
            }
        });
    }

    /// Waits for a client, and begins to serve it.
    fn accept<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        listener: &UnixListener,
    ) -> io::Result<()> {
        let readable = PollFlags::POLLIN;
        let mut sources =
            [PollFd::new(listener.as_fd(), readable), PollFd::new(self.stop.as_fd(), readable)];
        match poll(&mut sources, self.next_look()) {
            Ok(_) if !self.stop.is_stopped() => {}
            Ok(_) | Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        if !self.admit(&stream) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many requests in hand"));
        }
        let client = Arc::clone(&stream);
        let name = "control-client".to_owned();
        let started =
            thread::Builder::new().name(name).spawn_scoped(scope, move || self.serve(&client));
        started.map(drop).inspect_err(|_| self.dismiss(&stream))
    }

    /// How long the thread may sleep. A device is quiesced while the client that has asked for it is connected, so
    /// that clients are looked at first.
    fn next_look(&self) -> PollTimeout {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let has_clients = !clients.is_empty();
        drop(clients);
        let looks_again = has_clients || self.administration.fleet.has_quiesced();
        if looks_again { PollTimeout::from(LOOK_AGAIN_MS) } else { PollTimeout::NONE }
    }

    /// Makes room for a client, and takes it in. Returns `false` if all places are taken by clients
    /// whose requests are being carried out.
    fn admit(&self, stream: &Arc<UnixStream>) -> bool {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MOST_CLIENTS {
            let silent = clients.iter().enumerate();
            let silent = silent.filter_map(|(index, client)| Some((client.silent_since?, index)));
            let Some((_, longest)) = silent.min() else { return false };
            // Its thread notices, and ends.
            let _ = clients.swap_remove(longest).stream.shutdown(Shutdown::Both);
        }
        let silent_since = Some(Instant::now());
        clients.push(Client { stream: Arc::clone(stream), silent_since });
        true
    }

    /// Forgets a client that has left.
    fn dismiss(&self, stream: &Arc<UnixStream>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| !Arc::ptr_eq(&client.stream, stream));
    }

    /// Notes whether a client waits for an answer.
    fn note(&self, stream: &Arc<UnixStream>, silent_since: Option<Instant>) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.iter_mut().find(|one| Arc::ptr_eq(&one.stream, stream)) {
            client.silent_since = silent_since;
        }
    }

    /// Serves a client until it leaves.
    fn serve(&self, stream: &Arc<UnixStream>) {
        match self.answer_all(stream) {
            Ok(()) | Err(LineError::Stopped | LineError::Socket(_)) => {}
            Err(error) => warn!("control socket: a client is disconnected: {error}"),
        }
        self.dismiss(stream);
    }

    fn answer_all(&self, stream: &Arc<UnixStream>) -> Result<(), LineError> {
        let mut connection = Connection::new(stream, &self.stop)?;
        loop {
            let (line, descriptors) = match connection.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // It may hear why; that it does not is no further error.
                    let _ = connection.send(&Answer::Refused { reason: in_one_line(&error) });
                    return Err(error);
                }
            };
            self.note(stream, None);
            let answer = answer(&line, descriptors, &self.administration);
            self.note(stream, Some(Instant::now()));
            connection.send(&answer)?;
        }
    }
}

/// Carries out the request in `line`.
fn answer(line: &[u8], descriptors: Vec<OwnedFd>, administration: &Administration) -> Answer {
    match serde_json::from_slice::<Request>(line) {
        Ok(request) => administration.carry_out(request, descriptors),
        Err(error) => Answer::Refused { reason: format!("not a request: {error}") },
    }
}
