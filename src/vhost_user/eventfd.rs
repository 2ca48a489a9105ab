//! The event descriptors of a frontend: kicks, and interrupts.
//!
//! The frontend shares the open file description with the daemon and with other processes, so the daemon
//! must not rely on its state: it can be made blocking, be filled up, or act as a semaphore.
//!
//! * A kick is never read. The thread of the queue waits for it edge-triggered: each write to it is one
//!   event, whatever its counter holds.
//! * An interrupt is written without a lock. If the frontend has made the descriptor blocking and its counter
//!   is full, the write waits until the session interrupts it by a signal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// An event descriptor.
#[derive(Debug)]
pub(super) struct Eventfd(OwnedFd);

/// Why a descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventfdError {
    /// It is something else: a pipe or a socket, say, which could block for ever.
    #[error("the descriptor is not an eventfd: {0}")]
    Other(String),
    /// A system call failed.
    #[error("the descriptor cannot be looked at")]
    System(#[from] io::Error),
}

impl Eventfd {
    /// Takes a descriptor of the frontend, which has to be an eventfd.
    pub(super) fn new(descriptor: OwnedFd) -> Result<Eventfd, EventfdError> {
        let kind = kind_of(&descriptor)?;
        if kind != "anon_inode:[eventfd]" {
            return Err(EventfdError::Other(kind));
        }
        let flags = fcntl(&descriptor, FcntlArg::F_GETFL).map_err(io::Error::from)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&descriptor, FcntlArg::F_SETFL(flags)).map_err(io::Error::from)?;
        Ok(Eventfd(descriptor))
    }

    /// Adds one to the counter. A counter that is full is as good: its reader has yet to read it.
    pub(super) fn notify(&self) -> io::Result<()> {
        match nix::unistd::write(&self.0, &1u64.to_ne_bytes()) {
            // A signal interrupts the write only when the connection ends.
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Eventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the kernel's name for the file of a descriptor.
fn kind_of(descriptor: &OwnedFd) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    Ok(std::fs::read_link(path)?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::*;

    fn eventfd(flags: EfdFlags, value: u64) -> OwnedFd {
        let eventfd = EventFd::from_flags(flags).unwrap();
        eventfd.write(value).unwrap();
        eventfd.into()
    }

    #[test]
    fn only_eventfds_are_taken() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
        let file = tempfile::tempfile().unwrap();
        for other in [reader, writer, socket.into(), epoll.unwrap(), file.into()] {
            assert!(matches!(Eventfd::new(other), Err(EventfdError::Other(_))));
        }
        Eventfd::new(eventfd(EfdFlags::EFD_SEMAPHORE, 3)).unwrap();
    }

    #[test]
    fn a_full_counter_does_not_block() {
        let full = Eventfd::new(eventfd(EfdFlags::empty(), u64::MAX - 1)).unwrap();
        full.notify().unwrap();
        full.notify().unwrap();
    }
}
