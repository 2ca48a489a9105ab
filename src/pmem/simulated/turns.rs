//! Threads that take turns.
//!
//! Of the threads of [`run`] one goes on at a time. At each of its [`pause`]s a [`Schedule`] says who
//! is next, so that the same schedule gives the same run. A thread that waits for another one says so
//! by [`blocked`]; when all do, the run is a deadlock. Threads that are not of a run are left alone
//! by all this.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{
    Arc, Condvar, LockResult, Mutex as StdMutex, MutexGuard, PoisonError, TryLockError,
    TryLockResult,
};
use std::thread;

use super::Random;

/// The thread that is next.
pub trait Schedule: Send {
    /// Chooses among the `ready` threads, which are not none; `current` has paused, and is one of
    /// them unless it is blocked or done.
    fn next(&mut self, current: usize, ready: &[usize]) -> usize;
}

/// Work of one thread.
pub type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Most steps of a run: one that takes more does not end.
const MOST_STEPS: usize = 1_000_000;

/// Why a run did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// All threads that are not done wait for each other.
    Deadlock,
    /// The threads go on and on.
    Endless,
    /// A thread panicked; what it said.
    Panicked(String),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stuck::Deadlock => f.write_str("deadlock"),
            Stuck::Endless => f.write_str("no end after a million steps"),
            Stuck::Panicked(message) => write!(f, "panic: {message}"),
        }
    }
}

/// A point at which a thread had to be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The thread that had paused.
    pub current: usize,
    /// The threads that could have been next.
    pub ready: Vec<usize>,
}

/// What became of a run.
#[derive(Debug)]
pub struct Run {
    /// All points at which a thread had to be chosen.
    pub steps: Vec<Step>,
    /// True if all threads came to their end.
    pub result: Result<(), Stuck>,
}

/// Runs `tasks`, each in a thread of its own, as `schedule` has it.
#[must_use]
pub fn run(tasks: Vec<Task<'_>>, schedule: Box<dyn Schedule>) -> Run {
    let state = State {
        schedule,
        current: 0,
        threads: vec![Progress::Ready; tasks.len()],
        waits: vec![false; tasks.len()],
        steps: Vec::new(),
        stuck: None,
    };
    let turns = Arc::new(Turns { state: StdMutex::new(state), changed: Condvar::new() });
    thread::scope(|scope| {
        for (number, task) in tasks.into_iter().enumerate() {
            let turns = turns.clone();
            scope.spawn(move || take_part(&turns, number, task));
        }
    });
    let mut state = turns.state();
    let result = state.stuck.take().map_or(Ok(()), Err);
    Run { steps: std::mem::take(&mut state.steps), result }
}

/// A point at which another thread may go on.
pub fn pause() {
    with_turns(|turns, number| turns.pass(number, Progress::Ready));
}

/// A point at which another thread must go on, since this one can not.
pub fn blocked() {
    if with_turns(|turns, number| turns.pass(number, Progress::Blocked)).is_none() {
        thread::yield_now();
    }
}

/// A mutex for which one waits by giving one's turn away.
#[derive(Debug, Default)]
pub struct Mutex<T>(StdMutex<T>);

impl<T> Mutex<T> {
    /// A mutex that guards `value`.
    pub fn new(value: T) -> Mutex<T> {
        Mutex(StdMutex::new(value))
    }

    /// As [`std::sync::Mutex::try_lock`].
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        pause();
        self.0.try_lock()
    }

    /// As [`std::sync::Mutex::lock`].
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        pause();
        loop {
            match self.0.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
                Err(TryLockError::WouldBlock) => blocked(),
            }
        }
    }
}

/// Turns at random; the fewer changes, the longer each thread goes on.
#[derive(Debug)]
pub struct AtRandom {
    random: Random,
    /// The turn goes to another thread once in so many pauses.
    every: u64,
}

impl AtRandom {
    /// As `seed` has it.
    #[must_use]
    pub fn new(seed: u64) -> AtRandom {
        let mut random = Random::new(seed);
        let every = 1 << random.within(0..6);
        AtRandom { random, every }
    }
}

impl Schedule for AtRandom {
    fn next(&mut self, current: usize, ready: &[usize]) -> usize {
        if ready.contains(&current) && !self.random.one_in(self.every) {
            return current;
        }
        ready[self.random.within(0..ready.len() as u64) as usize]
    }
}

