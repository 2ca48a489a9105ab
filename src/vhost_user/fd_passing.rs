//! Bytes over a Unix socket, and the descriptors that come with them (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors that come with some bytes.
pub(crate) const MOST_DESCRIPTORS: usize = 32;

/// The reason for which nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiveError {
    /// There are more descriptors than are allowed, or the process has as many open as it may have.
    DescriptorsLost,
    /// The system call failed.
    System(Errno),
}

/// Receives what has come, without waiting: at most as many bytes as `into` has. The descriptors that come with
/// them are added to `descriptors`, which may have `most` at the end. Returns the number of bytes; 0: the peer has
/// closed the connection.
pub(crate) fn receive(
    socket: &UnixStream,
    into: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    most: usize,
) -> Result<usize, ReceiveError> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags)
        .map_err(ReceiveError::System)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > most {
        return Err(ReceiveError::DescriptorsLost);
    }
    Ok(received.bytes)
}

/// Sends as many of `bytes` as the socket takes, with `descriptors`; waits for room unless `flags` has `DONTWAIT`.
/// The flags of the socket itself, which may be shared with another process, are left alone.
///
/// # Errors
///
/// `MSGSIZE`: there are more than [`MOST_DESCRIPTORS`].
pub(crate) fn send(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags | SendFlags::NOSIGNAL)
}
