//! The thread of a queue: sleeps until the guest kicks, and lets the queue's worker go on.
//!
//! The thread exists from the first start of its ring until the connection ends. Through
//! [`QueueThread`], the session tells it which kick to wait for, to poll the ring again, and to end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{debug, warn};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::super::device::VhostDevice;
use super::super::eventfd::Eventfd;
use super::super::wakeup::Wakeup;
use super::counters::QueueCounters;
use super::ring::{Memory, Ring};
use super::wake_signal;
use super::worker::Progress;
use crate::sandbox::{ThreadKind, enter_thread};

/// How long a thread may take to end by itself, before it is interrupted in what it waits for.
const END_LIMIT: Duration = Duration::from_millis(500);
/// How long to wait between looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What the events of the thread are about.
const KICK: u64 = 0;
const WAKE: u64 = 1;

/// What a session and the thread of one of its queues share.
struct Control {
    epoll: OwnedFd,
    wake: Arc<Wakeup>,
    stop: AtomicBool,
}

/// The queue whose thread it is.
pub(in crate::vhost_user) struct Queue {
    /// Its device.
    pub device: Arc<dyn VhostDevice>,
    /// Its number.
    pub number: usize,
    /// Its ring.
    pub ring: Arc<Ring>,
    /// Guest memory.
    pub memory: Memory,
    /// Tells the session that guest memory was lost.
    pub memory_lost: Arc<Wakeup>,
}

impl Queue {
    /// What is counted of it.
    fn counters(&self) -> &QueueCounters {
        self.device.counters(self.number)
    }
}

/// The thread of a queue.
pub(in crate::vhost_user) struct QueueThread {
    control: Arc<Control>,
    thread: JoinHandle<()>,
}

impl QueueThread {
    /// Starts the thread of `queue`.
    ///
    /// # Errors
    ///
    /// There are not enough descriptors or threads.
    pub(in crate::vhost_user) fn start(queue: Queue) -> io::Result<QueueThread> {
        wake_signal::install();
        let (wake, epoll) = (Arc::new(Wakeup::new()?), epoll::create(CreateFlags::CLOEXEC)?);
        epoll::add(&epoll, &*wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let control = Arc::new(Control { epoll, wake, stop: AtomicBool::new(false) });
        let its_control = control.clone();
        let name = format!("queue {}", queue.number);
        let run = move || its_control.run(&queue);
        let thread = thread::Builder::new().name(name).spawn(run)?;
        Ok(QueueThread { control, thread })
    }

    /// Listens to `kick` from now on: once for what it may hold already, and then for each write to it.
    pub(in crate::vhost_user) fn listen_to(&self, kick: &Eventfd) -> io::Result<()> {
        let events = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.control.epoll, kick, EventData::new_u64(KICK), events)?)
    }

    /// Listens to `kick` no more.
    pub(in crate::vhost_user) fn forget(&self, kick: &Eventfd) {
        if let Err(errno) = epoll::delete(&self.control.epoll, kick) {
            debug!("a kick was not listened to: {errno}");
        }
    }

    /// Has the thread look at its ring.
    pub(in crate::vhost_user) fn wake(&self) {
        self.control.wake.wake();
    }

    /// Tells the thread to end.
    pub(in crate::vhost_user) fn begin_stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends the thread. A frontend's descriptor that it is blocked in does not hold it.
    pub(in crate::vhost_user) fn stop(self) {
        self.begin_stop();
        let begun = Instant::now();
        while !self.thread.is_finished() {
            if begun.elapsed() > END_LIMIT {
                wake_signal::interrupt(&self.thread);
            }
            thread::sleep(LOOK_AGAIN);
        }
        if self.thread.join().is_err() {
            warn!("the thread of a queue has panicked");
        }
    }
}

impl Control {
    fn run(&self, queue: &Queue) {
        enter_thread(ThreadKind::Queue);
        let worker = queue.device.worker(queue.number);
        worker.connect(self.wake.clone());
        let mut progress = Progress::Asleep;
        while !self.is_stopping() {
            if let Err(error) = self.sleep(progress, queue) {
                warn!(
                    "{}: queue {}: cannot sleep: {error}",
                    queue.device.log().name(),
                    queue.number
                );
                thread::sleep(Duration::from_millis(100));
            }
            worker.woken();
            progress = self.serve(queue);
        }
        if let Some(call) = worker.disconnect(&queue.ring, &queue.memory) {
            notify(queue, &call);
        }
    }

    /// Lets the worker go on until there is nothing to do. Returns why.
    fn serve(&self, queue: &Queue) -> Progress {
        let worker = queue.device.worker(queue.number);
        let mut progress = Progress::Busy;
        while progress == Progress::Busy && !self.is_stopping() {
            queue.device.windows().start(queue.number, &queue.ring, &queue.memory);
            let call;
            (progress, call) = worker.step(&queue.ring, &queue.memory, &self.stop);
            if let Some(call) = call {
                notify(queue, &call);
            }
        }
        if progress == Progress::MemoryLost {
            self.stop.store(true, Ordering::Release);
            queue.memory_lost.wake();
        }
        progress
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits for a kick, or to be woken, and for no longer than a rate limit has said in `progress`.
    fn sleep(&self, progress: Progress, queue: &Queue) -> io::Result<()> {
        let mut events = Vec::with_capacity(2);
        let limit = match progress {
            Progress::Throttled(wait) => Timespec::try_from(wait).ok(),
            _ => None,
        };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            match event.data.u64() {
                WAKE => self.wake.clear(),
                _ => queue.counters().kicks.add(1),
            }
        }
        Ok(())
    }
}

fn notify(queue: &Queue, call: &Eventfd) {
    queue.counters().interrupts.add(1);
    if let Err(error) = call.notify() {
        queue.device.log().line(
            log::Level::Warn,
            &format_args!("queue {}: cannot notify the guest: {error}", queue.number),
        );
    }
}
