//! Standard streams that are closed, or open the wrong way round: what cannot be printed is an error.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::daemon::make_namespace;

const TOOL: &str = env!("CARGO_BIN_EXE_nvdimmctl");
const DAEMON: &str = env!("CARGO_BIN_EXE_vhost-user-btt");

/// Runs a program by way of a shell, with redirections that [`Command`] has no words for.
fn run(program: &str, arguments: &[&str], redirections: &str) -> Output {
    let script = format!("exec \"$0\" \"$@\" {redirections}");
    Command::new("sh").args(["-c", &script, program]).args(arguments).output().unwrap()
}

fn assert_fails(output: &Output, code: i32, what: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {message}");
    assert!(message.contains("Bad file descriptor"), "{what}: {message}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_command_fails_whose_standard_output_is_closed_or_only_readable() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    for redirection in [">&-", "<&- >&-", "1</dev/null"] {
        for (verb, code) in [("list", 1), ("inspect", 1), ("check-namespace", 8), ("export", 1)] {
            let output = run(TOOL, &[verb, text(&path)], redirection);
            assert_fails(&output, code, &format!("{verb} {redirection}"));
        }
    }
    assert_fails(&run(TOOL, &["--help"], ">&-"), 1, "--help");
    assert_fails(&run(DAEMON, &["--print-capabilities"], ">&-"), 1, "--print-capabilities");
}

#[test]
fn an_import_fails_whose_standard_input_is_closed_or_only_writable() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    for redirection in ["<&-", "<&- >&-", "0>/dev/null"] {
        assert_fails(&run(TOOL, &["import", text(&path)], redirection), 1, redirection);
    }
}

#[test]
fn nothing_is_printed_into_a_file_that_takes_the_place_of_a_closed_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let before = fs::read(&path).unwrap();
    for redirection in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        for verb in ["list", "export", "check-namespace", "import"] {
            if verb == "import" && !redirection.contains("<&-") {
                continue;
            }
            run(TOOL, &[verb, text(&path)], redirection);
            assert!(fs::read(&path).unwrap() == before, "{verb} {redirection}");
        }
    }
}

#[test]
fn the_null_device_takes_everything_however_it_was_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    for redirection in [">/dev/null", "1<>/dev/null", "<&- >/dev/null", "2>&-"] {
        for verb in ["list", "export"] {
            let output = run(TOOL, &[verb, text(&path)], redirection);
            assert!(output.status.success(), "{verb} {redirection}");
        }
    }
}
