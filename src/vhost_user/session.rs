//! A session: one frontend's connection, from its first message to its end.
//!
//! The session handles the requests of the frontend, one message after another. It refuses a request
//! that it cannot carry out, if the frontend wants an answer, and continues; it ends where an answer
//! would not be understood. The threads of the queues belong to the session and end with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{Shutdown, shutdown};
use virtio_queue::QueueT;

use super::device::VhostDevice;
use super::feature_names;
use super::hold::{Hold, HoldError};
use super::memory_table::{MemoryTable, MemoryTableError};
use super::migration::LogError;
use super::protocol::message::{Message, MessageError};
use super::protocol::request::{Request, RequestError};
use super::queue::{Memory, Queue, QueueThread, Ring};
use super::rings::RingError;
use super::stop::Stop;
use super::wakeup::Wakeup;
use crate::virtio::GuestRam;

/// How long a frontend that has connected may take to say something.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// The same while another frontend waits.
const FIRST_MESSAGE_IF_WAITED_FOR: Duration = Duration::from_secs(2);
/// How long a frontend may be silent before it has said what guest memory is, while another one waits.
const SETUP_IF_WAITED_FOR: Duration = Duration::from_secs(60);

/// Virtio features that concern the rings, and not the device.
pub(super) const F_PROTOCOL_FEATURES: u64 = 1 << 30;
const F_EVENT_IDX: u64 = 1 << 29;
/// The frontend wants all stores to guest memory in its log (vhost-user, "Migration").
pub(super) const F_LOG_ALL: u64 = 1 << 26;

/// The answer to `SET_DEVICE_STATE_FD` that no other pipe is used.
const NO_PIPE: u64 = 1 << 8;

/// Protocol features that every device has.
pub(super) mod protocol_features {
    pub(crate) const MQ: u64 = 1 << 0;
    pub(crate) const LOG_SHMFD: u64 = 1 << 1;
    pub(crate) const REPLY_ACK: u64 = 1 << 3;
    pub(crate) const BACKEND_REQ: u64 = 1 << 5;
    pub(crate) const CONFIG: u64 = 1 << 9;
    pub(crate) const RESET_DEVICE: u64 = 1 << 13;
    pub(crate) const BACKEND_SEND_FD: u64 = 1 << 10;
    pub(crate) const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub(crate) const DEVICE_STATE: u64 = 1 << 19;
    pub(crate) const SHMEM: u64 = 1 << 22;
    /// Of every device.
    pub(crate) const COMMON: u64 =
        MQ | REPLY_ACK | CONFIG | RESET_DEVICE | CONFIGURE_MEM_SLOTS | DEVICE_STATE;
}

/// Why a session has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    /// The connection fails, or the frontend has closed it.
    #[error(transparent)]
    Connection(#[from] MessageError),
    /// A request whose answer the frontend waits for cannot be carried out.
    #[error("a request that has to be answered cannot be carried out")]
    Unanswerable(#[source] SessionError),
    /// A part of guest memory does not answer any more.
    #[error(
        "a part of guest memory, or of the log of a migration, does not answer: the frontend has truncated \
         its file, or its huge pages have run out"
    )]
    MemoryLost,
    /// What is stored cannot be logged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The frontend has not said anything for too long.
    #[error("the frontend has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// The server is to stop.
    #[error("the server stops")]
    Stopped,
    /// The session cannot wait for messages.
    #[error("cannot wait for messages")]
    System(#[source] io::Error),
}

