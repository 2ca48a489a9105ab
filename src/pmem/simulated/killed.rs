//! A medium whose process was killed: what the next one sees is not all durable.

use std::sync::Arc;
use std::thread;

use super::{Contents, Effort, Event, Images, Random, Recorder, Simulated, Unfenced};

/// A medium as it is to those who see all that was stored, and to those who come after a power failure.
#[derive(Debug)]
pub struct Killed {
    unfenced: Unfenced,
    durable: Contents,
}

/// What `act` does to a medium of `base`. It is done by another thread than the caller's, whose fences
/// speak for itself alone.
///
/// # Panics
///
/// If `act` panics.
pub fn trace_of_another(base: &Contents, act: impl FnOnce(Arc<Recorder>) + Send) -> Vec<Event> {
    let run = || {
        let recorder = Arc::new(Recorder::new(Simulated::of(base.clone())));
        act(recorder.clone());
        recorder.take_trace()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("what is traced does not panic"))
}

impl Killed {
    /// What is left of `base` where a process was killed after `events`.
    #[must_use]
    pub fn after(base: &Contents, events: &[Event]) -> Killed {
        let mut medium = Killed { unfenced: Unfenced::default(), durable: base.clone() };
        medium.replay(events);
        medium
    }

    /// Does to the medium what somebody else has done to what he [saw](Self::seen).
    pub fn replay(&mut self, events: &[Event]) {
        for event in events {
            event.replay(&mut self.unfenced, &mut self.durable);
        }
    }

    /// What the next process sees: all that was stored.
    #[must_use]
    pub fn seen(&self) -> Contents {
        let mut seen = self.durable.clone();
        self.unfenced.apply_all(&mut seen);
        seen
    }

    /// Hands `each` the images that a power failure may leave now.
    pub fn images(
        &self,
        effort: &Effort,
        random: &mut Random,
        each: &mut dyn FnMut(Contents),
    ) -> Images {
        self.unfenced.images(&self.durable, effort, random, each)
    }
}
