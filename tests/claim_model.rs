//! A model of the claim on a disk that two daemons serve to the two ends of a migration (`--claim=running`): all
//! orders of the steps of both, with either killed at any point, and frontends that start and stop rings whenever
//! they like. Each mutant is an order of steps that the model has to find wrong.
//!
//! The steps are those of `OnDemand` in `src/vhost_user/block/on_demand.rs`, and of the session that calls it.

use std::collections::HashSet;

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// A ring runs before the claim is asked for.
    RunsBeforeTheClaim,
    /// A ring runs although the claim is refused.
    RunsWithoutTheClaim,
    /// The disk is opened before the claim is there.
    OpensBeforeTheClaim,
    /// The claim is given up before what the rings have begun is done.
    GivesUpBeforeDraining,
    /// The claim is given up before what was written is durable.
    GivesUpBeforeTheSync,
    /// The queues keep the disk that they had when the claim was there.
    KeepsTheDisk,
    /// Rings that start again do not ask for the claim.
    AsksOnce,
    /// The claim is kept when rings have stopped.
    KeepsTheClaim,
}

const MUTANTS: [Mutant; 8] = [
    Mutant::RunsBeforeTheClaim,
    Mutant::RunsWithoutTheClaim,
    Mutant::OpensBeforeTheClaim,
    Mutant::GivesUpBeforeDraining,
    Mutant::GivesUpBeforeTheSync,
    Mutant::KeepsTheDisk,
    Mutant::AsksOnce,
    Mutant::KeepsTheClaim,
];

/// Where the session of a daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    /// It waits for a message.
    Idle,
    /// The ring is to start: the claim is taken next, then the disk opened, then the ring runs.
    Claim,
    Open,
    Run,
    /// The ring is to stop: what is in hand is completed next, made durable, the disk let go, the claim given up.
    Drain,
    Sync,
    LetGo,
    GiveUp,
}

#[allow(clippy::struct_excessive_bools, reason = "each changes by itself")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Daemon {
    at: At,
    /// The ring is carried out.
    runs: bool,
    /// The queues have the disk, and the claim was asked for.
    has_disk: bool,
    has_asked: bool,
    /// A write is in hand, and one is completed that is not durable.
    in_hand: bool,
    not_durable: bool,
}

impl Daemon {
    const NEW: Daemon = Daemon {
        at: At::Idle,
        runs: false,
        has_disk: false,
        has_asked: false,
        in_hand: false,
        not_durable: false,
    };

    /// It may store to the file.
    fn may_write(self) -> bool {
        self.has_disk && (self.runs || self.in_hand)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    daemons: [Daemon; 2],
    /// The daemon that has the lock on the file.
    lock: Option<usize>,
    kills: u8,
}

/// What breaks the claim's promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Violation {
    TwoWriters,
    WriterWithoutTheClaim,
    OpenedWhileAnotherMayWrite,
    OpenedBeforeTheOtherIsDurable,
    StoppedWithTheClaim,
    /// Requests fail that the guest has made.
    RunsWithoutTheDisk,
}

type Step = Result<State, Violation>;

/// All that can happen next.
fn next(state: &State, mutant: Mutant) -> Vec<Step> {
    let mut steps = Vec::new();
    for one in 0..2 {
        steps.extend(session(state, one, mutant));
        steps.extend(queue(state, one));
        if state.kills < 2 {
            // The lock goes with the process; what it has stored is there for the next one.
            let mut next = *state;
            next.daemons[one] = Daemon::NEW;
            next.kills += 1;
            next.lock = next.lock.filter(|owner| *owner != one);
            steps.push(Ok(next));
        }
    }
    steps
}

/// What the queue of a daemon does: takes a write, and completes it.
fn queue(state: &State, one: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let daemon = state.daemons[one];
    if daemon.runs && daemon.has_disk && !daemon.in_hand {
        let mut next = *state;
        next.daemons[one].in_hand = true;
        steps.push(Ok(next));
    }
    if daemon.in_hand {
        let mut next = *state;
        (next.daemons[one].in_hand, next.daemons[one].not_durable) = (false, true);
        steps.push(Ok(next));
    }
    steps
}

