//! Manual pages and completions are made of the same definitions as the help texts.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use vhost_user_btt::cli::daemon::DaemonArgs;
use vhost_user_btt::cli::nvdimmctl::ToolArgs;
use vhost_user_btt::cli::powercut::PowercutArgs;

/// Runs the example that makes them, which cargo builds with the tests.
fn generate(folder: &Path) {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join("generate");
    let output = Command::new(program).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_program_has_a_page_and_completions_with_all_its_options() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path());
    for command in [DaemonArgs::command(), ToolArgs::command(), PowercutArgs::command()] {
        let name = command.get_name().to_owned();
        let page = fs::read_to_string(folder.path().join(format!("man/{name}.1"))).unwrap();
        let page = page.replace("\\-", "-");
        let completions = folder.path().join("completions");
        let files = [format!("{name}.bash"), format!("_{name}"), format!("{name}.fish")];
        let [bash, zsh, fish] =
            files.map(|file| fs::read_to_string(completions.join(file)).unwrap());
        let offered = command.get_opts().filter(|option| !option.is_hide_set());
        for option in offered.filter_map(|option| option.get_long()) {
            let long = format!("--{option}");
            assert!(page.contains(&long), "{name}.1: {long}");
            assert!(bash.contains(&long) && zsh.contains(&long), "{name}: {long}");
            assert!(fish.contains(&format!("-l {option}")), "{name}: {long}");
        }
    }
}

#[test]
fn each_command_of_the_tools_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path());
    for tool in [ToolArgs::command(), PowercutArgs::command()] {
        let commands = tool.get_subcommands().map(clap::Command::get_name);
        for name in commands.filter(|name| *name != "help") {
            let page = format!("man/{}-{name}.1", tool.get_name());
            assert!(folder.path().join(&page).exists(), "{page}");
        }
    }
}
