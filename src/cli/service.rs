//! Notifications to the service manager (`sd_notify(3)`). Without one, they do nothing.

use std::io;
use std::thread;
use std::time::Duration;

use log::{debug, warn};
use sd_notify::NotifyState;

use crate::sandbox::{ThreadKind, enter_thread};

/// Says that the devices are open and listen, and begins to answer the watchdog if there is one
/// (`WatchdogSec=`): it is told twice in each of its intervals that threads of the process still run.
///
/// # Errors
///
/// There are not enough threads.
pub(super) fn ready(devices: usize) -> io::Result<()> {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("serving {devices} devices"))]);
    let Some(interval) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let run = move || keep_awake(interval / 2);
    thread::Builder::new().name("watchdog".into()).spawn(run).map(drop)
}

/// Says that the process ends as it was told to.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("completing requests in flight")]);
}

fn keep_awake(interval: Duration) {
    enter_thread(ThreadKind::Watchdog);
    loop {
        tell(&[NotifyState::Watchdog]);
        thread::sleep(interval);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    match sd_notify::notify(state) {
        Ok(()) => debug!("the service manager is told {state:?}"),
        Err(error) => warn!("cannot tell the service manager {state:?}: {error}"),
    }
}
