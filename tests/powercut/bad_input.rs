//! Logs, images and commands that cannot be used: said clearly, and apart from "a state failed".

use std::fs;

use crate::setup::{Found, Place, SIZE, powercut, text};

const BAD_INPUT: i32 = 4;
const NO_COMMAND: i32 = 5;
const HUNG: i32 = 6;

fn recorded() -> Place {
    let place = Place::new();
    place.record(|guest, mark| {
        for version in 1..=3 {
            guest.write(8, &[version; 4096]);
            guest.flush();
            mark(&format!("synced-{version}"));
        }
    });
    place
}

#[track_caller]
fn assert_refused(found: &Found, code: i32, why: &str) {
    assert_eq!(found.code, code, "{found:?}");
    assert!(found.complained.contains(why), "{found:?}");
    assert!(!found.complained.contains("panicked"), "{found:?}");
}

#[test]
fn a_log_that_is_cut_off_anywhere_is_used_up_to_its_last_whole_entry() {
    let place = recorded();
    let whole = fs::read(place.path("log")).unwrap();
    let all = place.states(&["--model", "prefix"], "true");
    all.assert_clean();
    let mut last = 0;
    for length in (512..whole.len()).step_by(512).chain([whole.len() - 1, 1500]) {
        fs::write(place.path("log"), &whole[..length]).unwrap();
        let found = place.states(&["--model", "prefix"], "true");
        assert_eq!(found.code, 0, "{found:?}");
        assert!(found.complained.contains("is cut off"), "{found:?}");
        assert!(found.checked() <= all.checked());
        last = last.max(found.checked());
    }
    assert_eq!(last + 1, all.checked(), "all but the last mark");
}

#[test]
fn what_is_no_log_or_makes_no_sense_is_refused() {
    let place = recorded();
    let whole = fs::read(place.path("log")).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= byte;
        fs::write(place.path("log"), bytes).unwrap();
        place.states(&[], "true")
    };
    assert_refused(&changed(0, 1), BAD_INPUT, "is no log");
    assert_refused(&changed(8, 2), BAD_INPUT, "version 3");
    assert_refused(&changed(24, 1), BAD_INPUT, "not supported");
    assert_refused(&changed(1024 + 16, 0x80), BAD_INPUT, "entry 1 is damaged");
    assert_refused(&changed(1024 + 7, 0x80), BAD_INPUT, "entry 1 is damaged");
    // More sectors than the file has: it looks cut off there.
    assert_eq!(changed(1024 + 12, 1).code, 0);
    assert_refused(&changed(512 + 25, 2), BAD_INPUT, "entry 0 is damaged");
    // A sector beyond the end of the base.
    assert_refused(&changed(1024 + 2, 1), BAD_INPUT, "not the base of this log");
    fs::write(place.path("log"), b"short").unwrap();
    assert_refused(&place.states(&[], "true"), BAD_INPUT, "is no log");
    fs::remove_file(place.path("log")).unwrap();
    assert_refused(&place.states(&[], "true"), BAD_INPUT, "cannot read the log");
}

#[test]
fn another_base_is_refused_by_its_hash() {
    let place = recorded();
    let mut base = vec![0; SIZE as usize];
    base[77] = 1;
    fs::write(place.path("base.raw"), base).unwrap();
    assert_refused(&place.states(&[], "true"), BAD_INPUT, "is not the image that was recorded");
}

#[test]
fn a_command_that_cannot_be_run_is_no_failed_state() {
    let place = recorded();
    let run = |command: &[&str]| {
        let mut states = powercut();
        states.arg("states").arg(place.path("log")).arg("--base").arg(place.path("base.raw"));
        Found::new(&states.arg("--").args(command).output().unwrap())
    };
    assert_refused(&run(&["/nowhere/check", "{image}"]), NO_COMMAND, "/nowhere/check");
    assert_refused(&run(&["sh", "-c", "no-such-program {image}"]), NO_COMMAND, "127");
    assert_eq!(run(&[]).code, 2);
}

#[test]
fn a_check_that_hangs_is_no_failed_state_and_one_that_writes_needs_copies() {
    let place = recorded();
    let report = place.path("out.xml");
    let options = ["--state", "p=2", "--timeout", "1", "--junit", text(&report)];
    let hangs = place.states(&options, "sleep 1000 & wait");
    assert_eq!(hangs.code, HUNG, "{hangs:?}");
    assert!(hangs.said.contains("HUNG p=2"), "{hangs:?}");
    assert!(hangs.said.contains(" 0 failed, 1 hung,"), "{hangs:?}");
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains(r#"failures="0" errors="1""#), "{report}");
    assert!(report.contains("<error message="), "{report}");
    let writes = "sleep 0.05; echo x | dd of=\"$1\" conv=notrunc 2>/dev/null";
    assert_refused(&place.states(&["--budget", "3"], writes), BAD_INPUT, "--copy");
    place.states(&["--budget", "3", "--copy"], writes).assert_clean();
    assert!(fs::read(place.path("base.raw")).unwrap() == vec![0; SIZE as usize]);
}

#[test]
fn nothing_is_recorded_over_a_file_that_is_there() {
    let place = recorded();
    let before = fs::read(place.path("log")).unwrap();
    let log = place.path("log");
    let output = place.command(&["--record", log.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(BAD_INPUT), "{output:?}");
    assert!(fs::read(log).unwrap() == before);
}

#[test]
fn options_of_nvdimm_files_are_refused_with_an_image() {
    let place = Place::new();
    for option in ["--atomic=16K", "--read-only", "--discard=on", "--raw=512", "--socket-mode=600"]
    {
        let output = place.command(&[option]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{option}: {output:?}");
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(complained.contains("cannot be used with"), "{complained}");
    }
}

/// Copies are made where nothing was; all else of the user's is read.
#[test]
fn nothing_that_is_there_is_written_to() {
    let place = recorded();
    let files = ["base.raw", "log", "disk.raw"];
    let contents = || files.map(|name| fs::read(place.path(name)).unwrap());
    let before = contents();
    for name in files {
        let file = place.path(name);
        let out = place.states(&["--state", "p=2", "--out", text(&file)], "true");
        assert_refused(&out, BAD_INPUT, "cannot make");
    }
    place.states(&["--model", "drop-2"], "true").assert_clean();
    place.states(&["--copy"], "echo x >\"$1\"").assert_clean();
    let explore = place.explore().args(["--once", "--", "true"]).output();
    let explored = Found::new(&explore.unwrap());
    assert_eq!(explored.code, 0, "{explored:?}");
    assert!(contents() == before);
    let mut names: Vec<_> =
        fs::read_dir(place.folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.retain(|name| !files.contains(&name.to_str().unwrap()));
    assert!(
        names.iter().all(|name| ["disk.sock", "control"].map(Into::into).contains(name)),
        "{names:?}"
    );
}
