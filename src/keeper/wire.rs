//! Messages of the vhost-user protocol on a socket, without ever waiting for the peer.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use nix::poll::PollFlags;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Bytes of a header: request, flags and size of the body, each a `u32`.
const HEADER: usize = 12;
/// Most bytes of a body, and most descriptors of a message; the serving process takes no more.
const MOST_BYTES: usize = 4096;
const MOST_DESCRIPTORS: usize = 32;
/// Messages that may wait to be sent; the sender of more is not read from meanwhile.
const MOST_WAITING: usize = 64;

/// Flags of a header.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

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
        let header = [self.request, self.flags, self.body.len() as u32].map(u32::to_ne_bytes);
        [header.as_flattened(), &self.body].concat()
    }
}

/// A socket with what has come of a message, and what is to be sent.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixStream,
    bytes: Vec<u8>,
    descriptors: Vec<Rc<OwnedFd>>,
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
            match send_some(&self.socket, &bytes[self.sent..], descriptors) {
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
            match self.receive_some(&mut buffer[..missing.min(MOST_BYTES)]) {
                Ok(0) | Err(Errno::CONNRESET) => return Err(WireError::Closed),
                Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::NOBUFS) => return Err(WireError::Garbage),
                Err(errno) => return Err(WireError::System(errno.into())),
            }
        }
    }

    /// How many bytes of the message, or of its header, have not come yet.
    fn missing(&self) -> Result<usize, WireError> {
        if self.bytes.len() < HEADER {
            return Ok(HEADER - self.bytes.len());
        }
        let [_, flags, size] = self.header();
        if flags & VERSION_MASK != VERSION || size as usize > MOST_BYTES {
            return Err(WireError::Garbage);
        }
        Ok(HEADER + size as usize - self.bytes.len())
    }

    fn header(&self) -> [u32; 3] {
        let half = |at: usize| self.bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        [half(0), half(4), half(8)]
    }

    fn take(&mut self) -> Message {
        let [request, flags, _] = self.header();
        let body = std::mem::take(&mut self.bytes).split_off(HEADER);
        Message { request, flags, body, descriptors: std::mem::take(&mut self.descriptors) }
    }

    /// `NOBUFS`: descriptors are lost.
    fn receive_some(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors.map(Rc::new));
            }
        }
        let are_lost = received.flags.contains(ReturnFlags::CTRUNC);
        if are_lost || self.descriptors.len() > MOST_DESCRIPTORS {
            return Err(Errno::NOBUFS);
        }
        Ok(received.bytes)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends bytes and descriptors, as far as that is possible without waiting.
pub(super) fn send_some(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}
