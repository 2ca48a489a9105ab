//! The daemon: serves namespaces until it is told to stop.

use std::process::ExitCode;

use vhost_user_btt::cli::daemon::{DaemonArgs, capabilities};
use vhost_user_btt::cli::{keep_devices, parse, print_document, serve_devices};

fn main() -> ExitCode {
    // By the conventions of back-end programs, everything else on the command line is ignored then,
    // be it right or wrong.
    if std::env::args_os().any(|argument| argument == "--print-capabilities") {
        let is_printed = print_document(&capabilities());
        return if is_printed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = parse::<DaemonArgs>();
    if args.keeper.is_keeper() {
        return keep_devices("vhost-user-btt", args);
    }
    serve_devices("vhost-user-btt", args.devices, Some((&args.sandbox, &args.keeper)), |_| ())
}
