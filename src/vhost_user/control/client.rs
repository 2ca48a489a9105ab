//! The client of the control socket, for `nvdimmctl`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::fd_passing::send;
use super::protocol::{Answer, MOST_ANSWER_BYTES, Request};

/// Why a daemon has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot be reached, or has ended.
    #[error("{path}: cannot {action}; is a daemon running with --control={path}?")]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It has answered something that this program does not know.
    #[error("{path}: the daemon's answer is not understood: {answer:?}")]
    Unknown {
        /// The control socket.
        path: PathBuf,
        /// What it has said.
        answer: String,
    },
    /// It has said no.
    #[error("{0}")]
    Refused(String),
}

/// Has the daemon with the control socket `path` do what `request` says; returns what came of it.
///
/// # Errors
///
/// [`ClientError`].
pub fn request(path: &Path, request: &Request) -> Result<Answer, ClientError> {
    request_with(path, request, &[])
}

/// As [`request`], with `descriptors` that the daemon gets.
///
/// # Errors
///
/// As there.
pub fn request_with(
    path: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Answer, ClientError> {
    let answer = ask(path, request, descriptors)?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Refused { reason }) => Err(ClientError::Refused(reason)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(ClientError::Unknown { path: path.into(), answer }),
    }
}

fn ask(
    path: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<String, ClientError> {
    let fails =
        |action| move |source| ClientError::Unreachable { path: path.into(), action, source };
    let mut stream = UnixStream::connect(path).map_err(fails("connect"))?;
    let mut line =
        serde_json::to_string(request).map_err(|error| fails("send the request")(error.into()))?;
    line.push('\n');
    let line = line.as_bytes();
    let sent = send_with(&stream, line, descriptors).map_err(fails("send the request"))?;
    stream.write_all(&line[sent..]).map_err(fails("send the request"))?;
    // It may take as long as it takes: a guest has to let go, and what is new is zeroed.
    let mut answer = String::new();
    BufReader::new(stream.take(MOST_ANSWER_BYTES))
        .read_line(&mut answer)
        .map_err(fails("hear the answer"))?;
    if answer.is_empty() {
        return Err(fails("hear the answer")(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(answer)
}

/// Sends `descriptors` with the first bytes of `line`; returns how many these are.
fn send_with(
    stream: &UnixStream,
    line: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    loop {
        match send(stream, line, descriptors, SendFlags::empty()) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}
