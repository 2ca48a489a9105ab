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

/// The exit status says whether the change was made; a command for which there is no place to say it is
/// none that failed.
#[test]
fn a_change_succeeds_whose_standard_output_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvdimm");
    let image = folder.path().join("image");
    fs::write(&image, [7; 4096]).unwrap();
    for arguments in [
        &["create", text(&path), "--size", "64M", "--label-size", "128K"][..],
        &["create-namespace", text(&path), "--size", "32M", "--name", "one"],
        &["import", text(&path), text(&image)],
        &["rename-namespace", text(&path), "one", "two"],
        &["grow-namespace", text(&path)],
        &["destroy-namespace", text(&path), "two", "--force"],
        &["init-labels", text(&path), "--force"],
        &["create-namespace", text(&path), "--mode", "dax"],
        &["dax", "create-device", text(&path), "device", "--size", "2M"],
    ] {
        let output = run(TOOL, arguments, ">&-");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {message}");
        // Where the output is wanted and does not arrive, that is said by the exit status, too.
        let output = run(TOOL, &["list", text(&path)], ">/dev/full");
        assert_eq!(output.status.code(), Some(1));
    }
    let output = run(TOOL, &["dax", "list", text(&path)], ">&-");
    assert_fails(&output, 1, "dax list");
}

#[test]
fn an_import_of_nothing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = make_namespace(folder.path(), "32M", 4096);
    let output = run(TOOL, &["import", text(&path)], "</dev/null");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the input is empty"));
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
