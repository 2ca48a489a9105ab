//! Starts the serving process, and the next one when it has ended or is to be replaced.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::relay::{self, Device, Event};
use crate::sandbox::{self, Sandbox, SandboxError};

/// Over which time starts are counted.
const MINUTE: Duration = Duration::from_secs(60);
/// How long the keeper waits before a start, the first time that it does, and at the most.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How long the serving process may take to end: longer than it allows itself.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What is kept.
pub struct Plan {
    /// The program that serves, looked for at each start.
    pub program: PathBuf,
    /// Its arguments. `--kept=N,...` follows, with a descriptor for each device.
    pub arguments: Vec<OsString>,
    /// The devices' sockets, which do not block, and what the log calls them.
    pub devices: Vec<(String, UnixListener)>,
    /// Most starts within a minute.
    pub most_starts: u32,
    /// What is left to the thread that talks to frontends.
    pub sandbox: Option<Sandbox>,
    /// Is called when the devices are served for the first time.
    pub on_ready: Box<dyn FnOnce()>,
}

/// Why the keeper ends.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was to be done.
        action: &'static str,
        /// Why it was not.
        source: io::Error,
    },
    /// The serving process ends again and again.
    #[error(
        "the serving process was started {0} times within a minute, and no more than that is allowed \
         (--most-starts): the connections of all frontends end"
    )]
    TooOften(u32),
    /// The thread that talks to frontends has ended.
    #[error("the thread that talks to frontends has ended")]
    Relay,
    /// The sandbox of the thread that talks to frontends cannot be entered.
    #[error("the thread that talks to frontends cannot give up its rights")]
    Sandbox(#[from] SandboxError),
}

fn fails(action: &'static str) -> impl FnOnce(io::Error) -> KeeperError {
    move |source| KeeperError::System { action, source }
}

/// Why a process is waited for no more.
enum Reason {
    /// It has ended.
    Ended,
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Replace,
}

/// The serving process.
struct Serving {
    child: Child,
    pidfd: OwnedFd,
    started: Instant,
}

struct Keeper {
    plan: Plan,
    count: usize,
    events: Sender<Event>,
    wake: UnixStream,
    /// Readable when a process says that it serves; closed when the relay has ended.
    serving: UnixStream,
    stop: UnixStream,
    replace: UnixStream,
    was_ready: bool,
    /// When the processes of the last minute were started.
    starts: VecDeque<Instant>,
}

/// Keeps the devices of `plan` served until SIGTERM or SIGINT. SIGHUP replaces the serving process, by the
/// program that is there by then.
///
/// # Errors
///
/// The serving process ends too often, or there are not enough descriptors or threads.
pub fn keep(mut plan: Plan) -> Result<ExitCode, KeeperError> {
    let pair = || {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok((ours, theirs))
    };
    let caught = |signals: &[i32]| {
        let (ours, theirs) = pair()?;
        signals
            .iter()
            .try_for_each(|signal| pipe::register(*signal, theirs.try_clone()?).map(drop))?;
        Ok(ours)
    };
    let stop = caught(&[SIGTERM, SIGINT]).map_err(fails("watch for signals"))?;
    let replace = caught(&[SIGHUP]).map_err(fails("watch for signals"))?;
    let (wake, its_wake) = pair().map_err(fails("make a pair of sockets"))?;
    let (serving, its_serving) = pair().map_err(fails("make a pair of sockets"))?;
    let (events, its_events) = channel();
    let devices = std::mem::take(&mut plan.devices);
    let (count, sandbox) = (devices.len(), plan.sandbox.take());
    let (entered, has_entered) = channel();
    sandbox::limit_arenas();
    let run = move || {
        let is_entered = sandbox.as_ref().map_or(Ok(()), sandbox::enter_relay);
        let may_run = is_entered.is_ok();
        // The other end waits for it.
        let _ = entered.send(is_entered);
        if may_run {
            let devices = devices.into_iter().map(|(name, socket)| Device::new(name, socket));
            if let Err(error) = relay::run(devices.collect(), &its_events, its_wake, its_serving) {
                error!("the sockets of the devices cannot be waited for: {error}");
            }
        }
    };
    thread::Builder::new().name("relay".into()).spawn(run).map_err(fails("start a thread"))?;
    has_entered.recv().map_err(|_| KeeperError::Relay)??;
    let starts = VecDeque::new();
    Keeper { plan, count, events, wake, serving, stop, replace, was_ready: false, starts }.run()
}

impl Keeper {
    fn run(mut self) -> Result<ExitCode, KeeperError> {
        loop {
            if let Some(reason) = self.delay()? {
                return Ok(reason);
            }
            let mut serving = self.start()?;
            let reason = self.wait(&serving, None)?;
            if !matches!(reason, Reason::Ended) {
                info!("the serving process completes what it has in hand, and ends");
                self.end(&mut serving)?;
            }
            let status = serving.child.wait().map_err(fails("wait for the serving process"))?;
            self.hear_serving()?;
            match reason {
                Reason::Stop => return Ok(ExitCode::SUCCESS),
                // What is wrong with the first start is wrong with the next.
                Reason::Ended if !self.was_ready => return Ok(exit_code(status)),
                Reason::Ended => {
                    let (after, starts) = (serving.started.elapsed(), self.starts.len());
                    warn!(
                        "the serving process has ended after {:.1} s ({status}): the next one is start {} of \
                         at most {} within a minute",
                        after.as_secs_f64(),
                        starts + 1,
                        self.plan.most_starts
                    );
                }
                Reason::Replace => info!("the serving process is replaced"),
            }
            self.tell(Event::Ended);
        }
    }

