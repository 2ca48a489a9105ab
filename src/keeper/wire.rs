//! Messages of the vhost-user protocol on a socket, without ever waiting for the peer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use nix::poll::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;
use zerocopy::IntoBytes;

use crate::vhost_user::fd_passing::{MOST_DESCRIPTORS, ReceiveError, receive, send};
use crate::vhost_user::message::{Header, MOST_BYTES, NEED_REPLY, REPLY, VERSION};

/// Bytes of a header.
const HEADER: usize = size_of::<Header>();
/// Messages that may wait to be sent; the sender of more is not read from meanwhile.
const MOST_WAITING: usize = 64;

/// A message. Its descriptors may be held by a record as well.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub request: u32,
    flags: u32,
    pub body: Vec<u8>,
    pub descriptors: Vec<Rc<OwnedFd>>,
}

/// Why a socket is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The peer has closed it.
    #[error("the peer has disconnected")]
    Closed,
    /// The bytes are no message, or its descriptors are lost.
    #[error("not a vhost-user message, or one without its descriptors")]
    Garbage,
    /// A system call failed.
    #[error("the connection fails")]
    System(#[from] io::Error),
}

impl Message {
    /// A message `request` with `body`, to whose sender the peer says whether it was carried out.
    pub(super) fn new(request: u32, body: Vec<u8>, descriptors: Vec<Rc<OwnedFd>>) -> Message {
        Message { request, flags: VERSION | NEED_REPLY, body, descriptors }
    }

    /// The same message, from a sender that wants to hear whether it was carried out.
    pub(super) fn asking_for_reply(mut self) -> Message {
        self.flags |= NEED_REPLY;
        self
    }

    pub(super) fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    pub(super) fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// The number at byte `offset` of the body; 0 behind its end.
    pub(super) fn word(&self, offset: usize) -> u64 {
        let bytes = self.body.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// As [`word`](Self::word), of four bytes.
    pub(super) fn half(&self, offset: usize) -> u32 {
        let bytes = self.body.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    fn bytes(&self) -> Vec<u8> {
        // A body is of a few kilobytes at the most.
        let size = self.body.len() as u32;
        let header = Header { request: self.request, flags: self.flags, size };
        [header.as_bytes(), &self.body].concat()
    }
}

/// A socket with what has come of a message, and what is to be sent.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixStream,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    outbox: VecDeque<Message>,
    /// Bytes of the first of them that were sent.
    sent: usize,
}

impl Wire {
    pub(super) fn new(socket: UnixStream) -> Wire {
        let (bytes, descriptors, outbox) = (Vec::new(), Vec::new(), VecDeque::new());
        Wire { socket, bytes, descriptors, outbox, sent: 0 }
    }

    pub(super) fn send(&mut self, message: Message) {
        self.outbox.push_back(message);
    }

    /// Returns whether what is passed on to this socket has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.outbox.len() >= MOST_WAITING
    }

    /// What to wait for: room for what is to be sent, and messages if `reads`.
    pub(super) fn events(&self, reads: bool) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, reads);
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        events
    }

    /// Sends as much as the socket takes. What the peer does not want to hear any more is left out: that it has
    /// gone is found when it is read from.
    pub(super) fn flush(&mut self) {
        while let Some(message) = self.outbox.front() {
            let bytes = message.bytes();
            let borrowed: Vec<_> = message.descriptors.iter().map(|fd| fd.as_fd()).collect();
            // The descriptors go with the first byte.
            let descriptors = if self.sent == 0 { &borrowed[..] } else { &[] };
            match send(&self.socket, &bytes[self.sent..], descriptors, SendFlags::DONTWAIT) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => self.sent = bytes.len(),
            }
            if self.sent == bytes.len() {
                self.outbox.pop_front();
                self.sent = 0;
            }
        }
    }

    /// Receives a message. Returns `None` if there is no whole one yet.
    pub(super) fn receive(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                return Ok(Some(self.take()));
            }
            let mut buffer = [0; MOST_BYTES];
            let into = &mut buffer[..missing.min(MOST_BYTES)];
            match receive(&self.socket, into, &mut self.descriptors, MOST_DESCRIPTORS) {
                Ok(0) | Err(ReceiveError::System(Errno::CONNRESET)) => {
                    return Err(WireError::Closed);
                }
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
                Err(ReceiveError::System(Errno::INTR)) => {}
                Err(ReceiveError::System(Errno::AGAIN)) => return Ok(None),
                Err(ReceiveError::System(errno)) => return Err(WireError::System(errno.into())),
                Err(ReceiveError::DescriptorsLost) => return Err(WireError::Garbage),
            }
        }
    }

    /// How many bytes of the message, or of its header, have not come yet.
    fn missing(&self) -> Result<usize, WireError> {
        if self.bytes.len() < HEADER {
            return Ok(HEADER - self.bytes.len());
        }
        let header = self.header();
        if !header.is_possible() {
            return Err(WireError::Garbage);
        }
        Ok(HEADER + header.size as usize - self.bytes.len())
    }

    /// The header of the message, of which at least that has come.
    fn header(&self) -> Header {
        let half = |at: usize| self.bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        Header { request: half(0), flags: half(4), size: half(8) }
    }

    fn take(&mut self) -> Message {
        let Header { request, flags, .. } = self.header();
        let body = std::mem::take(&mut self.bytes).split_off(HEADER);
        let descriptors = std::mem::take(&mut self.descriptors).into_iter().map(Rc::new).collect();
        Message { request, flags, body, descriptors }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
