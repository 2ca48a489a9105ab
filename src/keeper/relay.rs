//! The loop over all sockets: of frontends that want to connect, of those that have, and of the serving process.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use log::{error, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::link::Link;
use crate::error_chain::in_one_line;
use crate::vhost_user::handed;

/// Connections of a device: the one that is served, and one that waits, so that the serving process sees that.
const MOST_LINKS: usize = 2;
/// How long to wait before trying again what failed for want of descriptors.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// What becomes of the serving process.
pub(super) enum Event {
    /// One has started, which takes the connections of each device from one of these.
    Started(Vec<UnixStream>),
    /// It has ended.
    Ended,
}

/// The socket of a device, and the frontends that have connected there.
pub(super) struct Device {
    name: String,
    listener: UnixListener,
    /// Where the serving process takes connections, and says when it serves, and when it has closed one.
    handing: Option<UnixStream>,
    links: VecDeque<Link>,
    times: Times,
}

/// When a serving process has ended, and when the next one could serve.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub ended: Option<Instant>,
    pub serving: Option<Instant>,
}

impl Device {
    /// The device that the log calls `name`.
    pub(super) fn new(name: String, listener: UnixListener) -> Device {
        Device { name, listener, handing: None, links: VecDeque::new(), times: Times::default() }
    }

    fn is_full(&self) -> bool {
        self.links.len() >= MOST_LINKS
    }

    /// Goes on with everything for which something has come. Returns whether the serving process says that it
    /// serves.
    fn advance(&mut self) -> bool {
        let serves = self.hear();
        self.links.iter_mut().for_each(|link| link.advance(&self.name, self.times));
        self.links.retain(|link| !link.is_over || link.is_handed_over);
        self.accept();
        serves
    }

    /// What the serving process says, a byte at a time.
    fn hear(&mut self) -> bool {
        let mut serves = false;
        let mut byte = [0];
        while let Some(handing) = &mut self.handing {
            match handing.read(&mut byte) {
                Ok(0) => self.handing = None,
                Ok(_) if byte == [handed::SERVING] => {
                    serves = true;
                    self.times.serving = Some(Instant::now());
                }
                // It is the first one that is served; what was answered before is passed on.
                Ok(_) => {
                    self.links
                        .front_mut()
                        .into_iter()
                        .for_each(|link| link.advance(&self.name, self.times));
                    self.links.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        serves
    }

    fn accept(&mut self) {
        while !self.is_full() {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    let link = Link::new(socket);
                    self.links.push_back(link);
                    self.hand_over();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    warn!("{}: cannot accept a connection: {error}", self.name);
                    return thread::sleep(TRY_AGAIN);
                }
            }
        }
    }

    /// Hands the connections to the serving process that it does not know of.
    fn hand_over(&mut self) {
        let (Some(handing), name) = (&self.handing, &self.name) else { return };
        let served = |link: &mut Link| match link.hand_over(handing) {
            Ok(()) => true,
            Err(error) => {
                let error = in_one_line(&error);
                error!("{name}: a frontend is disconnected, as it cannot be handed over: {error}");
                false
            }
        };
        self.links.retain_mut(|link| link.is_handed_over || served(link));
    }

    fn happens(&mut self, handing: Option<UnixStream>) {
        // What it has said before its end counts.
        self.advance();
        if handing.is_none() {
            self.times = Times { ended: Some(Instant::now()), serving: None };
            self.links.iter_mut().for_each(Link::take_back);
            self.links.retain(|link| !link.is_over);
        }
        self.handing = handing;
        self.hand_over();
    }
}

/// Passes messages on, for ever. `wake` is readable when there is an event; a byte is written to `serving` when
/// a process says that it serves.
pub(super) fn run(
    mut devices: Vec<Device>,
    events: &Receiver<Event>,
    mut wake: UnixStream,
    mut serving: UnixStream,
) -> io::Result<()> {
    loop {
        wait(&devices, &wake)?;
        let mut bytes = [0; 64];
        // The keeper ends.
        if let Ok(0) = wake.read(&mut bytes) {
            return Ok(());
        }
        for event in events.try_iter() {
            let mut handing = match event {
                Event::Started(sockets) => sockets.into_iter().map(Some).collect(),
                Event::Ended => Vec::new(),
            };
            handing.resize_with(devices.len(), || None);
            devices.iter_mut().zip(handing).for_each(|(device, handing)| device.happens(handing));
        }
        for device in &mut devices {
            if device.advance() {
                // If it is full, it has been told.
                let _ = serving.write(&[1]);
            }
        }
    }
}

/// Waits until there is something to do.
fn wait(devices: &[Device], wake: &UnixStream) -> io::Result<()> {
    let readable = PollFlags::POLLIN;
    let mut sources = vec![PollFd::new(wake.as_fd(), readable)];
    for device in devices {
        if !device.is_full() {
            sources.push(PollFd::new(device.listener.as_fd(), readable));
        }
        sources.extend(device.handing.iter().map(|socket| PollFd::new(socket.as_fd(), readable)));
        let links = device.links.iter().flat_map(Link::sources);
        sources.extend(links.map(|(wire, events)| PollFd::new(wire.as_fd(), events)));
    }
    match poll(&mut sources, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
