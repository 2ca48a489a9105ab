//! Writes the manual pages of the programs, and completions for shells, into a folder:
//!
//!     cargo run --example generate -- FOLDER
//!
//! They are made from the same definitions as the help texts, so that they cannot differ from the programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use vhost_user_btt::cli::daemon::DaemonArgs;
use vhost_user_btt::cli::nvdimmctl::ToolArgs;
use vhost_user_btt::cli::powercut::PowercutArgs;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: generate FOLDER");
        return ExitCode::from(2);
    };
    match generate(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn generate(folder: &Path) -> io::Result<()> {
    let manuals = folder.join("man");
    let completions = folder.join("completions");
    fs::create_dir_all(&manuals)?;
    fs::create_dir_all(&completions)?;
    for command in [DaemonArgs::command(), ToolArgs::command(), PowercutArgs::command()] {
        let name = command.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut command.clone(), &name, &completions)?;
        }
        clap_mangen::generate_to(command, &manuals)?;
    }
    Ok(())
}
