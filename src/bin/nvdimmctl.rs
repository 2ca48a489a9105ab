//! The administrator's tool: makes, shows and checks namespaces.

use std::process::ExitCode;

use vhost_user_btt::cli::nvdimmctl::ToolArgs;
use vhost_user_btt::cli::{complain, outlive_file_size_limit, parse};

fn main() -> ExitCode {
    let args = parse::<ToolArgs>();
    if let Err(error) = outlive_file_size_limit() {
        complain(format_args!("nvdimmctl: cannot watch for SIGXFSZ: {error}"));
    }
    args.run()
}