/// Why a request cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// It is no request, or none that is known.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Guest memory cannot be what it says.
    #[error("the memory table")]
    Memory(#[from] MemoryTableError),
    /// The ring cannot be what it says.
    #[error("ring {index}")]
    Ring {
        /// Number of the ring.
        index: u32,
        /// Why.
        source: RingError,
    },
    /// What rings need cannot be held.
    #[error(transparent)]
    Hold(HoldError),
    /// Features that were not offered.
    #[error("features {0:#x} were not offered")]
    Features(u64),
    /// What is stored cannot be logged.
    #[error("the log of a migration")]
    Log(#[from] LogError),
    /// The frontend's socket for requests of the device cannot be used.
    #[error("the channel for requests to the frontend")]
    BackChannel(#[source] io::Error),
}

impl SessionError {
    /// Returns whether rings cannot run for want of what they need.
    fn is_of_hold(&self) -> bool {
        let ring = |source: &RingError| matches!(source, RingError::Hold(_));
        matches!(self, SessionError::Hold(_))
            || matches!(self, SessionError::Ring { source, .. } if ring(source))
    }
}

/// What a frontend hears.
pub(super) enum Answer {
    /// That it is done, if it wants to hear that.
    Done,
    /// This.
    Body(Vec<u8>),
}

impl Answer {
    fn number(number: u64) -> Answer {
        Answer::Body(number.to_ne_bytes().to_vec())
    }
}

/// A session.
pub(super) struct Session<'s> {
    pub(super) device: Arc<dyn VhostDevice>,
    stream: UnixStream,
    stop: &'s Stop,
    /// Readable once another frontend waits; `None`: that has been said, or there can be none.
    listener: Option<&'s dyn AsFd>,
    is_waited_for: bool,
    /// Holds what rings need that run; `None`: that is held all the time.
    pub(super) holder: Option<&'s dyn Hold>,
    /// Readable once guest memory was lost.
    memory_lost: Arc<Wakeup>,
    pub(super) memory: MemoryTable,
    pub(super) rings: Vec<Arc<Ring>>,
    /// The threads of the rings that have been started.
    pub(super) threads: Vec<Option<QueueThread>>,
    features: u64,
    protocol_features: u64,
    /// When the frontend was last heard, and whether it ever was.
    heard: Option<Instant>,
    begun: Instant,
}

impl<'s> Session<'s> {
    /// A session of `device` with the frontend at the other end of `stream`, which `stop` ends. `listener`
    /// is readable when another frontend wants to connect, and `holder` holds what rings need that run.
    ///
    /// # Errors
    ///
    /// There are not enough descriptors.
    pub(super) fn new(
        device: Arc<dyn VhostDevice>,
        stream: UnixStream,
        stop: &'s Stop,
        listener: Option<&'s dyn AsFd>,
        holder: Option<&'s dyn Hold>,
    ) -> io::Result<Session<'s>> {
        let queue_size = device.queue_size();
        let ring = |_| Ring::new(queue_size).map(Arc::new).map_err(io::Error::other);
        let rings: Vec<_> = (0..device.queues()).map(ring).collect::<Result<_, _>>()?;
        let memory_lost = Arc::new(Wakeup::new()?);
        device.connection().begin(&stream);
        Ok(Session {
            stream,
            stop,
            listener,
            is_waited_for: false,
            holder,
            memory_lost,
            memory: MemoryTable::new(Memory::new(GuestRam::new())),
            threads: rings.iter().map(|_| None).collect(),
            rings,
            features: 0,
            protocol_features: 0,
            heard: None,
            begun: Instant::now(),
            device,
        })
    }

    /// The connection.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Carries out what the frontend asks for until it leaves, or has to.
    pub(super) fn run(&mut self) -> SessionEnd {
        loop {
            match self.wait().and_then(|()| self.serve_message()) {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Waits for a message.
    fn wait(&mut self) -> Result<(), SessionEnd> {
        loop {
            let timeout = self.timeout()?;
            let readable = PollFlags::POLLIN;
            let mut sources = vec![
                PollFd::new(self.stream.as_fd(), readable),
                PollFd::new(self.stop.as_fd(), readable),
                PollFd::new(self.memory_lost.as_fd(), readable),
            ];
            if let Some(listener) = self.listener.filter(|_| !self.is_waited_for) {
                sources.push(PollFd::new(listener.as_fd(), readable));
            }
            match poll(&mut sources, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(SessionEnd::System(errno.into())),
            }
            let is_ready: Vec<bool> =
                sources.iter().map(|source| source.any().unwrap_or(true)).collect();
            match is_ready[..] {
                [_, true, ..] => return Err(SessionEnd::Stopped),
                [_, _, true, ..] => return Err(SessionEnd::MemoryLost),
                [true, ..] => return Ok(()),
                [.., true] => self.say_waited_for(),
                _ => {}
            }
        }
    }

    fn say_waited_for(&mut self) {
        self.is_waited_for = true;
        let message = "another frontend waits: it is served when this one has disconnected";
        self.device.log().line(Level::Warn, &message);
    }

    /// How long to wait for a message.
    fn timeout(&self) -> Result<PollTimeout, SessionEnd> {
        let limit = match (self.heard, self.is_waited_for) {
            (None, false) => FIRST_MESSAGE,
            (None, true) => FIRST_MESSAGE_IF_WAITED_FOR,
            (Some(_), true) if self.memory.is_empty() => SETUP_IF_WAITED_FOR,
            _ => return Ok(PollTimeout::NONE),
        };
        let silent = self.heard.unwrap_or(self.begun).elapsed();
        match limit.checked_sub(silent).filter(|left| !left.is_zero()) {
            // Rounded up, so as not to wait for less and less; a minute at the most.
            Some(left) => Ok(PollTimeout::from(left.as_millis() as u16 + 1)),
            None => Err(SessionEnd::Silent(limit)),
        }
    }

    /// Carries out the message that has come.
    fn serve_message(&mut self) -> Result<(), SessionEnd> {
        let message = Message::receive(&self.stream)?;
        self.heard = Some(Instant::now());
        let mut reply = message.reply(&[]);
        let has_own_answer = has_own_answer(message.request);
        let needs_reply = message.needs_reply();
        let carried_out = Request::decode(message)
            .map_err(SessionError::from)
            .and_then(|request| self.carry_out(request));
        self.check_log()?;
        if self.has_lost_memory() {
            return Err(SessionEnd::MemoryLost);
        }
        // The request that accepts REPLY_ACK is answered itself, as the back ends of libvhost-user and of the
        // crate `vhost` do.
        let wants_result =
            needs_reply && self.protocol_features & protocol_features::REPLY_ACK != 0;
        reply.body = match carried_out {
            Ok(Answer::Body(body)) => body,
            Err(error) if has_own_answer => return Err(SessionEnd::Unanswerable(error)),
            Ok(Answer::Done) if wants_result => 0u64.to_ne_bytes().to_vec(),
            Ok(Answer::Done) => return Ok(()),
            Err(error) => {
                // Nothing else would tell a frontend that its guest's requests are never carried out.
                let is_fatal = error.is_of_hold();
                if is_fatal && !wants_result {
                    return Err(SessionEnd::Unanswerable(error));
                }
                let text = crate::error_chain::in_one_line(&error);
                let level = if is_fatal { Level::Error } else { Level::Warn };
                self.device.log().line(level, &format_args!("refused: {text}"));
                if !wants_result {
                    return Ok(());
                }
                1u64.to_ne_bytes().to_vec()
            }
        };
        Ok(reply.send(&self.stream, &[])?)
    }

    fn carry_out(&mut self, request: Request) -> Result<Answer, SessionError> {
        let answer = match request {
            Request::GetFeatures => Answer::number(self.offered_features()),
            Request::GetProtocolFeatures => Answer::number(self.offered_protocol_features()),
            Request::GetQueueNum => Answer::number(self.rings.len() as u64),
            Request::GetMaxMemSlots => Answer::number(super::memory_table::MOST_SLOTS as u64),
            Request::GetConfig(range) => {
                let bytes = self.device.read_config(range.place(), range.size);
                Answer::Body([zerocopy::IntoBytes::as_bytes(&range), &bytes].concat())
            }
            Request::GetShmemConfig => Answer::Body(self.device.windows().config()),
            Request::GetVringBase(state) => {
                let base = self.stop_ring(state.index)?;
                Answer::Body([state.index, base.into()].map(u32::to_ne_bytes).concat())
            }
            Request::SetLogBase(range, file) => {
                self.set_log(range, file)?;
                Answer::number(0)
            }
            // The rings are all the state there is, and the frontend has that.
            Request::SetDeviceStateFd => Answer::number(NO_PIPE),
            Request::CheckDeviceState => Answer::number(0),
            other => return self.change(other).map(|()| Answer::Done),
        };
        Ok(answer)
    }

    /// Carries out a request whose answer is only whether it was.
    fn change(&mut self, request: Request) -> Result<(), SessionError> {
        match request {
            // A frontend that starts anew on the same connection says it again.
            Request::SetOwner => Ok(()),
            Request::ResetOwner => {
                self.disable_rings();
                Ok(())
            }
            Request::ResetDevice => self.reset(),
            Request::SetFeatures(features) => self.set_features(features),
            Request::SetProtocolFeatures(features) => self.set_protocol_features(features),
            Request::SetConfig { range, bytes } => {
                self.device.write_config(range.place(), &bytes);
                Ok(())
            }
            Request::SetBackendReqFd(descriptor) => self.set_back_channel(descriptor),
            Request::SetMemTable(regions) => {
                self.memory.set(regions)?;
                self.wake_all();
                Ok(())
            }
            Request::AddMemReg(region, file) => Ok(self.memory.add(region, file)?),
            Request::RemMemReg(region) => Ok(self.memory.remove(&region)?),
            ring => self.change_ring(ring),
        }
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | F_PROTOCOL_FEATURES | self.if_migratable(F_LOG_ALL)
    }

    fn offered_protocol_features(&self) -> u64 {
        let log = self.if_migratable(protocol_features::LOG_SHMFD);
        protocol_features::COMMON | self.device.protocol_features() | log
    }

    fn set_features(&mut self, features: u64) -> Result<(), SessionError> {
        let surplus = features & !self.offered_features();
        if surplus != 0 {
            return Err(SessionError::Features(surplus));
        }
        if features & F_PROTOCOL_FEATURES == 0 && self.rings.iter().any(|ring| ring.is_ready()) {
            self.hold().map_err(SessionError::Hold)?;
        }
        self.switch_log(features & F_LOG_ALL != 0);
        let features = features & !F_LOG_ALL;
        if self.features != features {
            let names = feature_names::names(features, self.device.feature_names());
            self.device.log().line(Level::Info, &format_args!("the driver accepts {names}"));
        }
        self.features = features;
        for ring in &self.rings {
            let mut state = ring.lock();
            state.queue.set_event_idx(features & F_EVENT_IDX != 0);
            // Without protocol features, rings are enabled from the beginning.
            state.is_enabled |= features & F_PROTOCOL_FEATURES == 0;
        }
        self.device.accept_features(features);
        self.update_all();
        Ok(())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<(), SessionError> {
        // Not all offered bits are known by all frontends, and some accept what they do not use.
        let surplus = features & !self.offered_protocol_features();
        self.protocol_features = features & !surplus;
        self.device.connection().accept_protocol_features(self.protocol_features);
        if surplus == 0 { Ok(()) } else { Err(SessionError::Features(surplus)) }
    }

    fn set_back_channel(&self, descriptor: OwnedFd) -> Result<(), SessionError> {
        if self.device.windows().is_empty() {
            self.device.connection().set_channel(descriptor);
            return Ok(());
        }
        self.device.windows().connect(descriptor).map_err(SessionError::BackChannel)
    }

    fn disable_rings(&mut self) {
        for ring in &self.rings {
            ring.lock().is_enabled = false;
        }
        self.device.windows().stop();
    }

    /// Stops all rings, with their requests completed: each is set up anew before it starts again.
    fn reset(&mut self) -> Result<(), SessionError> {
        for index in 0..self.rings.len() as u32 {
            self.stop_ring(index)?;
        }
        self.disable_rings();
        Ok(())
    }

    fn has_lost_memory(&self) -> bool {
        use vm_memory::{GuestAddressSpace, GuestMemoryBackend};
        let memory = self.memory.memory().memory();
        memory.iter().any(crate::pmem::GuestRegion::is_broken)
    }

    /// Starts the thread of a queue, if it has none yet.
    pub(super) fn thread(&mut self, number: usize) -> io::Result<&QueueThread> {
        if self.threads[number].is_none() {
            let thread = QueueThread::start(Queue {
                device: self.device.clone(),
                number,
                ring: self.rings[number].clone(),
                memory: self.memory.memory().clone(),
                memory_lost: self.memory_lost.clone(),
            })?;
            self.threads[number] = Some(thread);
        }
        match &self.threads[number] {
            Some(thread) => Ok(thread),
            None => Err(io::ErrorKind::Other.into()),
        }
    }

    /// Holds what rings need: one is about to run.
    pub(super) fn hold(&self) -> Result<(), HoldError> {
        self.holder.map_or(Ok(()), Hold::hold)
    }

    /// Lets go of what rings need: none runs.
    pub(super) fn let_go(&self) {
        if let Some(holder) = self.holder {
            holder.let_go();
        }
    }

    /// Has the threads look at their rings again.
    fn wake_all(&self) {
        self.threads.iter().flatten().for_each(QueueThread::wake);
    }
}

impl Drop for Session<'_> {
    /// Completes what was taken off the rings, and forgets what the frontend has set up.
    fn drop(&mut self) {
        self.threads.iter().flatten().for_each(QueueThread::begin_stop);
        self.threads.iter_mut().filter_map(Option::take).for_each(QueueThread::stop);
        self.let_go();
        self.device.windows().disconnect();
        self.device.disconnect();
        self.memory.clear();
        // Another process may have the same socket open: that we close it does not end the connection.
        let _ = shutdown(&self.stream, Shutdown::Both);
    }
}

/// Returns whether a request has an answer of its own, which the frontend waits for.
#[must_use]
pub fn has_own_answer(request: u32) -> bool {
    use vhost::vhost_user::message::FrontendReq;
    let Ok(request) = FrontendReq::try_from(request) else { return false };
    matches!(
        request,
        FrontendReq::GET_FEATURES
            | FrontendReq::GET_PROTOCOL_FEATURES
            | FrontendReq::GET_VRING_BASE
            | FrontendReq::GET_QUEUE_NUM
            | FrontendReq::GET_CONFIG
            | FrontendReq::GET_INFLIGHT_FD
            | FrontendReq::SET_LOG_BASE
            | FrontendReq::GET_MAX_MEM_SLOTS
            | FrontendReq::GET_STATUS
            | FrontendReq::GET_SHARED_OBJECT
            | FrontendReq::SET_DEVICE_STATE_FD
            | FrontendReq::CHECK_DEVICE_STATE
            | FrontendReq::GET_SHMEM_CONFIG
            | FrontendReq::POSTCOPY_ADVISE
            | FrontendReq::POSTCOPY_END
    )
}
