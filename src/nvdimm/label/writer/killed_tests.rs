//! A tool is killed while it changes labels, the next one goes on, and then the power fails.
//!
//! The second process sees what the first one stored, durable or not, because the caches of the CPU
//! outlive a process. Opening therefore has to make durable what it sees. Otherwise a power failure
//! could take away what the second process relied on, for example the label of a namespace.

use super::tests::{SIZE, State, label, names, state, three_labels};
use super::*;
use crate::pmem::simulated::{
    CrashModel, Effort, Event, Random, Recorder, Simulated, trace_of_another,
};

const VERSION: LabelVersion = LabelVersion::V1_2;
const EFFORT: Effort = Effort { most: 256, random: 16, lines: 32 };
/// Bytes of a label storage area that is small enough to leave out each line of it.
const SMALL: u64 = 2048;

type Tool = fn(&Recorder);

/// What the tools do that are killed.
const KILLED: [Tool; 4] = [
    |medium| assert_eq!(opened(medium).create(&label(VERSION, 7)), Ok(3)),
    |medium| assert_eq!(opened(medium).update(1, &label(VERSION, 7)), Ok(3)),
    |medium| opened(medium).delete(&[0, 2]).unwrap(),
    |medium| opened(medium).clear().unwrap(),
];

fn opened(medium: &Recorder) -> LabelWriter<'_, Recorder> {
    LabelWriter::open(medium, SIZE).unwrap()
}

/// Returns whether a power failure now leaves one of `states` of the labels in the last `size` bytes, whatever it
/// does.
fn is_in(medium: &CrashModel, states: &[&State], size: u64, random: &mut Random) -> bool {
    let mut is_in = true;
    medium.images(&EFFORT, random, &mut |image| {
        is_in &= states.contains(&&state(&Simulated::of(image), size));
    });
    is_in
}

/// Kills `tool` everywhere, and lets the next one open the labels and make another. `opening` is what
/// becomes of what the opening does to the medium.
fn kill_everywhere(tool: Tool, opening: impl Fn(Vec<Event>) -> Vec<Event>) {
    let base = three_labels(VERSION);
    let trace = trace_of_another(&base, |medium| tool(&medium));
    let mut random = Random::new(1);
    for killed in 0..=trace.len() {
        let mut medium = CrashModel::after(&base, &trace[..killed]);
        let recorder = Recorder::new(Simulated::of(medium.seen()));
        let seen = state(recorder.medium(), SIZE);
        let mut writer = opened(&recorder);
        medium.replay(&opening(recorder.take_trace()));
        assert!(is_in(&medium, &[&seen], SIZE, &mut random), "killed after event {killed}: opened");

        writer.create(&label(VERSION, 9)).unwrap();
        let after = state(recorder.medium(), SIZE);
        for event in recorder.take_trace() {
            medium.replay(&[event]);
            let is_right = is_in(&medium, &[&seen, &after], SIZE, &mut random);
            assert!(is_right, "killed after event {killed}: while a label is made");
        }
        assert!(is_in(&medium, &[&after], SIZE, &mut random), "killed after event {killed}: made");
    }
}

#[test]
fn labels_that_are_seen_after_a_kill_are_there_after_a_power_failure() {
    for tool in KILLED {
        kill_everywhere(tool, |events| events);
    }
}

#[test]
#[should_panic(expected = "killed after event")]
fn a_tool_that_trusts_what_a_killed_one_has_stored_is_noticed() {
    kill_everywhere(KILLED[0], |_| Vec::new());
}

/// Of labels that two tools give up, one after the other, all are there or none.
#[test]
fn labels_that_are_given_up_do_not_come_back_in_part() {
    let small = Simulated::new(SMALL);
    let mut writer = LabelWriter::initialize(&small, SMALL, VERSION).unwrap();
    writer.create(&label(VERSION, 0)).unwrap();
    let (base, empty) = (small.snapshot(), Some(names(&[])));
    let before = state(&small, SMALL);
    let initialize: Tool = |medium| drop(LabelWriter::initialize(medium, SMALL, VERSION).unwrap());
    let trace = trace_of_another(&base, |medium| initialize(&medium));
    let mut random = Random::new(1);
    for killed in 0..=trace.len() {
        let mut medium = CrashModel::after(&base, &trace[..killed]);
        let recorder = Recorder::new(Simulated::of(medium.seen()));
        initialize(&recorder);
        for event in recorder.take_trace() {
            medium.replay(&[event]);
            let is_right = is_in(&medium, &[&before, &None, &empty], SMALL, &mut random);
            assert!(is_right, "killed after event {killed}");
        }
        assert!(is_in(&medium, &[&empty], SMALL, &mut random), "killed after event {killed}");
    }
}
