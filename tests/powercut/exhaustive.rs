//! `powercut explore`: all states are covered, in as many runs of the check as its reads make different.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::daemon::PATIENCE;
use crate::common::frontend::{Driver, IOERR, OK};
use crate::known_bugs::{CHECK, POINTER, VERSIONS, data_of, recorded};
use crate::setup::{Found, Place, text};

/// Says where the sockets are, and its process, and waits: the check is the test itself.
const WAITS: &str = r#"echo "$1 $2 $$" >"$0.new" && mv "$0.new" "$0" && exec sleep 100000"#;

/// A running `powercut explore`.
struct Exploration {
    child: Option<Child>,
    place: Place,
}

/// The check, connected to its two disks.
struct Check {
    disk: Driver,
    marks: Driver,
    process: String,
}

impl Exploration {
    fn begin(place: Place, arguments: &[&str]) -> Exploration {
        let mut command = place.explore();
        command.args(arguments).args(["--timeout", "300", "--", "sh", "-c", WAITS]);
        command.arg(place.path("where")).args(["{disk}", "{marks}"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Exploration { child: Some(child), place }
    }

    /// Connects the check to the disks of the process that has been started last.
    fn connect(&self) -> Check {
        let (file, deadline) = (self.place.path("where"), Instant::now() + PATIENCE);
        while !file.exists() {
            assert!(Instant::now() < deadline, "the command was not started");
            thread::sleep(Duration::from_millis(5));
        }
        let words = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let words: Vec<&str> = words.split_whitespace().collect();
        let connect = |socket: &str| Driver::connect(UnixStream::connect(socket).unwrap(), 1);
        Check { disk: connect(words[0]), marks: connect(words[1]), process: words[2].into() }
    }

    /// Checks states until there is no other. Returns what was said, and the number of runs.
    fn check(mut self, mut passes: impl FnMut(&mut Check) -> bool) -> (Found, usize) {
        let (mut check, mut runs) = (self.connect(), 0);
        while check.say("NEXT") {
            runs += 1;
            let verdict = if passes(&mut check) { "PASS" } else { "FAIL as expected" };
            assert!(check.say(verdict));
        }
        drop(check);
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        (Found::new(&output), runs)
    }
}

impl Drop for Exploration {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            println!("{:?}", child.wait_with_output());
        }
    }
}

impl Check {
    /// Returns whether there was anybody to hear it.
    fn say(&mut self, word: &str) -> bool {
        match self.marks.write(0, 0, format!("{word:<512}").as_bytes()) {
            OK => true,
            status => {
                assert_eq!(status, IOERR);
                false
            }
        }
    }

    fn read(&mut self, sector: u64, sectors: usize) -> Vec<u8> {
        self.disk.read(0, sector, sectors * 512)
    }

    /// The marks that were set by then.
    fn marks(&mut self) -> String {
        let text = self.marks.read(0, 0, 4096);
        String::from_utf8(text).unwrap().trim_end_matches('\0').to_owned()
    }

    /// As `CHECK` of the known bugs: the data that the pointer names are whole, and what was synced is there.
    fn data_are_whole(&mut self) -> bool {
        let marks = self.marks();
        let synced = marks.lines().filter_map(|mark| mark.strip_prefix("synced-")).next_back();
        let pointer = self.read(POINTER, 1)[0];
        if pointer < synced.map_or(0, |version| version.parse().unwrap()) {
            return false;
        }
        pointer == 0 || self.read(data_of(pointer), 8) == [pointer; 4096]
    }
}

#[test]
fn an_update_without_a_barrier_fails_in_every_version_with_a_reproducer_of_one_sector() {
    let exploration = Exploration::begin(recorded(false), &["--with-marks"]);
    let log = exploration.place.path("log");
    let base = exploration.place.path("base.raw");
    let copy = tempfile::tempdir().unwrap();
    fs::copy(&log, copy.path().join("log")).unwrap();
    fs::copy(&base, copy.path().join("base.raw")).unwrap();
    let (found, _) = exploration.check(Check::data_are_whole);
    found.assert_failed();
    assert_eq!(found.said.matches("FAILED").count(), usize::from(VERSIONS), "{}", found.said);
    assert!(
        found.said.contains("dropping only sector 115 (request 1, before mark"),
        "{}",
        found.said
    );

    // The state fails for the same check of an image, and for plain enumeration.
    let place = Place { folder: copy };
    let state = found.reproducer();
    let out = place.path("bad.raw");
    let made = place.states(&["--state", &state, "--out", text(&out)], CHECK);
    assert_eq!(made.code, 1, "{made:?}");
    place.states(&["--model", "drop-1"], CHECK).assert_failed();
}

