//! A socket at which marks are set: a line `mark TEXT` is answered by `done`, or by what is wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::{debug, warn};

use super::cache::Cache;
use crate::vhost_user::{Endpoint, Error, SocketSource};

/// Most bytes of a line.
const LONGEST_LINE: u64 = 4096;
/// How long a client may take for its line, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket that is served as long as the process lives.
#[derive(Debug)]
pub struct MarkSocket {
    /// Keeps its name, which goes with it.
    _endpoint: Endpoint,
}

impl MarkSocket {
    /// Listens at `path` for marks of `cache`.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound, or there are not enough threads.
    pub fn open(path: &Path, cache: Arc<Cache>) -> Result<MarkSocket, Error> {
        let endpoint = Endpoint::open(&SocketSource::Path(path.to_path_buf().into()))?;
        let fails = |source| Error::System { action: "cannot serve the socket for marks", source };
        if let Endpoint::Listening(listener, _) = &endpoint {
            let listener = listener.try_clone().map_err(fails)?;
            let run = move || serve_all(&listener, &cache);
            thread::Builder::new().name("marks".into()).spawn(run).map_err(fails)?;
        }
        Ok(MarkSocket { _endpoint: endpoint })
    }
}

/// Serves one client after another: marks have an order.
fn serve_all(listener: &UnixListener, cache: &Cache) {
    for stream in listener.incoming() {
        match stream.and_then(|stream| serve(&stream, cache)) {
            Ok(()) => {}
            Err(error) => {
                debug!("the socket for marks: {error}");
                // Not in circles, if there are no descriptors left.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn serve(stream: &UnixStream, cache: &Cache) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_LINE)).read_line(&mut line)?;
    let answer = match line.trim_end_matches('\n').strip_prefix("mark ") {
        Some(text) => match cache.mark(text.trim()) {
            Ok(()) => "done\n".to_owned(),
            Err(error) => {
                warn!("a mark is lost: {error}");
                format!("the log cannot be written: {error}\n")
            }
        },
        None => "not a line 'mark TEXT'\n".to_owned(),
    };
    (&mut &*stream).write_all(answer.as_bytes())
}

/// Sets a mark with `text` by the socket at `path`.
///
/// # Errors
///
/// No server answers there, or the mark could not be set.
pub fn send_mark(path: &Path, text: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("mark {}\n", text.replace('\n', " ")).as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    match answer.trim_end() {
        "done" => Ok(()),
        other => Err(io::Error::other(other.to_owned())),
    }
}
