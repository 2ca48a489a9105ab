//! Time limits: what does not come to its end is a failure, and has a name.
//!
//! Threads that wait for each other are found by their scheduler, at once. This is for all else.

use std::process;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long one scenario, or one seed, may take: a hundred times what the longest takes.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// What is under way.
static RUNNING: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());

/// Ends the process, and says why, if something takes too long.
pub fn watch() {
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(1));
            let running = RUNNING.lock().unwrap();
            if let Some((name, _)) = running.iter().find(|(_, begun)| begun.elapsed() > LIMIT) {
                println!("HANG in {name}: no end after {} s", LIMIT.as_secs());
                process::exit(1);
            }
        }
    });
}

/// Does something that has to come to its end.
pub fn within_limit<T>(name: &str, act: impl FnOnce() -> T) -> T {
    let entry = (name.to_owned(), Instant::now());
    RUNNING.lock().unwrap().push(entry.clone());
    let done = act();
    RUNNING.lock().unwrap().retain(|running| *running != entry);
    done
}

/// What came of something that may never end.
pub enum Ended<T> {
    Normally(T),
    ByPanic,
    /// It goes on, in a thread of its own, until the process ends.
    Not,
}

/// Does something that may never end.
pub fn try_within<T: Send + 'static>(
    limit: Duration,
    act: impl FnOnce() -> T + Send + 'static,
) -> Ended<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // If nobody waits any more, it took too long.
        let _ = sender.send(act());
    });
    match receiver.recv_timeout(limit) {
        Ok(done) => Ended::Normally(done),
        Err(RecvTimeoutError::Disconnected) => Ended::ByPanic,
        Err(RecvTimeoutError::Timeout) => Ended::Not,
    }
}