#[test]
fn an_update_with_a_barrier_is_right_in_all_states_which_takes_few_runs() {
    let place = recorded(true);
    let (found, runs) = Exploration::begin(place, &["--with-marks"]).check(Check::data_are_whole);
    assert_eq!(found.code, 0, "{found:?}");
    assert!(found.said.contains(" 0 failed\n"), "{}", found.said);
    // The data of eight sectors are not read while nothing names them: two runs for the pointer at most.
    assert!(
        found.said.contains("8 sectors are uncertain, 256 states; 1 runs: all are covered"),
        "{}",
        found.said
    );
    assert!(
        found.said.contains("1 sectors are uncertain, 2 states; 2 runs: all are covered"),
        "{}",
        found.said
    );
    assert!((8..60).contains(&runs), "{runs}");
}

/// Fails if three of six sectors are lost, and the others are there.
fn three_are_lost(check: &mut Check) -> bool {
    let there: Vec<bool> = (0..6).map(|sector| check.read(sector * 2, 1)[0] == 1).collect();
    there != [true, false, true, false, false, true]
}

#[test]
fn what_takes_three_lost_sectors_is_found_here_and_not_by_dropping_or_keeping_two() {
    let plain = r#"
        there=$(for sector in 0 2 4 6 8 10; do od -An -tu1 -j$((sector * 512)) -N1 "$1"; done | tr -d ' \n')
        [ "$there" != 101001 ]
    "#;
    let place = Place::new();
    place.record(|guest, _| (0..6).for_each(|sector| guest.write(sector * 2, &[1; 512])));
    for model in ["drop-1", "drop-2", "keep-1", "keep-2"] {
        place.states(&["--model", model], plain).assert_clean();
    }
    let (found, runs) = Exploration::begin(place, &[]).check(three_are_lost);
    found.assert_failed();
    assert!(found.said.contains("drop=2@2,6@4,8@5"), "{}", found.said);
    assert!(runs <= 64 + 40, "{runs} runs, with those of the reproducer");
}

#[test]
fn what_the_check_writes_is_forgotten_after_each_state() {
    let place = Place::new();
    place.record(|guest, _| guest.write(4, &[1; 512]));
    let (found, runs) = Exploration::begin(place, &[]).check(|check| {
        let (clean, uncertain) = (check.read(9, 1), check.read(4, 1));
        assert_eq!(check.disk.write(0, 9, &[7; 512]), OK);
        assert_eq!(check.disk.write(0, 4, &[8; 512]), OK);
        assert_eq!(check.read(4, 1), [8; 512]);
        clean == [0; 512] && uncertain != [8; 512]
    });
    assert_eq!((found.code, runs), (0, 2), "{found:?}");
}

#[test]
fn a_check_that_reads_something_else_each_time_is_called_not_deterministic() {
    let place = Place::new();
    place.record(|guest, _| (0..4).for_each(|sector| guest.write(sector, &[1; 512])));
    let mut sector = 0;
    let (found, _) = Exploration::begin(place, &[]).check(|check| {
        check.read(sector % 4, 1);
        sector += 1;
        true
    });
    assert_eq!(found.code, 0, "{found:?}");
    assert!(found.said.contains("the check is not deterministic"), "{}", found.said);
    assert!(found.said.contains("1 not covered"), "{}", found.said);
}

#[test]
fn a_budget_ends_the_search_which_says_how_much_it_has_covered() {
    let place = Place::new();
    place.record(|guest, _| (0..4).for_each(|sector| guest.write(sector, &[1; 512])));
    let (found, runs) = Exploration::begin(place, &["--budget", "4"]).check(|check| {
        check.read(0, 4);
        true
    });
    assert_eq!((found.code, runs), (0, 4), "{found:?}");
    assert!(found.said.contains("16 states; 4 runs: 25.000 % are covered"), "{}", found.said);
}

#[test]
fn a_check_that_ends_without_a_verdict_has_failed_and_is_started_again() {
    let place = Place::new();
    place.record(|guest, mark| {
        guest.write(0, &[1; 512]);
        guest.flush();
        mark("one");
        guest.write(0, &[2; 512]);
    });
    let exploration = Exploration::begin(place, &[]);
    let mut check = exploration.connect();
    assert!(check.say("NEXT") && check.say("PASS"));
    assert!(check.say("NEXT"));
    let killed = Command::new("kill").args(["-9", &check.process]).status().unwrap();
    assert!(killed.success());
    drop(check);
    let (found, _) = exploration.check(|check| check.read(0, 1)[0] > 0);
    found.assert_failed();
    assert!(found.said.contains("the command has ended without a verdict"), "{}", found.said);
}