/// The next step of the session of a daemon. A frontend may start and stop its ring whenever nothing is under way.
fn session(state: &State, one: usize, mutant: Mutant) -> Vec<Step> {
    let daemon = state.daemons[one];
    let mut next = *state;
    let here = &mut next.daemons[one];
    match daemon.at {
        At::Idle if !daemon.runs => start(here, mutant),
        At::Idle => {
            here.runs = false;
            here.at = match mutant {
                Mutant::GivesUpBeforeDraining => At::GiveUp,
                _ => At::Drain,
            };
        }
        At::Claim => return vec![Ok(claim(next, one, mutant))],
        At::Open => return vec![open(next, one, mutant)],
        At::Run => (here.runs, here.at) = (true, At::Idle),
        // The frontend hears nothing before what was in hand is done.
        At::Drain if daemon.in_hand => return Vec::new(),
        At::Drain => {
            here.at = match mutant {
                Mutant::GivesUpBeforeTheSync => At::LetGo,
                Mutant::KeepsTheClaim => At::Idle,
                _ => At::Sync,
            }
        }
        At::Sync => (here.not_durable, here.at) = (false, At::LetGo),
        At::LetGo => {
            here.has_disk = matches!(mutant, Mutant::KeepsTheDisk | Mutant::AsksOnce);
            here.at = At::GiveUp;
        }
        At::GiveUp => {
            here.at = At::Idle;
            next.lock = next.lock.filter(|owner| *owner != one);
        }
    }
    if mutant == Mutant::KeepsTheClaim && daemon.at == At::Drain && next.lock == Some(one) {
        return vec![Err(Violation::StoppedWithTheClaim)];
    }
    vec![Ok(next)]
}

fn start(here: &mut Daemon, mutant: Mutant) {
    here.at = match mutant {
        Mutant::AsksOnce if here.has_asked => At::Run,
        Mutant::OpensBeforeTheClaim => At::Open,
        _ => At::Claim,
    };
    // What the queues had before is what they carry requests out on meanwhile.
    here.runs = match mutant {
        Mutant::RunsBeforeTheClaim => true,
        Mutant::KeepsTheDisk => here.has_disk,
        _ => false,
    };
}

fn claim(mut next: State, one: usize, mutant: Mutant) -> State {
    let is_free = next.lock.is_none_or(|owner| owner == one);
    let here = &mut next.daemons[one];
    here.has_asked = true;
    if is_free {
        next.lock = Some(one);
        here.at = if mutant == Mutant::OpensBeforeTheClaim { At::Run } else { At::Open };
    } else if mutant == Mutant::RunsWithoutTheClaim {
        here.at = At::Open;
    } else {
        // The request is refused.
        (here.runs, here.at) = (false, At::Idle);
    }
    next
}

fn open(mut next: State, one: usize, mutant: Mutant) -> Step {
    let other = next.daemons[1 - one];
    if other.may_write() {
        return Err(Violation::OpenedWhileAnotherMayWrite);
    }
    if other.not_durable {
        return Err(Violation::OpenedBeforeTheOtherIsDurable);
    }
    next.daemons[one].has_disk = true;
    next.daemons[one].at = match mutant {
        Mutant::OpensBeforeTheClaim => At::Claim,
        _ => At::Run,
    };
    Ok(next)
}

fn check(state: &State) -> Result<(), Violation> {
    if state.daemons.iter().any(|daemon| daemon.runs && !daemon.has_disk) {
        return Err(Violation::RunsWithoutTheDisk);
    }
    let writers: Vec<usize> = (0..2).filter(|one| state.daemons[*one].may_write()).collect();
    if writers.len() == 2 {
        return Err(Violation::TwoWriters);
    }
    match writers[..] {
        [writer] if state.lock != Some(writer) => Err(Violation::WriterWithoutTheClaim),
        _ => Ok(()),
    }
}

/// Tries all orders. Returns the first violation, and how many states there are.
fn explore(mutant: Mutant) -> (Option<Violation>, usize) {
    let first = State { daemons: [Daemon::NEW; 2], lock: None, kills: 0 };
    let (mut seen, mut open) = (HashSet::from([first]), vec![first]);
    while let Some(state) = open.pop() {
        for step in next(&state, mutant) {
            let checked = step.and_then(|next| check(&next).map(|()| next));
            match checked {
                Err(violation) => return (Some(violation), seen.len()),
                Ok(next) if seen.insert(next) => open.push(next),
                Ok(_) => {}
            }
        }
    }
    (None, seen.len())
}

#[test]
fn no_order_of_steps_lets_two_daemons_write_to_one_disk() {
    let (violation, states) = explore(Mutant::None);
    assert_eq!(violation, None);
    assert!(states > 300, "only {states} states");
    println!("figures: claim model states={states} violations=0");
}

#[test]
fn each_mutant_of_the_claim_is_found() {
    for mutant in MUTANTS {
        let (violation, states) = explore(mutant);
        println!("{mutant:?}: {violation:?} after {states} states");
        assert!(violation.is_some(), "{mutant:?} survives");
    }
}

/// The disk can always be had: from each state, each daemon that lives can come to run its ring.
#[test]
fn each_daemon_can_come_to_have_the_disk_from_every_state() {
    let first = State { daemons: [Daemon::NEW; 2], lock: None, kills: 0 };
    let reachable = |from: State| {
        let (mut seen, mut open) = (HashSet::from([from]), vec![from]);
        while let Some(state) = open.pop() {
            for next in next(&state, Mutant::None).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    for state in reachable(first) {
        let later = reachable(state);
        for one in 0..2 {
            let runs = |state: &State| state.daemons[one].runs && state.lock == Some(one);
            assert!(later.iter().any(runs), "daemon {one} never has the disk after {state:?}");
        }
    }
}
