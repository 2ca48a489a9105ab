//! A connected socket, for a crate that accepts on listening ones only.
//!
//! The server listens on a socket without a name in the file system, connects to it itself, and two
//! threads carry messages between that connection and the frontend's. A message's descriptors travel
//! with its first byte; the kernel never joins what carries descriptors with what went before.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;

use log::debug;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use uuid::Uuid;

/// Most descriptors of a message: those of a memory table with 32 regions, four times the crate's
/// limit.
const MOST_DESCRIPTORS: usize = 32;
/// Bytes that are carried at a time.
const CHUNK: usize = 4096;

/// A listener at which nobody but `stream`'s frontend ever connects.
pub(super) fn listener_for(stream: UnixStream) -> io::Result<UnixListener> {
    let name = format!("vhost-user-btt-{}", Uuid::new_v4());
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let ours = UnixStream::connect_addr(&address)?;
    let (their_reader, our_reader) = (stream.try_clone()?, ours.try_clone()?);
    let spawn = |name: &str, from: UnixStream, to: UnixStream| {
        thread::Builder::new()
            .name(name.into())
            .spawn(move || carry(&from, &to))
    };
    spawn("relay-in", their_reader, ours)?;
    spawn("relay-out", our_reader, stream)?;
    Ok(listener)
}

/// Carries messages one way until either end closes, and then closes the other.
fn carry(from: &UnixStream, to: &UnixStream) {
    let ended = loop {
        match carry_some(from, to) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    debug!("relay ended: {ended:?}");
    for end in [from, to] {
        // The other direction may have closed it already.
        let _ = shutdown(end, Shutdown::Both);
    }
}

/// Carries what has arrived. Returns the number of bytes, 0 at the end.
fn carry_some(from: &UnixStream, to: &UnixStream) -> io::Result<usize> {
    let mut bytes = [0; CHUNK];
    let mut space =
        [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    send_all(to, &bytes[..received.bytes], &descriptors)?;
    Ok(received.bytes)
}

fn send_all(to: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut rest = bytes;
    let mut first = true;
    while !rest.is_empty() {
        let mut space =
            [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if first
            && !borrowed.is_empty()
            && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed))
        {
            return Err(io::Error::other("too many descriptors in one message"));
        }
        let sent = sendmsg(
            to,
            &[IoSlice::new(rest)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        rest = &rest[sent..];
        first = false;
    }
    Ok(())
}
