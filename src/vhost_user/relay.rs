//! A connected socket, for a crate that accepts on listening ones only.
//!
//! The server listens on a socket without a name in the file system, connects to it itself, and two
//! threads carry messages between that connection and the frontend's. They carry whole messages: the
//! kernel hands descriptors over with the bytes that they were sent with, but a read that begins
//! before those bytes may go on into them, and then nobody could tell whose the descriptors are.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;

use log::debug;
use rustix::cmsg_space;
use rustix::net::{
    AncillaryIter, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use uuid::Uuid;

/// Most descriptors of a message: four times as many as the crate takes.
const MOST_DESCRIPTORS: usize = 32;
/// Bytes of a message's header: request, flags, size of the rest, 32 bits each.
const HEADER_SIZE: usize = 12;
/// Most bytes of a message's rest; the crate takes 4096.
const MOST_BYTES: usize = 1 << 16;

/// A listener at which nobody but `stream`'s frontend ever connects.
pub(super) fn listener_for(stream: UnixStream) -> io::Result<UnixListener> {
    let name = format!("vhost-user-btt-{}", Uuid::new_v4());
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let ours = UnixStream::connect_addr(&address)?;
    let (their_reader, our_reader) = (stream.try_clone()?, ours.try_clone()?);
    let spawn = |name: &str, from: UnixStream, to: UnixStream| {
        thread::Builder::new().name(name.into()).spawn(move || carry(&from, &to))
    };
    spawn("relay-in", their_reader, ours)?;
    spawn("relay-out", our_reader, stream)?;
    Ok(listener)
}

/// Carries messages one way until either end closes, and then closes the other.
fn carry(from: &UnixStream, to: &UnixStream) {
    let ended = loop {
        match Message::receive(from).and_then(|message| message.map(|m| m.send(to)).transpose()) {
            Ok(Some(())) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    debug!("relay ended: {ended:?}");
    for end in [from, to] {
        // The other direction may have closed it already.
        let _ = shutdown(end, Shutdown::Both);
    }
}

/// A message of the vhost-user protocol.
struct Message {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Message {
    /// Waits for a message. `None`: the other end has closed.
    fn receive(from: &UnixStream) -> io::Result<Option<Message>> {
        let mut message = Message { bytes: Vec::new(), descriptors: Vec::new() };
        if !message.receive_more(from, HEADER_SIZE)? {
            return Ok(None);
        }
        // The size is in the machine's own order, as everything in the protocol.
        let size = message.bytes[8..].try_into().map(u32::from_ne_bytes);
        let size = size.map_or(usize::MAX, |size| size as usize);
        if size > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without measure"));
        }
        Ok(message.receive_more(from, HEADER_SIZE + size)?.then_some(message))
    }

    /// Receives until there are `length` bytes. Whether the other end is still there.
    fn receive_more(&mut self, from: &UnixStream, length: usize) -> io::Result<bool> {
        let mut done = self.bytes.len();
        self.bytes.resize(length, 0);
        while done < length {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut rest = [IoSliceMut::new(&mut self.bytes[done..])];
            let received = recvmsg(from, &mut rest, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            if received.bytes == 0 {
                return Ok(false);
            }
            done += received.bytes;
            self.descriptors.extend(ancillary.drain().filter_map(descriptors).flatten());
        }
        Ok(true)
    }

    fn send(&self, to: &UnixStream) -> io::Result<()> {
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors))
        {
            return Err(io::Error::other("too many descriptors in one message"));
        }
        let all = [IoSlice::new(&self.bytes)];
        let sent = sendmsg(to, &all, &mut ancillary, SendFlags::NOSIGNAL)?;
        // The descriptors go with the first byte.
        let mut to = to;
        to.write_all(&self.bytes[sent..])
    }
}

fn descriptors(message: RecvAncillaryMessage<'_>) -> Option<AncillaryIter<'_, OwnedFd>> {
    match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    }
}
