//! The frontend's socket for requests of the device, between the frontend and the serving process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use vhost::vhost_user::message::BackendReq;

use super::wire::{Message, Wire, WireError};

const MAP: u32 = BackendReq::SHMEM_MAP as u32;
const UNMAP: u32 = BackendReq::SHMEM_UNMAP as u32;
/// Most answers of the frontend that may be awaited, and most mappings that are remembered.
const MOST_AWAITED: usize = 64;
const MOST_MAPPINGS: usize = 4096;

/// A request whose answer is awaited.
#[derive(Debug)]
struct Awaited {
    request: Message,
    /// The process that wants the answer is there.
    is_wanted: bool,
}

/// Both ends of the channel.
#[derive(Debug)]
pub(super) struct Channel {
    front: Wire,
    /// `None`: there is no serving process, or it has closed its end.
    back: Option<Wire>,
    awaited: VecDeque<Awaited>,
    /// What the frontend has mapped: the requests that had it do so, and whether by an earlier process.
    mapped: Vec<(Message, bool)>,
}

impl Channel {
    /// The channel at whose other end the frontend is.
    pub(super) fn new(socket: UnixStream) -> Channel {
        let (awaited, mapped) = (VecDeque::new(), Vec::new());
        Channel { front: Wire::new(socket), back: None, awaited, mapped }
    }

    /// Takes over what another channel of the same frontend has mapped.
    pub(super) fn succeed(&mut self, other: Channel) {
        self.mapped = other.mapped;
    }

    /// A new end for a serving process.
    pub(super) fn connect(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.back = Some(Wire::new(ours));
        Ok(theirs.into())
    }

    /// The serving process is gone: its answers are wanted no more, and what it had mapped stays.
    pub(super) fn disconnect(&mut self) {
        self.back = None;
        self.awaited.iter_mut().for_each(|awaited| awaited.is_wanted = false);
        self.mapped.iter_mut().for_each(|(_, is_earlier)| *is_earlier = true);
    }

    /// The device was reset, and with that nothing is mapped any more.
    pub(super) fn forget_mappings(&mut self) {
        self.mapped.clear();
    }

    /// The sockets, and what to wait for.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&Wire, PollFlags)> {
        let reads_front = self.back.as_ref().is_none_or(|back| !back.is_full());
        let reads_back = !self.is_full();
        let front = (&self.front, self.front.events(reads_front));
        let back = self.back.as_ref().map(|back| (back, back.events(reads_back)));
        std::iter::once(front).chain(back)
    }

    fn is_full(&self) -> bool {
        self.front.is_full() || self.awaited.len() >= MOST_AWAITED
    }

    /// Passes on what has come. An error: the frontend has closed its end.
    pub(super) fn advance(&mut self) -> Result<(), WireError> {
        while let Some(back) = self.back.as_mut().filter(|back| !back.is_full()) {
            match self.front.receive()? {
                Some(answer) => {
                    if let Some(answer) =
                        Self::answered(&mut self.awaited, &mut self.mapped, answer)
                    {
                        back.send(answer);
                    }
                }
                None => break,
            }
        }
        if self.back.is_none() {
            while let Some(answer) = self.front.receive()? {
                Self::answered(&mut self.awaited, &mut self.mapped, answer);
            }
        }
        while !self.is_full()
            && let Some(back) = &mut self.back
        {
            match back.receive() {
                Ok(Some(request)) => self.ask(request),
                Ok(None) => break,
                Err(_) => self.back = None,
            }
        }
        self.front.flush();
        self.back.iter_mut().for_each(Wire::flush);
        Ok(())
    }

    /// Passes a request of the device on. Where it maps something else over what an earlier process had mapped,
    /// that is unmapped before.
    fn ask(&mut self, request: Message) {
        if request.request == MAP {
            let is_in_the_way = |(old, is_earlier): &(Message, bool)| {
                *is_earlier && old.body != request.body && overlap(old, &request)
            };
            for (old, _) in self.mapped.extract_if(.., |mapped| is_in_the_way(mapped)) {
                let unmap = Message::new(UNMAP, old.body, Vec::new());
                self.awaited.push_back(Awaited { request: unmap.clone(), is_wanted: false });
                self.front.send(unmap);
            }
        }
        if request.needs_reply() {
            let mut awaited = request.clone();
            awaited.descriptors.clear();
            self.awaited.push_back(Awaited { request: awaited, is_wanted: true });
        }
        self.front.send(request);
    }

    /// What the serving process is to hear of an answer. A frontend refuses to map what it has mapped already;
    /// to a process that maps the same again, that is done.
    fn answered(
        awaited: &mut VecDeque<Awaited>,
        mapped: &mut Vec<(Message, bool)>,
        mut answer: Message,
    ) -> Option<Message> {
        let Awaited { request, is_wanted } = awaited.pop_front()?;
        let place = mapped.iter().position(|(old, _)| same_place(old, &request));
        match (request.request, answer.word(0), place) {
            (MAP, 0, None) if mapped.len() < MOST_MAPPINGS => mapped.push((request, !is_wanted)),
            (MAP, 0, Some(place)) => mapped[place] = (request, !is_wanted),
            (MAP, _, Some(place)) if mapped[place] == (request, true) => {
                mapped[place].1 = !is_wanted;
                answer.body = 0u64.to_ne_bytes().to_vec();
            }
            (UNMAP, 0, Some(place)) => drop(mapped.swap_remove(place)),
            _ => {}
        }
        is_wanted.then_some(answer)
    }
}

/// Compares requests to map by what they map, and where; the file is that of the device.
impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        self.request == other.request && self.body == other.body
    }
}

/// Region, offset in it and number of bytes of a request to map.
fn place(request: &Message) -> (u8, u64, u64) {
    (request.body.first().copied().unwrap_or(0), request.word(16), request.word(24))
}

fn same_place(one: &Message, other: &Message) -> bool {
    place(one) == place(other)
}

fn overlap(one: &Message, other: &Message) -> bool {
    let ((one, start, length), (other, other_start, other_length)) = (place(one), place(other));
    one == other
        && start < other_start.saturating_add(other_length)
        && other_start < start.saturating_add(length)
}
