//! One connection of a frontend: passes messages on, and sets up again what was set up when the process at the
//! other end is another one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use log::{error, info, warn};
use nix::poll::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;
use vhost::vhost_user::message::FrontendReq;

use super::channel::Channel;
use super::record::{REPLY_ACK, Record, RecordError};
use super::relay::Times;
use super::wire::{Message, Wire, WireError};
use crate::error_chain::in_one_line;
use crate::vhost_user::fd_passing::send;
use crate::vhost_user::has_own_answer;

/// Most requests that may be on their way; the frontend is not read from meanwhile.
const MOST_IN_FLIGHT: usize = 64;
/// Hands over the socket for requests of the device.
const SET_CHANNEL: u32 = FrontendReq::SET_BACKEND_REQ_FD as u32;

/// A request that the serving process has been sent, and has not been heard of.
#[derive(Debug)]
struct InFlight {
    message: Message,
    /// The process answers it.
    is_answered: bool,
    /// It sets up again what another process knew: the frontend does not wait for the answer.
    is_replayed: bool,
}

/// Why a frontend cannot be handed to a serving process.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandOverError {
    /// Where its rings go on is not known.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// There are no descriptors left, or the process is gone.
    #[error("cannot hand over a socket")]
    System(#[from] io::Error),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    front: Wire,
    /// `None`: there is no serving process, or it has closed the connection.
    back: Option<Wire>,
    record: Record,
    in_flight: VecDeque<InFlight>,
    channel: Option<Channel>,
    /// The serving process answers requests that want to be answered.
    replies: bool,
    /// The serving process knows of the connection.
    pub(super) is_handed_over: bool,
    /// The frontend has gone.
    pub(super) is_over: bool,
}

impl Link {
    /// The connection at whose other end a frontend is.
    pub(super) fn new(socket: UnixStream) -> Link {
        Link {
            front: Wire::new(socket),
            back: None,
            record: Record::default(),
            in_flight: VecDeque::new(),
            channel: None,
            replies: false,
            is_handed_over: false,
            is_over: false,
        }
    }

