//! The daemon: serves a namespace until it is told to stop.

use std::process::ExitCode;
use std::thread;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vhost_user_btt::cli::daemon::{DaemonArgs, capabilities};
use vhost_user_btt::cli::one_line;
use vhost_user_btt::vhost_user::{DiskConfig, Error, Stop};

fn main() -> ExitCode {
    // By the conventions of back-end programs, everything else on the command line is ignored then,
    // be it right or wrong.
    if std::env::args_os().any(|argument| argument == "--print-capabilities") {
        println!("{}", capabilities());
        return ExitCode::SUCCESS;
    }
    let args = DaemonArgs::parse();
    args.log_level.start_logging();
    let config = match DiskConfig::try_from(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("vhost-user-btt: {error} (see --help)");
            return ExitCode::from(2);
        }
    };
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(config: &DiskConfig) -> Result<(), Error> {
    let stop = Stop::default();
    stop_on_signals(stop.clone())?;
    config.serve(stop)
}

/// Stops the server at SIGTERM or SIGINT.
fn stop_on_signals(stop: Stop) -> Result<(), Error> {
    let fails = |source| Error::System { action: "cannot watch for signals", source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(fails)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                log::info!("stopping");
                stop.stop();
            }
        })
        .map_err(fails)?;
    Ok(())
}
