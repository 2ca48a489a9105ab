//! The daemon: serves namespaces until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use vhost_user_btt::cli::daemon::{DaemonArgs, capabilities};
use vhost_user_btt::cli::{
    StopSignals, complain, one_line, outlive_file_size_limit, parse, print_document, service,
};
use vhost_user_btt::sandbox::{self, Sandbox};
use vhost_user_btt::vhost_user::{
    DeviceConfig, Devices, Error, PassedSockets, Stop, raise_descriptor_limit,
};

fn main() -> ExitCode {
    // By the conventions of back-end programs, everything else on the command line is ignored then,
    // be it right or wrong.
    if std::env::args_os().any(|argument| argument == "--print-capabilities") {
        let is_printed = print_document(&capabilities());
        return if is_printed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let args = parse::<DaemonArgs>();
    args.log_level.start_logging();
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            log::error!("{}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: DaemonArgs) -> Result<ExitCode, Error> {
    // Before any file is opened whose descriptor could have the number of one of them.
    let mut passed = PassedSockets::from_environment()?;
    let (control, sandbox) = (args.control.clone(), args.sandbox.clone());
    let mut devices = match args.devices(passed.len()) {
        Ok(devices) => devices,
        Err(error) => {
            complain(format_args!("vhost-user-btt: {error} (see --help)"));
            return Ok(ExitCode::from(2));
        }
    };
    passed.hand_out(&mut devices)?;
    if !passed.is_empty() {
        log::warn!("the service manager has passed {} sockets that no device needs", passed.len());
    }
    let sandbox = sandbox.sandbox(&devices, control.as_deref());
    serve(&devices, control, &sandbox).map(|()| ExitCode::SUCCESS)
}

fn serve(
    devices: &[DeviceConfig],
    control: Option<PathBuf>,
    sandbox: &Sandbox,
) -> Result<(), Error> {
    if let Err(error) = outlive_file_size_limit() {
        log::warn!("cannot watch for SIGXFSZ: {error}");
    }
    raise_descriptor_limit();
    let system = |action| move |source| Error::System { action, source };
    let signals = StopSignals::catch().map_err(system("cannot watch for signals"))?;
    let with_stop = |device| Ok((device, Stop::new()?));
    let devices: Vec<(&DeviceConfig, Stop)> = devices
        .iter()
        .map(with_stop)
        .collect::<Result<_, _>>()
        .map_err(system("cannot make a stop handle"))?;
    let stops: Vec<Stop> = devices.iter().map(|(_, stop)| stop.clone()).collect();
    let devices = Devices::open(devices, control)?;
    // From here on, what serves frontends; no thread has been started before.
    sandbox::enter(sandbox)?;
    let stop = move || {
        service::stopping();
        stops.iter().for_each(Stop::stop);
    };
    signals.watch(stop).map_err(system("cannot watch for signals"))?;
    service::ready(devices.count()).map_err(system("cannot answer the watchdog"))?;
    devices.run()
}
