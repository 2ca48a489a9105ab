//! The administrator's tool: makes, shows and checks namespaces.

use std::process::ExitCode;

use clap::Parser;
use vhost_user_btt::cli::nvdimmctl::ToolArgs;

fn main() -> ExitCode {
    ToolArgs::parse().run()
}