    /// Hands the connection to the serving process that takes connections from `handing`: in the state in which
    /// the one before has left it, with the requests that it had not answered.
    pub(super) fn hand_over(&mut self, handing: &UnixStream) -> Result<(), HandOverError> {
        let messages = if self.record.is_empty() { Vec::new() } else { self.record.replay()? };
        let (ours, theirs) = UnixStream::pair()?;
        match send(handing, &[0], &[theirs.as_fd()], SendFlags::DONTWAIT) {
            Ok(_) => {}
            // It is gone already: the next one gets it.
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        self.back = Some(Wire::new(ours));
        self.is_handed_over = true;
        self.replies = false;
        let unanswered = std::mem::take(&mut self.in_flight);
        if let Some(message) = self.channel_message()? {
            self.pass_on(message, true);
        }
        for message in messages {
            self.pass_on(message, true);
        }
        for InFlight { mut message, .. } in
            unanswered.into_iter().filter(|request| !request.is_replayed)
        {
            if let (SET_CHANNEL, Some(channel)) = (message.request, &mut self.channel) {
                message.descriptors = vec![Rc::new(channel.connect()?)];
            }
            self.pass_on(message, false);
        }
        Ok(())
    }

    /// The serving process is gone.
    pub(super) fn take_back(&mut self) {
        self.back = None;
        self.is_handed_over = false;
        self.channel.iter_mut().for_each(Channel::disconnect);
    }

    /// The message by which a serving process gets a socket for requests to the frontend, if there is one.
    fn channel_message(&mut self) -> io::Result<Option<Message>> {
        let Some(channel) = &mut self.channel else { return Ok(None) };
        let socket = channel.connect()?;
        Ok(Some(Message::new(SET_CHANNEL, Vec::new(), vec![Rc::new(socket)])))
    }

    /// The sockets, and what to wait for.
    pub(super) fn sources(&self) -> Vec<(&Wire, PollFlags)> {
        let mut sources = vec![(&self.front, self.front.events(self.takes_requests()))];
        if let Some(back) = &self.back {
            sources.push((back, back.events(!self.front.is_full())));
        }
        sources.extend(self.channel.iter().flat_map(Channel::sources));
        sources.retain(|(_, events)| !events.is_empty());
        sources
    }

    /// Without a serving process, what the frontend says waits in its socket.
    fn takes_requests(&self) -> bool {
        let has_room = self.back.as_ref().is_some_and(|back| !back.is_full());
        has_room && self.in_flight.len() < MOST_IN_FLIGHT && !self.is_over
    }

    /// Passes on what has come, in both directions; `name` is what the log calls the device.
    pub(super) fn advance(&mut self, name: &str, times: Times) {
        while !self.front.is_full()
            && let Some(back) = &mut self.back
        {
            match back.receive() {
                Ok(Some(answer)) => self.answered(answer, name, times),
                Ok(None) => break,
                // It closes one connection, or has ended: which of them, the relay hears.
                Err(_) => self.back = None,
            }
        }
        while self.takes_requests() {
            match self.front.receive() {
                Ok(Some(request)) => self.request(request, name),
                Ok(None) => break,
                Err(error) => self.end(name, &error),
            }
        }
        if let Some(channel) = &mut self.channel
            && channel.advance().is_err()
        {
            self.channel = None;
        }
        self.front.flush();
        self.back.iter_mut().for_each(Wire::flush);
    }

    /// The frontend has gone, or cannot be understood.
    fn end(&mut self, name: &str, error: &WireError) {
        if !matches!(error, WireError::Closed) {
            warn!("{name}: a frontend is disconnected: {}", in_one_line(error));
        }
        self.is_over = true;
        self.back = None;
        self.channel = None;
    }

    /// A request of the frontend. The device's end of its socket for requests is one of the keeper's own.
    fn request(&mut self, mut message: Message, name: &str) {
        if message.request == SET_CHANNEL && message.descriptors.len() == 1 {
            match self.new_channel(&message.descriptors) {
                Ok(socket) => message.descriptors = vec![Rc::new(socket)],
                Err(error) => warn!("{name}: the device cannot ask the frontend: {error}"),
            }
        }
        self.pass_on(message, false);
    }

    fn new_channel(&mut self, descriptors: &[Rc<OwnedFd>]) -> io::Result<OwnedFd> {
        let socket = descriptors[0].as_fd().try_clone_to_owned()?;
        let mut channel = Channel::new(UnixStream::from(socket));
        if let Some(before) = self.channel.take() {
            channel.succeed(before);
        }
        let ours = channel.connect()?;
        self.channel = Some(channel);
        Ok(ours)
    }

    fn pass_on(&mut self, message: Message, is_replayed: bool) {
        let request = message.request;
        if request == FrontendReq::SET_PROTOCOL_FEATURES as u32 {
            self.replies = message.word(0) & REPLY_ACK != 0;
        }
        if request == FrontendReq::RESET_DEVICE as u32 {
            self.channel.iter_mut().for_each(Channel::forget_mappings);
        }
        let is_answered = has_own_answer(request) || message.needs_reply() && self.replies;
        if let Some(back) = &mut self.back {
            back.send(message.clone());
        }
        self.in_flight.push_back(InFlight { message, is_answered, is_replayed });
        self.note_unanswered();
    }

    /// Remembers what comes before the first request whose answer is awaited: it is carried out, or will be.
    fn note_unanswered(&mut self) {
        while self.in_flight.front().is_some_and(|first| !first.is_answered) {
            if let Some(first) = self.in_flight.pop_front().filter(|first| !first.is_replayed) {
                self.record.note(&first.message, None);
            }
        }
    }

    /// An answer of the serving process.
    fn answered(&mut self, answer: Message, name: &str, times: Times) {
        let is_meant = |first: &InFlight| {
            answer.is_reply() && first.message.request == answer.request && first.is_answered
        };
        let Some(first) = self.in_flight.pop_front().filter(is_meant) else {
            warn!("{name}: the serving process answers to request {} unasked", answer.request);
            return self.end(name, &WireError::Garbage);
        };
        let request = first.message.request;
        let is_refused = !has_own_answer(request) && answer.word(0) != 0;
        if first.is_replayed && is_refused {
            error!(
                "{name}: the serving process refuses request {request}, which an earlier one has carried out: the \
                 guest's disk may stand still until it is served by a program and options as before"
            );
        }
        if !first.is_replayed {
            if !is_refused {
                self.record.note(&first.message, Some(&answer));
            }
            self.front.send(answer);
        }
        let goes_on = first.is_replayed && self.in_flight.iter().all(|other| !other.is_replayed);
        self.note_unanswered();
        if goes_on {
            let since = |then: Option<Instant>| {
                then.map_or(0.0, |then| then.elapsed().as_secs_f64() * 1000.0)
            };
            info!(
                "{name}: the frontend is served again, {:.1} ms after the end of the process before, and {:.1} ms \
                 after this one could serve",
                since(times.ended),
                since(times.serving)
            );
        }
    }
}
