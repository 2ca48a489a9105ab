//! The daemon: serves namespaces until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use vhost_user_btt::cli::daemon::{DaemonArgs, capabilities};
use vhost_user_btt::cli::{
    complain, one_line, outlive_file_size_limit, parse, print_document, serve_devices,
};
use vhost_user_btt::vhost_user::{OpenMedium, TheMapping};

fn main() -> ExitCode {
    // By the conventions of back-end programs, everything else on the command line is ignored then,
    // be it right or wrong.
    if std::env::args_os().any(|argument| argument == "--print-capabilities") {
        let is_printed = print_document(&capabilities());
        return if is_printed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = parse::<DaemonArgs>().devices;
    args.log_level.start_logging();
    if let Err(error) = outlive_file_size_limit() {
        log::warn!("cannot watch for SIGXFSZ: {error}");
    }
    let control = args.control.clone();
    let medium: Arc<dyn OpenMedium> = Arc::new(TheMapping);
    let devices = match args.devices(&medium) {
        Ok(devices) => devices,
        Err(error) => {
            complain(format_args!("vhost-user-btt: {error} (see --help)"));
            return ExitCode::from(2);
        }
    };
    match serve_devices(&devices, control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}
