//! The daemon: serves namespaces until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vhost_user_btt::cli::daemon::{DaemonArgs, capabilities};
use vhost_user_btt::cli::{complain, one_line, outlive_file_size_limit, parse, print_document};
use vhost_user_btt::vhost_user::{DeviceConfig, Devices, Error, Stop, raise_descriptor_limit};

fn main() -> ExitCode {
    // By the conventions of back-end programs, everything else on the command line is ignored then,
    // be it right or wrong.
    if std::env::args_os().any(|argument| argument == "--print-capabilities") {
        let is_printed = print_document(&capabilities());
        return if is_printed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = parse::<DaemonArgs>();
    args.log_level.start_logging();
    if let Err(error) = outlive_file_size_limit() {
        log::warn!("cannot watch for SIGXFSZ: {error}");
    }
    let control = args.control.clone();
    let devices = match args.devices() {
        Ok(devices) => devices,
        Err(error) => {
            complain(format_args!("vhost-user-btt: {error} (see --help)"));
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
    raise_descriptor_limit();
    let fails = |source| Error::System { action: "cannot make a stop handle", source };
    let with_stop = |device| Ok((device, Stop::new().map_err(fails)?));
    let devices: Vec<(&DeviceConfig, Stop)> =
        devices.iter().map(with_stop).collect::<Result<_, Error>>()?;
    stop_on_signals(devices.iter().map(|(_, stop)| stop.clone()).collect())?;
    Devices::open(devices, control)?.run()
}

/// How long a stop may take: requests in flight are completed, and a sync of a file that is under way.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Stops all servers at SIGTERM or SIGINT. Ends the process at the second, or when the stop takes too long:
/// what is not completed then, the frontend hands to the next daemon.
fn stop_on_signals(stops: Vec<Stop>) -> Result<(), Error> {
    let fails = |source| Error::System { action: "cannot watch for signals", source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(fails)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for number in 0.. {
                if signals.forever().next().is_none() {
                    return;
                }
                if number > 0 {
                    log::warn!("told to stop again: ending at once");
                    std::process::exit(1);
                }
                log::info!("stopping");
                stops.iter().for_each(Stop::stop);
                thread::spawn(|| {
                    thread::sleep(STOP_LIMIT);
                    log::error!(
                        "requests in flight are not completed in time: ending without them"
                    );
                    std::process::exit(1);
                });
            }
        })
        .map_err(fails)?;
    Ok(())
}