    /// Waits before a start if there were many. Returns how to end if the keeper is stopped meanwhile.
    fn delay(&mut self) -> Result<Option<ExitCode>, KeeperError> {
        let now = Instant::now();
        self.starts.retain(|start| now.duration_since(*start) < MINUTE);
        let (starts, most) = (self.starts.len() as u32, self.plan.most_starts);
        if starts >= most {
            return Err(KeeperError::TooOften(starts));
        }
        // The first half of them at once.
        let Some(doublings) = starts.checked_sub(most.div_ceil(2)) else { return Ok(None) };
        let delay = FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(LONGEST_DELAY);
        warn!("the serving process is started again in {} ms", delay.as_millis());
        let mut sources = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        // At most five seconds.
        match poll(&mut sources, PollTimeout::from(delay.as_millis() as u16)) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => Ok(Some(ExitCode::SUCCESS)),
            Err(errno) => Err(fails("wait")(errno.into())),
        }
    }

    fn start(&mut self) -> Result<Serving, KeeperError> {
        let pair = |_| {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            // Its end stays open in the process that is started.
            fcntl_setfd(&theirs, FdFlags::empty())?;
            Ok((ours, theirs))
        };
        let pairs = (0..self.count).map(pair).collect::<io::Result<Vec<_>>>();
        let pairs = pairs.map_err(fails("make a pair of sockets"))?;
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let numbers: Vec<_> = theirs.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
        let mut command = Command::new(&self.plan.program);
        command.args(&self.plan.arguments).arg(format!("--kept={}", numbers.join(",")));
        // They are the keeper's.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(name);
        }
        let started = Instant::now();
        let child = command.spawn().map_err(fails("start the serving process"))?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.map_err(|errno| fails("watch the serving process")(errno.into()))?;
        self.starts.push_back(started);
        info!("the serving process is {}", child.id());
        self.tell(Event::Started(ours));
        Ok(Serving { child, pidfd, started })
    }

    /// Waits until the process ends or the keeper is told something; with a `limit`, for so long at the most, and
    /// for SIGHUP no more.
    fn wait(&mut self, serving: &Serving, limit: Option<Instant>) -> Result<Reason, KeeperError> {
        loop {
            let readable = PollFlags::POLLIN;
            let mut sources = vec![
                PollFd::new(serving.pidfd.as_fd(), readable),
                PollFd::new(self.stop.as_fd(), readable),
                PollFd::new(self.serving.as_fd(), readable),
            ];
            if limit.is_none() {
                sources.push(PollFd::new(self.replace.as_fd(), readable));
            }
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::from(u16::try_from(left.as_millis()).unwrap_or(u16::MAX))
            });
            match poll(&mut sources, timeout) {
                Ok(0) => return Ok(Reason::Stop),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(fails("wait for the serving process")(errno.into())),
            }
            let is_ready: Vec<_> = sources.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            match is_ready[..] {
                // A service manager may stop both at once.
                [_, true, ..] if drain(&self.stop) => return Ok(Reason::Stop),
                [true, ..] => return Ok(Reason::Ended),
                [_, _, true, ..] => self.hear_serving()?,
                [.., true] if limit.is_none() && drain(&self.replace) => {
                    return Ok(Reason::Replace);
                }
                _ => {}
            }
        }
    }

    /// Has the process end: at once, if it takes too long, or the keeper is told to stop meanwhile.
    fn end(&mut self, serving: &mut Serving) -> Result<(), KeeperError> {
        // It may have ended already.
        let _ = pidfd_send_signal(&serving.pidfd, Signal::TERM);
        let limit = Instant::now() + END_LIMIT;
        if !matches!(self.wait(serving, Some(limit))?, Reason::Ended) {
            warn!(
                "the serving process is killed: it has not ended in time, or the keeper was told to stop again"
            );
            serving.child.kill().map_err(fails("kill the serving process"))?;
        }
        Ok(())
    }

    /// Takes notice that a process serves, or that the relay has ended.
    fn hear_serving(&mut self) -> Result<(), KeeperError> {
        let mut bytes = [0; 64];
        match self.serving.read(&mut bytes) {
            Ok(0) => return Err(KeeperError::Relay),
            Ok(_) if !self.was_ready => {
                self.was_ready = true;
                std::mem::replace(&mut self.plan.on_ready, Box::new(|| ()))();
            }
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        // If the relay has ended, that is found where it is heard.
        let _ = self.events.send(event);
        let _ = self.wake.write(&[1]);
    }
}

/// Returns whether there was something in a pipe.
fn drain(mut pipe: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    pipe.read(&mut bytes).is_ok_and(|count| count > 0)
}

/// The exit status that a shell shows.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