#[test]
fn a_command_that_checks_one_state_says_it_by_its_exit_status() {
    let place = Place::new();
    place.record(|guest, _| (0..4).for_each(|sector| guest.write(sector, &[1; 512])));
    let explore =
        |arguments: &[&str]| Found::new(&place.explore().args(arguments).output().unwrap());
    // It reads nothing: all states are the same to it.
    let passed = explore(&["--once", "--", "true"]);
    assert_eq!(passed.code, 0, "{passed:?}");
    assert!(passed.said.contains("16 states; 1 runs: all are covered"), "{}", passed.said);
    explore(&["--once", "--", "false"]).assert_failed();

    // What does not do its part, or cannot be run, is no verdict.
    let ended = explore(&["--", "true"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.complained.contains("has ended and never asked for a state"), "{ended:?}");
    let silent = explore(&["--timeout", "1", "--", "sleep", "600"]);
    assert_eq!(silent.code, 5, "{silent:?}");
    let missing = explore(&["--", "/no/such/program"]);
    assert_eq!(missing.code, 5, "{missing:?}");
    assert!(missing.complained.contains("cannot run"), "{missing:?}");
}

/// A guest that hangs is started again, and has neither failed nor passed the state.
#[test]
fn a_check_that_hangs_has_a_status_of_its_own_and_is_an_error_in_the_report() {
    let place = Place::new();
    place.record(|guest, mark| {
        guest.write(0, &[1; 512]);
        guest.flush();
        mark("one");
        guest.write(0, &[2; 512]);
    });
    let report = place.path("out.xml");
    let explore = |arguments: &[&str], check: &str| {
        let mut command = place.explore();
        command.args(["--once", "--timeout", "1", "--junit", text(&report)]).args(arguments);
        command.args(["--", "sh", "-c", check]).arg(place.path("first"));
        Found::new(&command.output().unwrap())
    };
    for (arguments, hung) in [(&[][..], 2), (&["--model", "flush"], 2)] {
        let found = explore(arguments, "sleep 600");
        assert_eq!(found.code, 6, "{found:?}");
        assert_eq!(found.said.matches("HUNG p=").count(), hung, "{found:?}");
        assert!(found.said.contains(&format!(" 0 failed, {hung} hung")), "{found:?}");
        let report = fs::read_to_string(&report).unwrap();
        assert!(report.contains(&format!(r#"failures="0" errors="{hung}""#)), "{report}");
        assert!(report.contains("no verdict within 1 seconds"), "{report}");
    }
    // A failed state says more than one without a verdict.
    let both = explore(&["--model", "flush"], "mkdir \"$0\" && exit 1; sleep 600");
    assert_eq!(both.code, 1, "{both:?}");
    // No run begins when the time is over.
    let late = explore(&["--time", "0"], "exit 1");
    assert_eq!(late.code, 0, "{late:?}");
    assert!(late.said.contains("the time is over"), "{late:?}");
}

#[test]
fn a_check_guest_looks_at_the_states_of_a_model_as_at_images() {
    let (wrong, right) = (false, true);
    for (has_barrier, model, code) in [
        (wrong, "drop-1", 1),
        (wrong, "keep-1", 1),
        (wrong, "random:1", 1),
        (wrong, "prefix", 0),
        (wrong, "torn", 0),
        (wrong, "atomic:512", 0),
        (right, "drop-2", 0),
        (right, "flush", 0),
        (right, "torn", 0),
        (right, "ignore-flush", 1),
    ] {
        let place = recorded(has_barrier);
        let images = place.states(&["--model", model, "--budget", "30"], CHECK);
        let arguments = ["--model", model, "--budget", "30", "--with-marks"];
        let (guest, _) = Exploration::begin(place, &arguments).check(Check::data_are_whole);
        assert_eq!((guest.code, images.code), (code, code), "{model}: {guest:?} {images:?}");
        assert_eq!(without_commands(&guest.said), without_commands(&images.said), "{model}");
    }
}

/// The lines that do not name files.
fn without_commands(said: &str) -> Vec<&str> {
    said.lines().filter(|line| !line.contains("again: ")).collect()
}

#[test]
fn the_control_fails_for_a_check_guest_and_its_reproducer_says_that_it_is_one() {
    let exploration =
        Exploration::begin(recorded(true), &["--with-marks", "--model", "ignore-flush"]);
    let copy = tempfile::tempdir().unwrap();
    for name in ["log", "base.raw"] {
        fs::copy(exploration.place.path(name), copy.path().join(name)).unwrap();
    }
    let (found, _) = exploration.check(Check::data_are_whole);
    found.assert_failed();
    assert!(found.said.contains(" --model ignore-flush --state '"), "{}", found.said);
    let place = Place { folder: copy };
    let state = found.reproducer();
    let again = place.states(&["--model", "ignore-flush", "--state", &state], CHECK);
    assert_eq!(again.code, 1, "{again:?}");
}
