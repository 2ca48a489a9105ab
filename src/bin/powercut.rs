//! Power-fail testing of guests.

use std::process::ExitCode;

use vhost_user_btt::cli::parse;
use vhost_user_btt::cli::powercut::PowercutArgs;

fn main() -> ExitCode {
    parse::<PowercutArgs>().run()
}
