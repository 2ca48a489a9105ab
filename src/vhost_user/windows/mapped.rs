//! Tells whether a frontend has mapped what it was asked to map.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is known of the mappings of one connection.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// The frontend lacks something, or was not asked yet.
    #[default]
    Incomplete,
    /// It was asked, and has not answered.
    Asked,
    /// It has mapped everything.
    Complete,
}

impl Mapped {
    /// The frontend is asked to map everything.
    pub(super) fn begin(&self) {
        self.set(State::Asked);
    }

    /// It has answered; `is_complete`: and has mapped everything.
    pub(super) fn end(&self, is_complete: bool) {
        self.set(if is_complete { State::Complete } else { State::Incomplete });
    }

    /// It has not mapped something that has come since.
    pub(super) fn lacks(&self) {
        let mut state = self.state();
        if *state == State::Complete {
            *state = State::Incomplete;
        }
    }

    /// Waits for its answer, if it was asked. Returns whether it has mapped everything.
    pub(super) fn wait(&self) -> bool {
        let is_asked = |state: &mut State| *state == State::Asked;
        let waited = self.changed.wait_while(self.state(), is_asked);
        *waited.unwrap_or_else(PoisonError::into_inner) == State::Complete
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_is_waited_for_where_there_will_be_one() {
        let mapped = Mapped::default();
        assert!(!mapped.wait());
        let barrier = Barrier::new(2);
        for answer in [true, false] {
            mapped.begin();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    barrier.wait();
                    mapped.wait()
                });
                barrier.wait();
                mapped.end(answer);
                assert_eq!(waiting.join().unwrap(), answer);
            });
        }
        mapped.end(true);
        mapped.lacks();
        assert!(!mapped.wait());
    }
}
