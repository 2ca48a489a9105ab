//! Serving devices until the process is told to end.

use std::process::ExitCode;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::daemon::{DeviceArgs, Served};
use super::keeper::KeeperArgs;
use super::sandbox::SandboxArgs;
use super::signals::{StopSignals, outlive_file_size_limit};
use super::{complain, one_line, service};
use crate::sandbox;
use crate::vhost_user::{
    DeviceConfig, Devices, Error, PassedSockets, Stop, raise_descriptor_limit, take_kept,
};

/// Exit status after a command line that makes no sense.
pub(super) const USAGE: u8 = 2;

/// Serves what `args` say, for `program`, until it is told to stop. `change` may change each device before it
/// is opened. The `daemon` enters its sandbox when all is open, and may take its connections from a keeper.
pub fn serve_devices(
    program: &str,
    args: DeviceArgs,
    daemon: Option<(&SandboxArgs, &KeeperArgs)>,
    change: impl FnMut(&mut DeviceConfig),
) -> ExitCode {
    args.log_level.start_logging();
    match run(program, args, daemon, change) {
        Ok(code) => code,
        Err(error) => {
            log::error!("{}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(
    program: &str,
    args: DeviceArgs,
    daemon: Option<(&SandboxArgs, &KeeperArgs)>,
    mut change: impl FnMut(&mut DeviceConfig),
) -> Result<ExitCode, Error> {
    // Before any file is opened whose descriptor could have the number of one of them.
    let mut passed = PassedSockets::from_environment()?;
    let kept = daemon.map_or(&[][..], |(_, keeper)| &keeper.kept);
    let Served { mut devices, mut control } = match args.served(passed.len().max(kept.len())) {
        Ok(served) => served,
        Err(error) => {
            complain(format_args!("{program}: {error} (see --help)"));
            return Ok(ExitCode::from(USAGE));
        }
    };
    match kept {
        [] => passed.hand_out(&mut devices)?,
        kept => {
            // Also when other devices than the keeper's are served by then.
            if let Err(errno) = set_parent_process_death_signal(Some(Signal::TERM)) {
                log::warn!("the daemon does not end with its keeper: {errno}");
            }
            take_kept(kept, &mut devices)?;
        }
    }
    if !passed.is_empty() {
        log::warn!("the service manager has passed {} sockets that no device needs", passed.len());
    }
    devices.iter_mut().for_each(&mut change);
    if let Some(control) = &mut control {
        control.change_additions(change);
    }
    let path = control.as_ref().map(|control| control.path.as_path());
    let sandbox = daemon.map(|(args, _)| args.sandbox(&devices, path));
    let open = |stops: Vec<Stop>| {
        let opened = Devices::open(devices.iter().zip(stops), control)?;
        // What comes next serves frontends. No thread has been started yet.
        sandbox.as_ref().map(sandbox::enter).transpose()?;
        Ok::<_, Error>(opened)
    };
    serve(devices.len(), open)?;
    Ok(ExitCode::SUCCESS)
}

/// Serves the devices that `open` opens, each with a handle that stops it, until the process is told to end.
pub(super) fn serve<E: From<Error>>(
    count: usize,
    open: impl FnOnce(Vec<Stop>) -> Result<Devices, E>,
) -> Result<(), E> {
    if let Err(error) = outlive_file_size_limit() {
        log::warn!("cannot watch for SIGXFSZ: {error}");
    }
    raise_descriptor_limit();
    let system = |action| move |source| Error::System { action, source };
    let signals = StopSignals::catch().map_err(system("cannot watch for signals"))?;
    let stops: Vec<Stop> = (0..count)
        .map(|_| Stop::new())
        .collect::<Result<_, _>>()
        .map_err(system("cannot make a stop handle"))?;
    let devices = open(stops)?;
    let stopper = devices.stopper();
    let stop = move || {
        service::stopping();
        stopper.stop();
    };
    signals.watch(stop).map_err(system("cannot watch for signals"))?;
    service::ready(devices.count()).map_err(system("cannot answer the watchdog"))?;
    Ok(devices.run()?)
}
