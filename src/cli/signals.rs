//! Signals: those that stop the daemon, and those that must not end a process.

use std::io;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use log::{error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::sandbox::{ThreadKind, enter_thread};

/// How long a stop may take: requests in flight are completed, and a sync of a file that is under way.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Lets a write beyond the limit on the size of files (`ulimit -f`) fail with EFBIG instead of ending the
/// process, so that what was begun can be undone and the error is reported. Programs that this process
/// executes get the default action back.
///
/// # Errors
///
/// The operating system refuses.
pub fn outlive_file_size_limit() -> io::Result<()> {
    // The flag is of no use: the handler exists so that the default action is not taken.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// The signals of a daemon: SIGTERM and SIGINT stop it, and SIGHUP does nothing.
pub(super) struct StopSignals(Signals);

impl StopSignals {
    /// Catches the signals. Those that come before [`watch`](Self::watch) are kept for it.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub(super) fn catch() -> io::Result<StopSignals> {
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map(StopSignals)
    }

    /// Starts a thread that calls `stop` at SIGTERM or SIGINT, and ends the process at the second of them, or
    /// when the stop takes too long: what is not completed then, the frontend hands to the next daemon.
    ///
    /// # Errors
    ///
    /// There are not enough threads.
    pub(super) fn watch(self, stop: impl Fn() + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("signals".into()).spawn(move || self.wait(&stop)).map(drop)
    }

    fn wait(mut self, stop: &dyn Fn()) {
        enter_thread(ThreadKind::Signals);
        let mut is_stopping = false;
        for signal in self.0.forever() {
            if signal == SIGHUP {
                info!("SIGHUP has no meaning here: nothing is read again");
                continue;
            }
            if is_stopping {
                warn!("told to stop again: ending at once");
                exit(1);
            }
            is_stopping = true;
            info!("stopping");
            // Before the stop: a service manager that does not read what it is told must not hold it up for ever.
            if let Err(error) = thread::Builder::new().name("stop-limit".into()).spawn(limit_stop) {
                warn!("the time of the stop is not limited: {error}");
            }
            stop();
        }
    }
}

/// Ends the process when a stop takes too long.
fn limit_stop() {
    thread::sleep(STOP_LIMIT);
    error!("requests in flight are not completed in time: ending without them");
    exit(1);
}