/// Each thread goes on as long as it can, but at the given steps the turn goes to the given thread.
#[derive(Debug, Clone, Default)]
struct Preemptions {
    /// Step and thread, in the order of the steps.
    points: Vec<(usize, usize)>,
    step: usize,
}

impl Schedule for Preemptions {
    fn next(&mut self, current: usize, ready: &[usize]) -> usize {
        let step = self.step;
        self.step += 1;
        let preempted = self.points.iter().find(|(at, _)| *at == step).map(|(_, thread)| *thread);
        let stays = ready.contains(&current).then_some(current);
        preempted.filter(|thread| ready.contains(thread)).or(stays).unwrap_or(ready[0])
    }
}

/// Makes a run for every schedule in which a thread that could go on is preempted at most `most`
/// times. `run` is told the step of the last preemption: up to there, it has seen the run before.
pub fn explore(most: usize, run: &mut dyn FnMut(Box<dyn Schedule>, usize) -> Run) {
    explore_from(&Preemptions::default(), most, run);
}

fn explore_from(
    preemptions: &Preemptions,
    more: usize,
    run: &mut dyn FnMut(Box<dyn Schedule>, usize) -> Run,
) {
    let last = preemptions.points.last().map_or(0, |(step, _)| *step);
    let steps = run(Box::new(preemptions.clone()), last).steps;
    if more == 0 {
        return;
    }
    let first = preemptions.points.last().map_or(0, |(step, _)| step + 1);
    for (at, step) in steps.iter().enumerate().skip(first) {
        let stays = if step.ready.contains(&step.current) { step.current } else { step.ready[0] };
        for thread in step.ready.iter().filter(|thread| **thread != stays) {
            let mut points = preemptions.points.clone();
            points.push((at, *thread));
            explore_from(&Preemptions { points, step: 0 }, more - 1, run);
        }
    }
}

/// How far a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Ready,
    /// Nothing that it waits for has happened since it last looked.
    Blocked,
    Done,
}

struct Turns {
    state: StdMutex<State>,
    changed: Condvar,
}

struct State {
    schedule: Box<dyn Schedule>,
    current: usize,
    threads: Vec<Progress>,
    /// True if a thread has done nothing since it was last blocked but to look again.
    waits: Vec<bool>,
    steps: Vec<Step>,
    stuck: Option<Stuck>,
}

/// What unwinds the other threads of a run that is stuck.
struct Abandoned;

thread_local! {
    /// The run that this thread is of, and its number there.
    static PART: RefCell<Option<(Arc<Turns>, usize)>> = const { RefCell::new(None) };
}

fn with_turns<R>(act: impl FnOnce(&Turns, usize) -> R) -> Option<R> {
    let part = PART.with_borrow(Clone::clone);
    part.map(|(turns, number)| act(&turns, number))
}

fn take_part(turns: &Arc<Turns>, number: usize, task: Task<'_>) {
    PART.set(Some((turns.clone(), number)));
    let done = panic::catch_unwind(AssertUnwindSafe(|| {
        turns.wait_for_turn(turns.state(), number);
        task();
    }));
    PART.set(None);
    turns.end(number, done.err());
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next thread go on, and waits until it is this one's turn again.
    fn pass(&self, number: usize, progress: Progress) {
        // A thread that is unwinding may drop what it holds, and takes no more turns.
        if thread::panicking() {
            return;
        }
        let mut state = self.state();
        state.leave(number, progress);
        self.changed.notify_all();
        self.wait_for_turn(state, number);
    }

    fn wait_for_turn(&self, mut state: MutexGuard<'_, State>, number: usize) {
        while state.current != number && state.stuck.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stuck.is_some() {
            drop(state);
            panic::resume_unwind(Box::new(Abandoned));
        }
    }

    /// A thread is done, or gave up.
    fn end(&self, number: usize, panic: Option<Box<dyn Any + Send>>) {
        let mut state = self.state();
        match panic.filter(|panic| !panic.is::<Abandoned>()) {
            Some(panic) => state.stuck = Some(Stuck::Panicked(message(&*panic))),
            None => state.leave(number, Progress::Done),
        }
        self.changed.notify_all();
    }
}

