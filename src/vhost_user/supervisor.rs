//! The threads of the devices of a process: of those that were there at its start, and of those that an
//! administrator adds.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope};

use log::error;

use super::error::Error;
use super::fleet::{Fleet, Member};
use super::server::Server;
use super::stop::Stop;
use crate::error_chain::in_one_line;
use crate::sandbox::{ThreadKind, enter_thread};

/// What the supervisor is told.
enum Event {
    /// Serve another device, and say whether it is served.
    Arrival(Box<Server>, Sender<io::Result<()>>),
    /// The device with this number is not served any more.
    Ended(usize, Result<(), Error>),
    /// Stop all devices.
    Stop,
}

/// Stops all devices of a process, also those that were added.
#[derive(Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Stops them.
    pub fn stop(&self) {
        // Without a supervisor, there is nothing left to stop.
        let _ = self.0.send(Event::Stop);
    }
}

/// Hands devices that were added over to the supervisor.
#[derive(Clone)]
pub(super) struct Arrivals(Sender<Event>);

impl Arrivals {
    /// Has `server` served in a thread of its own.
    ///
    /// # Errors
    ///
    /// There are not enough threads, or the daemon ends.
    pub(super) fn serve(&self, server: Server) -> io::Result<()> {
        let (answer, answered) = channel();
        self.0.send(Event::Arrival(Box::new(server), answer)).map_err(|_| ends())?;
        answered.recv().unwrap_or_else(|_| Err(ends()))
    }
}

fn ends() -> io::Error {
    io::Error::other("the daemon ends")
}

/// Where events come from, and arrive.
pub(super) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Default for Events {
    fn default() -> Events {
        let (sender, receiver) = channel();
        Events { sender, receiver }
    }
}

impl Events {
    pub(super) fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    pub(super) fn arrivals(&self) -> Arrivals {
        Arrivals(self.sender.clone())
    }
}

/// A device to be served, and what the administrator sees of it.
type Enlisted = (Server, Option<Arc<Member>>);

/// Shows a device to the administrator.
pub(super) fn enlist(mut server: Server, fleet: &Fleet) -> Enlisted {
    let member = server.take_member();
    if let Some(member) = &member {
        fleet.add(member.clone());
    }
    (server, member)
}

/// Serves `devices`, and those that are added, until none is left. If there are none at first, it goes on without
/// one until it is stopped.
///
/// # Errors
///
/// As [`Devices::run`](super::devices::Devices::run).
pub(super) fn supervise(
    devices: Vec<Enlisted>,
    fleet: &Fleet,
    events: Events,
) -> Result<(), Error> {
    enter_thread(ThreadKind::Main);
    let Events { sender, receiver } = events;
    thread::scope(|scope| {
        let mut supervisor = Supervisor {
            scope,
            fleet,
            sender,
            needs_none: devices.is_empty(),
            is_stopped: false,
            running: HashMap::new(),
            devices: 0,
            failures: Vec::new(),
        };
        for device in devices {
            let log_name = device.0.name().to_owned();
            if let Err(source) = supervisor.start(device) {
                let action = "cannot start a thread for a device";
                supervisor.failed(&log_name, Error::System { action, source });
            }
        }
        while supervisor.goes_on() {
            // The supervisor has a sender itself, so the channel stays open.
            let Ok(event) = receiver.recv() else { break };
            supervisor.take(event);
        }
        supervisor.outcome()
    })
}

struct Supervisor<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    fleet: &'scope Fleet,
    sender: Sender<Event>,
    /// It goes on without a device until it is stopped.
    needs_none: bool,
    is_stopped: bool,
    /// What the devices are called that are served, and what stops them.
    running: HashMap<usize, (String, Stop)>,
    /// How many there have been.
    devices: usize,
    failures: Vec<Error>,
}

impl Supervisor<'_, '_> {
    fn goes_on(&self) -> bool {
        (self.needs_none && !self.is_stopped) || !self.running.is_empty()
    }

    /// Starts the thread of a device. The device is gone if that fails.
    fn start(&mut self, (server, member): Enlisted) -> io::Result<()> {
        let number = self.devices;
        self.devices += 1;
        let (log_name, stop) = (server.name().to_owned(), server.stop_handle());
        let (fleet, known) = (self.fleet, member.clone());
        let report = Report { sender: self.sender.clone(), number };
        let run = move || report.of(|| serve(server, member.as_ref(), fleet));
        let started = thread::Builder::new().name("device".into()).spawn_scoped(self.scope, run);
        match (started, known) {
            (Ok(_), _) => {
                self.running.insert(number, (log_name, stop));
                Ok(())
            }
            (Err(error), known) => {
                if let Some(member) = &known {
                    fleet.ended(member);
                }
                Err(error)
            }
        }
    }

    /// Serves a device that was added.
    fn welcome(&mut self, server: Server) -> io::Result<()> {
        if self.is_stopped {
            return Err(ends());
        }
        self.start(enlist(server, self.fleet))
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Arrival(server, answer) => {
                // A client that has left does not hear it.
                let _ = answer.send(self.welcome(*server));
            }
            Event::Ended(number, result) => {
                let Some((log_name, _)) = self.running.remove(&number) else { return };
                if let Err(error) = result {
                    self.failed(&log_name, error);
                }
            }
            Event::Stop => {
                self.is_stopped = true;
                self.running.values().for_each(|(_, stop)| stop.stop());
            }
        }
    }

    /// Takes note of a device that has failed. The error of an only device is the process's.
    fn failed(&mut self, log_name: &str, error: Error) {
        if self.devices > 1 {
            error!("{log_name}: {}", in_one_line(&error));
        }
        self.failures.push(error);
    }

    fn outcome(self) -> Result<(), Error> {
        let (failed, devices) = (self.failures.len(), self.devices);
        match self.failures.into_iter().next() {
            None => Ok(()),
            Some(error) if devices == 1 => Err(error),
            Some(_) => Err(Error::Devices { failed, devices }),
        }
    }
}

/// Tells the supervisor what has become of a device, also if its thread panics.
struct Report {
    sender: Sender<Event>,
    number: usize,
}

impl Report {
    fn of(self, serve: impl FnOnce() -> Result<(), Error>) {
        struct Unless(Option<Report>);
        impl Drop for Unless {
            fn drop(&mut self) {
                if let Some(Report { sender, number }) = self.0.take() {
                    // The scope passes the panic on.
                    let _ = sender.send(Event::Ended(number, Ok(())));
                }
            }
        }
        let mut panicked = Unless(Some(self));
        let result = serve();
        if let Some(Report { sender, number }) = panicked.0.take() {
            let _ = sender.send(Event::Ended(number, result));
        }
    }
}

/// Serves a device, which the administrator sees meanwhile, until it ends.
fn serve(server: Server, member: Option<&Arc<Member>>, fleet: &Fleet) -> Result<(), Error> {
    let growth = member.and_then(|member| member.description.growth.clone());
    let result = server.run_with(growth);
    if let Some(member) = member {
        fleet.ended(member);
    }
    result
}
