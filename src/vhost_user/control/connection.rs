//! One connection to the control socket: lines of JSON in, lines of JSON out.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::super::fd_passing::{ReceiveError, receive};
use super::super::stop::Stop;
use super::protocol::{MOST_BYTES, MOST_DESCRIPTORS};

/// Longest time from the first byte of a line to its last, and for an answer to be taken.
const LINE_TIME: Duration = Duration::from_secs(5);

/// Why no further line can be had from a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// The line is longer than [`MOST_BYTES`].
    #[error("the line is longer than {MOST_BYTES} bytes")]
    TooLong,
    /// The client sends more descriptors than any request takes, or they do not fit into this process.
    #[error("more than {MOST_DESCRIPTORS} descriptors, or the daemon has none left")]
    Descriptors,
    /// The line, or the place for an answer, did not come in time.
    #[error("the client took longer than {} seconds", LINE_TIME.as_secs())]
    TimedOut,
    /// The daemon stops.
    #[error("the daemon stops")]
    Stopped,
    /// The socket fails.
    #[error("the socket fails")]
    Socket(#[from] io::Error),
}

/// A connection, and what was received beyond the last line.
pub(super) struct Connection<'a> {
    stream: &'a UnixStream,
    stop: &'a Stop,
    received: Vec<u8>,
    /// What came with it.
    descriptors: Vec<OwnedFd>,
}

/// A line, and the descriptors that came with it.
pub(super) type Line = (Vec<u8>, Vec<OwnedFd>);

impl<'a> Connection<'a> {
    /// Uses `stream` until `stop` stops.
    ///
    /// # Errors
    ///
    /// The stream cannot be made non-blocking.
    pub(super) fn new(stream: &'a UnixStream, stop: &'a Stop) -> io::Result<Connection<'a>> {
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, stop, received: Vec::new(), descriptors: Vec::new() })
    }

    /// Returns the next line, or `None` at the end of the stream. A line begins with its first byte:
    /// before that, the client may be silent. What comes with a line belongs to it, so a client that sends
    /// descriptors waits for the answer to the line before.
    pub(super) fn next_line(&mut self) -> Result<Option<Line>, LineError> {
        let mut deadline = None;
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                let line = std::mem::replace(&mut self.received, rest);
                return Ok(Some((line, std::mem::take(&mut self.descriptors))));
            }
            if self.received.len() >= MOST_BYTES {
                return Err(LineError::TooLong);
            }
            if !self.received.is_empty() {
                deadline.get_or_insert_with(|| Instant::now() + LINE_TIME);
            }
            self.wait(PollFlags::POLLIN, deadline)?;
            if self.receive_to_end()? {
                // A client may close its side after the last line, with or without a line feed.
                let last = std::mem::take(&mut self.received);
                let descriptors = std::mem::take(&mut self.descriptors);
                return Ok((!last.is_empty()).then_some((last, descriptors)));
            }
        }
    }

    /// Receives what is there. Returns whether the stream ends here.
    fn receive_to_end(&mut self) -> Result<bool, LineError> {
        let mut bytes = [0; 4096];
        let descriptors = &mut self.descriptors;
        match receive(self.stream, &mut bytes, descriptors, MOST_DESCRIPTORS) {
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                Ok(count == 0)
            }
            Err(ReceiveError::System(errno)) if passes(&errno.into()) => Ok(false),
            Err(ReceiveError::System(errno)) => Err(io::Error::from(errno).into()),
            Err(ReceiveError::DescriptorsLost) => Err(LineError::Descriptors),
        }
    }

    /// Sends `answer` as a line.
    pub(super) fn send(&mut self, answer: &impl Serialize) -> Result<(), LineError> {
        let mut line = serde_json::to_vec(answer).map_err(io::Error::from)?;
        line.push(b'\n');
        let deadline = Instant::now() + LINE_TIME;
        let mut rest = &line[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if passes(&error) => self.wait(PollFlags::POLLOUT, Some(deadline))?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the stream is ready for `events`.
    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> Result<(), LineError> {
        loop {
            let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up: a wait of no time at all would be repeated until the deadline.
                let left = u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            let mut sources = [
                PollFd::new(self.stream.as_fd(), events),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, timeout) {
                Ok(0) => return Err(LineError::TimedOut),
                Ok(_) if sources[1].any() == Some(true) => return Err(LineError::Stopped),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }
}

/// Returns whether a read or a write is to be tried again.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(sent: &[u8]) -> Vec<Result<Option<Vec<u8>>, String>> {
        let (mut client, served) = UnixStream::pair().unwrap();
        client.write_all(sent).unwrap();
        drop(client);
        let stop = Stop::new().unwrap();
        let mut connection = Connection::new(&served, &stop).unwrap();
        let mut lines = Vec::new();
        loop {
            let line = connection.next_line().map_err(|error| error.to_string());
            let line = line.map(|line| line.map(|(bytes, _)| bytes));
            let ends = !matches!(line, Ok(Some(_)));
            lines.push(line);
            if ends {
                return lines;
            }
        }
    }

    #[test]
    fn a_stream_is_taken_apart_at_its_line_feeds() {
        let line = |text: &str| Ok(Some(text.as_bytes().to_vec()));
        assert_eq!(lines_of(b""), [Ok(None)]);
        assert_eq!(lines_of(b"one\ntwo\n"), [line("one\n"), line("two\n"), Ok(None)]);
        assert_eq!(lines_of(b"\nlast"), [line("\n"), line("last"), Ok(None)]);
        let long = vec![b'x'; MOST_BYTES];
        assert!(lines_of(&long)[0].as_ref().unwrap_err().contains("longer"));
    }

    #[test]
    fn a_connection_without_a_line_ends_when_the_daemon_stops() {
        let (_client, served) = UnixStream::pair().unwrap();
        let stop = Stop::new().unwrap();
        let mut connection = Connection::new(&served, &stop).unwrap();
        stop.stop();
        assert!(matches!(connection.next_line(), Err(LineError::Stopped)));
    }
}
