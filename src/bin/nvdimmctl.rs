//! The administrator's tool: makes, shows and checks namespaces.

use std::process::ExitCode;

use vhost_user_btt::cli::nvdimmctl::ToolArgs;
use vhost_user_btt::cli::parse;

fn main() -> ExitCode {
    parse::<ToolArgs>().run()
}