impl State {
    /// Chooses who is next after `number`, who is as far as `progress` says.
    fn leave(&mut self, number: usize, progress: Progress) {
        let has_only_looked = progress == Progress::Blocked && self.waits[number];
        self.waits[number] = progress == Progress::Blocked;
        if !has_only_looked {
            // Something may have happened that the others wait for, even if this one is blocked now:
            // it may have released a lock on its way.
            for thread in self.threads.iter_mut().filter(|thread| **thread == Progress::Blocked) {
                *thread = Progress::Ready;
            }
        }
        self.threads[number] = progress;
        let is_ready = |thread: &usize| self.threads[*thread] == Progress::Ready;
        let ready: Vec<usize> = (0..self.threads.len()).filter(is_ready).collect();
        if ready.is_empty() {
            if self.threads.contains(&Progress::Blocked) {
                self.stuck.get_or_insert(Stuck::Deadlock);
            }
            return;
        }
        if self.steps.len() == MOST_STEPS {
            self.stuck.get_or_insert(Stuck::Endless);
            return;
        }
        self.current = self.schedule.next(number, &ready);
        self.steps.push(Step { current: number, ready });
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Two threads that write their letter twice each.
    fn letters(schedule: Box<dyn Schedule>) -> (Run, String) {
        let text = StdMutex::new(String::new());
        let write = |letter: char| {
            let text = &text;
            Box::new(move || {
                for _ in 0..2 {
                    pause();
                    text.lock().unwrap().push(letter);
                }
            }) as Task<'_>
        };
        let run = run(vec![write('a'), write('b')], schedule);
        (run, text.into_inner().unwrap())
    }

    #[test]
    fn all_interleavings_with_enough_preemptions() {
        let mut seen = HashSet::new();
        explore(4, &mut |schedule, _| {
            let (run, text) = letters(schedule);
            assert_eq!(run.result, Ok(()));
            seen.insert(text);
            run
        });
        let all = ["aabb", "abab", "abba", "baab", "baba", "bbaa"];
        assert_eq!(seen, HashSet::from(all.map(str::to_owned)));
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let texts: HashSet<String> = (0..50)
            .map(|seed| {
                let [first, second] =
                    [seed, seed].map(|seed| letters(Box::new(AtRandom::new(seed))));
                assert_eq!((first.0.steps, &first.1), (second.0.steps, &second.1));
                first.1
            })
            .collect();
        assert!(texts.len() > 2);
    }

    #[test]
    fn a_deadlock_is_noticed_and_a_wait_is_not() {
        let (one, two) = (Mutex::new(()), Mutex::new(()));
        let lock = |first: &'static str| {
            let (first, second) = if first == "one" { (&one, &two) } else { (&two, &one) };
            Box::new(move || {
                let _first = first.lock().unwrap_or_else(PoisonError::into_inner);
                let _second = second.lock().unwrap_or_else(PoisonError::into_inner);
            }) as Task<'_>
        };
        let mut results = Vec::new();
        explore(2, &mut |schedule, _| {
            let run = run(vec![lock("one"), lock("two")], schedule);
            results.push(run.result.clone());
            run
        });
        assert!(results.contains(&Err(Stuck::Deadlock)));
        let waits = run(vec![lock("one"), lock("one")], Box::new(AtRandom::new(0)));
        assert_eq!(waits.result, Ok(()));
    }

    #[test]
    fn a_lock_that_is_released_right_before_waiting_is_no_deadlock() {
        let (lock, is_set) = (Mutex::new(()), AtomicBool::new(false));
        let release_and_wait = || {
            drop(lock.lock().map(|_held| pause()));
            while !is_set.load(Ordering::Relaxed) {
                blocked();
            }
        };
        let set = || {
            let _held = lock.lock().unwrap();
            is_set.store(true, Ordering::Relaxed);
        };
        explore(2, &mut |schedule, _| {
            is_set.store(false, Ordering::Relaxed);
            let run = run(vec![Box::new(release_and_wait), Box::new(set)], schedule);
            assert_eq!(run.result, Ok(()));
            run
        });
    }

    #[test]
    fn a_thread_that_goes_on_and_on_is_noticed() {
        let run = run(
            vec![Box::new(|| {
                loop {
                    pause();
                }
            })],
            Box::new(AtRandom::new(0)),
        );
        assert_eq!(run.result, Err(Stuck::Endless));
    }

    #[test]
    fn a_panic_ends_the_run() {
        let tasks: Vec<Task<'_>> = vec![
            Box::new(|| panic!("enough")),
            Box::new(|| {
                loop {
                    pause();
                }
            }),
        ];
        let run = run(tasks, Box::new(AtRandom::new(3)));
        assert_eq!(run.result, Err(Stuck::Panicked("enough".to_owned())));
    }
}
