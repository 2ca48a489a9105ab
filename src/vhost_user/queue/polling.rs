//! Busy polling: polls an empty ring for a while before the worker sleeps.
//!
//! Sleeping until a kick costs the guest a system call, and delays the request by the time that a CPU
//! takes to wake (tens of microseconds in a virtual machine), which is longer than the request itself.
//! So a worker whose ring is empty polls it for a while, with kicks suppressed. Polling takes CPU time,
//! which is spent only where it pays and where no other thread needs the CPU:
//!
//! * A guest that comes too late several times running is not waited for any more, until a request
//!   comes so soon after the worker has gone to sleep that waiting would have caught it.
//! * Between polls, the CPU is offered to the threads that are ready to run on it. If one takes it, the
//!   machine is short of CPUs, and the worker goes to sleep: the guest's own CPU may be what waits.

use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

/// Looks between two offers of the CPU, each of which is a system call.
const LOOKS: u32 = 16;
/// Fruitless waits running after which there are no more.
const MOST_FRUITLESS: u32 = 8;
/// How long a yield of the CPU takes at most if no other thread runs.
const OFFER: Duration = Duration::from_micros(20);

/// Whether, and for how long, a worker waits for requests.
#[derive(Debug)]
pub(super) struct Polling {
    /// The longest wait.
    most: Duration,
    /// When the ring ran empty, if the worker is waiting.
    since: Option<Instant>,
    looks: u32,
    fruitless: u32,
    /// When the worker went to sleep, if it did.
    asleep: Option<Instant>,
}

impl Polling {
    /// Waits of up to `most`; none if that is zero.
    pub(super) fn new(most: Duration) -> Polling {
        Polling { most, since: None, looks: 0, fruitless: 0, asleep: None }
    }

    /// Returns whether the worker is waiting at an empty ring.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// There were requests.
    pub(super) fn found(&mut self) {
        if self.since.take().is_some() {
            self.fruitless = 0;
        }
    }

    /// The worker was woken.
    pub(super) fn woken(&mut self) {
        if let Some(asleep) = self.asleep.take()
            && asleep.elapsed() < self.most
        {
            self.fruitless = 0;
        }
    }

    /// The ring is empty. Returns whether to look again, rather than go to sleep.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.most.is_zero() || self.fruitless >= MOST_FRUITLESS {
            return false;
        }
        let Some(since) = self.since else {
            self.since = Some(Instant::now());
            self.looks = 0;
            return true;
        };
        self.looks += 1;
        if !self.looks.is_multiple_of(LOOKS) {
            spin_loop();
            return true;
        }
        let before = Instant::now();
        thread::yield_now();
        let now = Instant::now();
        let waits = now - since < self.most && now - before < OFFER;
        if !waits {
            self.since = None;
            self.fruitless += 1;
        }
        waits
    }

    /// The worker goes to sleep.
    pub(super) fn sleeps(&mut self) {
        self.since = None;
        if !self.most.is_zero() {
            self.asleep = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits in vain.
    fn wait(polling: &mut Polling) -> u32 {
        let mut looks = 0;
        while polling.goes_on() {
            looks += 1;
        }
        polling.sleeps();
        looks
    }

    #[test]
    fn a_wait_ends() {
        assert!(wait(&mut Polling::new(Duration::from_micros(50))) > 0);
    }

    #[test]
    fn who_does_not_wait_does_not_look_again() {
        assert_eq!(wait(&mut Polling::new(Duration::ZERO)), 0);
    }

    #[test]
    fn a_guest_that_comes_too_late_is_not_waited_for_until_it_comes_soon() {
        let mut polling = Polling::new(Duration::from_secs(3600));
        polling.fruitless = MOST_FRUITLESS;
        assert_eq!(wait(&mut polling), 0);
        // Within the hour.
        polling.woken();
        assert!(polling.goes_on());
    }

    #[test]
    fn a_request_that_is_waited_for_makes_up_for_those_that_were_not_caught() {
        let mut polling = Polling::new(Duration::from_secs(3600));
        polling.fruitless = MOST_FRUITLESS - 1;
        assert!(polling.goes_on());
        polling.found();
        assert_eq!(polling.fruitless, 0);
        // Without a wait, as under load, there is nothing to learn.
        polling.fruitless = 1;
        polling.found();
        assert_eq!(polling.fruitless, 1);
    }
}
