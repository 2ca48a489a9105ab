//! Sends and receives complete messages of the vhost-user protocol.
//!
//! A message consists of a header, a body whose size is in the header, and descriptors that arrive with
//! its first byte. There is a time limit on waiting for the rest of a message, and on sending one:
//! frontends send each message at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::vhost_user::fd_passing::{MOST_DESCRIPTORS, ReceiveError, receive, send};

/// Most bytes of a body. The longest is the configuration of shared memory regions.
pub(crate) const MOST_BYTES: usize = 4096;
/// How long a message may take from its first byte to its last, in either direction.
const MESSAGE_LIMIT: Duration = Duration::from_secs(2);

/// Flags of a header.
pub(crate) const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
pub(crate) const REPLY: u32 = 1 << 2;
pub(crate) const NEED_REPLY: u32 = 1 << 3;

/// The header of every message. Numbers are in the order of the machine, as everywhere in the protocol.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    pub request: u32,
    pub flags: u32,
    pub size: u32,
}

impl Header {
    /// Returns whether a message may begin with it.
    pub(crate) fn is_possible(self) -> bool {
        self.flags & VERSION_MASK == VERSION && self.size as usize <= MOST_BYTES
    }
}

/// Why there will be no more messages.
#[derive(Debug, thiserror::Error)]
pub(in crate::vhost_user) enum MessageError {
    /// The peer has closed the connection between two messages.
    #[error("the peer has disconnected")]
    Disconnected,
    /// The peer has closed the connection in the middle of a message.
    #[error("the peer has disconnected in the middle of a message")]
    CutOff,
    /// A message was not sent, or not taken, within its time limit.
    #[error("the peer does not go on with a message within {} s", MESSAGE_LIMIT.as_secs())]
    Late,
    /// The bytes are no message.
    #[error("not a vhost-user message: flags {flags:#x}, a body of {size} bytes")]
    Garbage {
        /// Flags of the header.
        flags: u32,
        /// Size of the body in bytes.
        size: u32,
    },
    /// Descriptors are missing.
    #[error(
        "descriptors of a message are lost: there are more than {MOST_DESCRIPTORS}, or this process has as \
         many open as it may have (ulimit -n)"
    )]
    DescriptorsLost,
    /// A system call failed.
    #[error("the connection fails")]
    System(#[from] io::Error),
}

/// A message.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct Message {
    /// What it asks for, or answers.
    pub request: u32,
    /// Flags of its header.
    pub(super) flags: u32,
    /// What follows the header.
    pub body: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// A message `request` with `body`.
    pub(crate) fn new(request: u32, body: &[u8]) -> Message {
        Message { request, flags: VERSION, body: body.to_vec(), descriptors: Vec::new() }
    }

    /// The message, whose sender wants to hear whether it was carried out.
    pub(crate) fn asking_for_reply(self) -> Message {
        Message { flags: self.flags | NEED_REPLY, ..self }
    }

    /// Returns whether the sender wants to hear whether the request was carried out.
    pub(crate) fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Returns whether it answers a request.
    pub(crate) fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// The answer to it.
    pub(crate) fn reply(&self, body: &[u8]) -> Message {
        Message { flags: VERSION | REPLY, ..Message::new(self.request, body) }
    }

    /// Receives the message whose first byte has come.
    pub(crate) fn receive(stream: &UnixStream) -> Result<Message, MessageError> {
        let mut receiver = Receiver::new(stream);
        let mut header = [0; size_of::<Header>()];
        receiver.fill(&mut header)?;
        let header: Header = zerocopy::transmute!(header);
        if !header.is_possible() {
            return Err(MessageError::Garbage { flags: header.flags, size: header.size });
        }
        let mut body = vec![0; header.size as usize];
        receiver.fill(&mut body)?;
        let Receiver { descriptors, .. } = receiver;
        Ok(Message { request: header.request, flags: header.flags, body, descriptors })
    }

    /// Sends the message, with `descriptors`.
    pub(crate) fn send(
        &self,
        stream: &UnixStream,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), MessageError> {
        // Bodies are of a few kilobytes at the most.
        let size = self.body.len() as u32;
        let header = Header { request: self.request, flags: self.flags, size };
        let bytes = [header.as_bytes(), &self.body].concat();
        let deadline = Instant::now() + MESSAGE_LIMIT;
        let mut sent = 0;
        while sent < bytes.len() {
            wait(stream, PollFlags::POLLOUT, deadline)?;
            // The descriptors go with the first byte.
            let descriptors = if sent == 0 { descriptors } else { &[] };
            match send(stream, &bytes[sent..], descriptors, SendFlags::DONTWAIT) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(MessageError::Disconnected),
                Err(errno) => return Err(MessageError::System(errno.into())),
            }
        }
        Ok(())
    }
}

/// A message on its way.
struct Receiver<'s> {
    stream: &'s UnixStream,
    deadline: Instant,
    has_begun: bool,
    descriptors: Vec<OwnedFd>,
}

