//! The daemon: serves namespaces until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vhost_user_btt::cli::daemon::{DaemonArgs, capabilities};
use vhost_user_btt::cli::one_line;
use vhost_user_btt::vhost_user::{DeviceConfig, Devices, Error, Stop};

fn main() -> ExitCode {
    // By the conventions of back-end programs, everything else on the command line is ignored then,
    // be it right or wrong.
    if std::env::args_os().any(|argument| argument == "--print-capabilities") {
        println!("{}", capabilities());
        return ExitCode::SUCCESS;
    }
    let args = DaemonArgs::parse();
    args.log_level.start_logging();
    let control = args.control.clone();
    let devices = match args.devices() {
        Ok(devices) => devices,
        Err(error) => {
            eprintln!("vhost-user-btt: {error} (see --help)");
            return ExitCode::from(2);
        }
    };
    match run(&devices, control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(devices: &[DeviceConfig], control: Option<PathBuf>) -> Result<(), Error> {
    let devices: Vec<(&DeviceConfig, Stop)> =
        devices.iter().map(|device| (device, Stop::default())).collect();
    stop_on_signals(devices.iter().map(|(_, stop)| stop.clone()).collect())?;
    Devices::open(devices, control)?.run()
}

/// Stops all servers at SIGTERM or SIGINT.
fn stop_on_signals(stops: Vec<Stop>) -> Result<(), Error> {
    let fails = |source| Error::System { action: "cannot watch for signals", source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(fails)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                log::info!("stopping");
                stops.iter().for_each(Stop::stop);
            }
        })
        .map_err(fails)?;
    Ok(())
}
