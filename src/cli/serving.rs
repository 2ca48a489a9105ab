//! Serving devices until the process is told to end.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::vhost_user::{DeviceConfig, Devices, Error, Stop, raise_descriptor_limit};

/// Serves devices until all of them are stopped, with a control socket at `control`.
pub fn serve_devices(devices: &[DeviceConfig], control: Option<PathBuf>) -> Result<(), Error> {
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
pub(super) fn stop_on_signals(stops: Vec<Stop>) -> Result<(), Error> {
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