impl Receiver<'_> {
    fn new(stream: &UnixStream) -> Receiver<'_> {
        let deadline = Instant::now() + MESSAGE_LIMIT;
        Receiver { stream, deadline, has_begun: false, descriptors: Vec::new() }
    }

    /// Receives as many bytes as `into` has.
    fn fill(&mut self, into: &mut [u8]) -> Result<(), MessageError> {
        let mut done = 0;
        while done < into.len() {
            match self.receive(&mut into[done..])? {
                Some(0) if self.has_begun => return Err(MessageError::CutOff),
                Some(0) => return Err(MessageError::Disconnected),
                Some(count) => {
                    self.has_begun = true;
                    done += count;
                }
                None => wait(self.stream, PollFlags::POLLIN, self.deadline)?,
            }
        }
        Ok(())
    }

    /// Receives what has come. Returns `None` if that is nothing.
    fn receive(&mut self, into: &mut [u8]) -> Result<Option<usize>, MessageError> {
        match receive(self.stream, into, &mut self.descriptors, MOST_DESCRIPTORS) {
            Ok(count) => Ok(Some(count)),
            Err(ReceiveError::System(Errno::AGAIN | Errno::INTR)) => Ok(None),
            Err(ReceiveError::System(Errno::CONNRESET)) => Ok(Some(0)),
            Err(ReceiveError::System(errno)) => Err(MessageError::System(errno.into())),
            Err(ReceiveError::DescriptorsLost) => Err(MessageError::DescriptorsLost),
        }
    }
}

/// Waits until the socket is ready for `events`, or has failed.
pub(super) fn wait(
    stream: &UnixStream,
    events: PollFlags,
    deadline: Instant,
) -> Result<(), MessageError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(MessageError::Late);
        }
        // Rounded up, so as not to wait for less and less.
        let milliseconds = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        let mut sockets = [PollFd::new(stream.as_fd(), events)];
        match poll(&mut sockets, PollTimeout::from(milliseconds)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(MessageError::System(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::mem::MaybeUninit;
    use std::thread;

    use rustix::cmsg_space;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (ours, theirs) = pair();
        let file = tempfile::tempfile().unwrap();
        let message = Message::new(7, &[1, 2, 3]).asking_for_reply();
        message.send(&ours, &[file.as_fd()]).unwrap();
        message.reply(&[]).send(&ours, &[]).unwrap();
        let received = Message::receive(&theirs).unwrap();
        assert_eq!((received.request, received.body.as_slice()), (7, &[1, 2, 3][..]));
        assert!(received.needs_reply() && !received.is_reply());
        assert_eq!(received.descriptors.len(), 1);
        let received = Message::receive(&theirs).unwrap();
        assert!(received.is_reply() && received.body.is_empty() && received.descriptors.is_empty());
        drop(ours);
        assert!(matches!(Message::receive(&theirs), Err(MessageError::Disconnected)));
    }

    #[test]
    fn a_message_in_pieces_is_put_together() {
        let (mut ours, theirs) = pair();
        let bytes = [&[7, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0][..], &[9; 8]].concat();
        let sender = thread::spawn(move || {
            for byte in bytes {
                ours.write_all(&[byte]).unwrap();
            }
            ours
        });
        let received = Message::receive(&theirs).unwrap();
        assert_eq!((received.request, received.body.as_slice()), (7, &[9; 8][..]));
        sender.join().unwrap();
    }

    #[test]
    fn half_a_message_ends_the_connection() {
        let (mut ours, theirs) = pair();
        ours.write_all(&[7, 0, 0]).unwrap();
        assert!(matches!(Message::receive(&theirs), Err(MessageError::Late)));
        drop(ours);
        assert!(matches!(Message::receive(&theirs), Err(MessageError::Disconnected)));
        let (mut ours, theirs) = pair();
        ours.write_all(&[7, 0, 0]).unwrap();
        drop(ours);
        assert!(matches!(Message::receive(&theirs), Err(MessageError::CutOff)));
    }

    #[test]
    fn a_peer_that_takes_nothing_ends_the_connection() {
        let (ours, theirs) = pair();
        let message = Message::new(1, &[0; MOST_BYTES]);
        let refused = (0..1000).find_map(|_| message.send(&ours, &[]).err());
        assert!(matches!(refused, Some(MessageError::Late)), "{refused:?}");
        drop(theirs);
        assert!(matches!(message.send(&ours, &[]), Err(MessageError::Disconnected)));
    }

    #[test]
    fn what_is_no_message_is_told() {
        for (flags, size) in [(0u32, 0u32), (2, 8), (1, 4097), (1, u32::MAX)] {
            let (mut ours, theirs) = pair();
            let header = Header { request: 1, flags, size };
            ours.write_all(header.as_bytes()).unwrap();
            let error = Message::receive(&theirs).unwrap_err();
            assert!(matches!(error, MessageError::Garbage { .. }), "{error}");
        }
    }

    #[test]
    fn more_descriptors_than_a_message_can_have_are_told() {
        let (ours, theirs) = pair();
        let file = tempfile::tempfile().unwrap();
        let many = vec![file.as_fd(); MOST_DESCRIPTORS + 1];
        let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS + 1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
        let header = Header { request: 1, flags: 1, size: 0 };
        let bytes = [IoSlice::new(header.as_bytes())];
        sendmsg(&ours, &bytes, &mut ancillary, SendFlags::empty()).unwrap();
        assert!(matches!(Message::receive(&theirs), Err(MessageError::DescriptorsLost)));
    }
}
