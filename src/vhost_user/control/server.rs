//! The daemon's side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{debug, info, warn};
use nix::sys::socket::{Shutdown, shutdown};

use super::super::error::Error;
use super::super::socket::{Endpoint, SocketName, SocketSource};
use super::super::windows::{Live, Resized, Wanted};
use super::protocol::{Answer, MOST_BYTES, Request};

/// How long somebody who has connected may take to say what he wants, and to hear the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before accepting again when that failed, for want of descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A control socket that is served, until dropped.
pub struct Control {
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
    /// Taken away at last.
    _name: Option<SocketName>,
}

impl Control {
    /// Listens at `path` for requests that concern `live`.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound.
    pub fn open(path: PathBuf, live: Live) -> Result<Control, Error> {
        let Endpoint::Listening(listener, name) =
            Endpoint::open(&SocketSource::Path(path.clone()))?
        else {
            return Err(Error::NotASocket { path });
        };
        let fails = |source| Error::System { action: "cannot serve the control socket", source };
        let ours = listener.try_clone().map_err(fails)?;
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || serve(&ours, &live))
            .map_err(fails)?;
        info!("{}: an administrator may ask here", path.display());
        Ok(Control { listener, thread: Some(thread), _name: name })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Wakes the thread that waits in accept().
        if let Err(error) = shutdown(self.listener.as_raw_fd(), Shutdown::Both) {
            debug!("cannot shut the control socket down: {error}");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the control socket's thread has panicked");
        }
    }
}

/// Serves one after another, until the listener is shut down.
fn serve(listener: &UnixListener, live: &Live) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = serve_one(&stream, live) {
                    warn!("control socket: {error}");
                }
            }
            // What a listener says that was shut down.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => return,
            Err(error) => {
                warn!("control socket: cannot accept a connection: {error}");
                thread::sleep(ACCEPT_AGAIN);
            }
        }
    }
}

fn serve_one(stream: &UnixStream, live: &Live) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut asked = String::new();
    BufReader::new(stream.take(MOST_BYTES)).read_line(&mut asked)?;
    let answer = match serde_json::from_str(&asked) {
        Ok(request) => carry_out(request, live),
        Err(error) => Answer::Refused { reason: format!("not a request: {error}") },
    };
    let mut answer = serde_json::to_string(&answer)?;
    answer.push('\n');
    let mut stream = stream;
    stream.write_all(answer.as_bytes())
}

fn carry_out(request: Request, live: &Live) -> Answer {
    let Request::ResizeDevice { file, namespace, device, size, force } = request;
    let wanted = Wanted { file: file.as_deref(), namespace: namespace.as_deref(), name: &device };
    match live.resize(&wanted, size, force) {
        Ok(Resized { before, size, windows }) => {
            info!(
                "device {device:?}: resized from {before} to {size} bytes, {windows} windows to it"
            );
            Answer::Resized { before, size, windows }
        }
        Err(error) => {
            let reason = error.to_string();
            info!("device {device:?}: not resized: {reason}");
            Answer::Refused { reason }
        }
    }
}
