//! The back channel, over which the device sends requests to the frontend
//! (`VHOST_USER_SET_BACKEND_REQ_FD`).
//!
//! A request waits for its answer for a limited time. After a failure, answers can no longer be matched
//! to requests, so the channel is closed.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use rustix::net::{Shutdown, shutdown};
use vhost::vhost_user::message::BackendReq;
use zerocopy::{Immutable, IntoBytes};

use super::message::{Message, MessageError, wait};

/// How long a frontend may take to answer. QEMU takes a millisecond, unless its main loop is busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A part of the device's file that the frontend is to map into a shared memory region, or to unmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub(in crate::vhost_user) struct SharedRange {
    /// Number of the region.
    pub shmid: u8,
    pub padding: [u8; 7],
    /// Byte offset in the file.
    pub file_offset: u64,
    /// Byte offset in the region.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Bit 0: for writing as well.
    pub flags: u64,
}

/// Why the frontend has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(in crate::vhost_user) enum BackChannelError {
    /// It says that it could not.
    #[error("the frontend refuses")]
    Refused,
    /// It does not answer, or not to what it was asked.
    #[error("the frontend does not answer")]
    NoAnswer(#[source] MessageError),
    /// What it says is no answer to what it was asked.
    #[error("the frontend answers something else")]
    WrongAnswer,
    /// The channel was closed before.
    #[error("the channel to the frontend is closed")]
    Closed,
}

/// The channel; one request is under way at a time.
#[derive(Debug)]
pub(in crate::vhost_user) struct BackChannel {
    stream: UnixStream,
    is_closed: bool,
}

/// Closes a channel from another thread: a request that is under way fails.
#[derive(Debug)]
pub(in crate::vhost_user) struct Closer(UnixStream);

impl BackChannel {
    /// The channel at the other end of `descriptor`.
    pub(crate) fn new(descriptor: OwnedFd) -> BackChannel {
        BackChannel { stream: UnixStream::from(descriptor), is_closed: false }
    }

    /// A handle that closes it.
    pub(crate) fn closer(&self) -> io::Result<Closer> {
        self.stream.try_clone().map(Closer)
    }

    /// Has the frontend map a part of `file`.
    pub(crate) fn map(
        &mut self,
        range: &SharedRange,
        file: BorrowedFd<'_>,
    ) -> Result<(), BackChannelError> {
        self.ask(BackendReq::SHMEM_MAP, range.as_bytes(), &[file])
    }

    /// Has the frontend unmap what it has mapped.
    pub(crate) fn unmap(&mut self, range: &SharedRange) -> Result<(), BackChannelError> {
        self.ask(BackendReq::SHMEM_UNMAP, range.as_bytes(), &[])
    }

    /// Tells the frontend that the configuration space has changed. It gives no answer: QEMU reads the space
    /// while it handles the message.
    pub(crate) fn config_changed(&mut self) -> Result<(), BackChannelError> {
        if self.is_closed {
            return Err(BackChannelError::Closed);
        }
        let message = Message::new(BackendReq::CONFIG_CHANGE_MSG as u32, &[]);
        message.send(&self.stream, &[]).map_err(|error| {
            self.is_closed = true;
            BackChannelError::NoAnswer(error)
        })
    }

    fn ask(
        &mut self,
        request: BackendReq,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), BackChannelError> {
        if self.is_closed {
            return Err(BackChannelError::Closed);
        }
        let answer = self.try_ask(request as u32, body, descriptors);
        if !matches!(answer, Ok(()) | Err(BackChannelError::Refused)) {
            self.is_closed = true;
            // It may be closed at the other end already.
            let _ = shutdown(&self.stream, Shutdown::Both);
        }
        answer
    }

    fn try_ask(
        &self,
        request: u32,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), BackChannelError> {
        let message = Message::new(request, body).asking_for_reply();
        message.send(&self.stream, descriptors).map_err(BackChannelError::NoAnswer)?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        wait(&self.stream, PollFlags::POLLIN, deadline).map_err(BackChannelError::NoAnswer)?;
        let answer = Message::receive(&self.stream).map_err(BackChannelError::NoAnswer)?;
        let value = <[u8; 8]>::try_from(answer.body.as_slice()).map(u64::from_ne_bytes);
        match value {
            Ok(value) if answer.is_reply() && answer.request == request => match value {
                0 => Ok(()),
                _ => Err(BackChannelError::Refused),
            },
            _ => Err(BackChannelError::WrongAnswer),
        }
    }
}

impl Closer {
    /// Closes the channel.
    pub(crate) fn close(&self) {
        // It may be closed at the other end already.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;

    const RANGE: SharedRange =
        SharedRange { shmid: 1, padding: [0; 7], file_offset: 2, offset: 3, length: 4, flags: 1 };

    /// What comes of a request that the frontend answers as `answer` says.
    fn ask(
        answer: impl FnOnce(&UnixStream, Message) + Send,
    ) -> (BackChannel, Result<(), BackChannelError>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut channel = BackChannel::new(ours.into());
        let asked = thread::scope(|scope| {
            scope.spawn(|| answer(&theirs, Message::receive(&theirs).unwrap()));
            channel.map(&RANGE, tempfile::tempfile().unwrap().as_fd())
        });
        (channel, asked)
    }

    #[test]
    fn the_answer_says_whether_it_was_done() {
        let (mut channel, done) = ask(|stream, message| {
            assert_eq!(message.request, 9);
            assert!(message.needs_reply() && message.descriptors.len() == 1);
            assert_eq!(message.body, RANGE.as_bytes());
            message.reply(&0u64.to_ne_bytes()).send(stream, &[]).unwrap();
        });
        done.unwrap();
        // The peer is gone by now.
        assert!(matches!(channel.unmap(&RANGE), Err(BackChannelError::NoAnswer(_))));
        assert!(matches!(channel.unmap(&RANGE), Err(BackChannelError::Closed)));
        let (_, refused) = ask(|stream, message| {
            message.reply(&1u64.to_ne_bytes()).send(stream, &[]).unwrap();
        });
        assert!(matches!(refused, Err(BackChannelError::Refused)));
    }

    #[test]
    fn what_is_no_answer_closes_the_channel() {
        let not_answers: [fn(&Message) -> Message; 3] = [
            |message| Message::new(message.request, &0u64.to_ne_bytes()),
            |message| message.reply(&[0; 4]),
            |_| Message::new(77, &[]).reply(&0u64.to_ne_bytes()),
        ];
        for not_answer in not_answers {
            let (mut channel, asked) = ask(|stream, message| {
                not_answer(&message).send(stream, &[]).unwrap();
            });
            assert!(matches!(asked, Err(BackChannelError::WrongAnswer)), "{asked:?}");
            assert!(matches!(channel.unmap(&RANGE), Err(BackChannelError::Closed)));
        }
    }

    #[test]
    fn a_channel_can_be_closed_while_it_waits() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut channel = BackChannel::new(ours.into());
        let closer = channel.closer().unwrap();
        thread::scope(|scope| {
            let asked = scope.spawn(move || channel.unmap(&RANGE));
            closer.close();
            asked.join().unwrap().unwrap_err();
        });
    }
}
