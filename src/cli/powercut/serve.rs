//! `powercut serve`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::cli::daemon::DeviceArgs;
use crate::cli::serving::USAGE;
use crate::cli::{complain, serve_devices};
use crate::powercut::nvdimm::{FailingMedium, PowerFailure};
use crate::vhost_user::OpenMedium;

/// Serves disks whose power fails, over vhost-user
///
/// The power fails at SIGUSR1, or as --fail says. What had been flushed by then is in the file, and of all else
/// a part that could be there; the process is gone, as by SIGKILL.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    devices: DeviceArgs,

    /// When the power fails, and what is left then
    ///
    /// The file is treated as if it were DAX: it gets what was flushed and fenced, and nothing else
    /// until the power fails. Then it gets what the CPU's caches might have written back by then of
    /// all the rest, as the seed says. Without 'after-fences', the power fails at SIGUSR1 alone;
    /// without 'seed', the seed is random. The last line on standard error says which it was. What
    /// guests store to DAX devices, and have not flushed, is lost in part, too; that takes as much
    /// memory as they are large. With 'lose-flushes', what they have flushed is lost as well: the
    /// control experiment.
    #[arg(
        long,
        value_name = "after-fences=N,seed=S,lose-flushes",
        default_value = "",
        hide_default_value = true,
        help_heading = "Power failures"
    )]
    fail: PowerFailure,

    /// Serve the namespace's bytes as they are, as sectors of 512 or 4096 bytes: not a BTT, and not
    /// atomic. What is in the namespace is lost
    #[arg(long, value_name = "SECTOR-SIZE", value_parser = sector_size,
          help_heading = "Power failures")]
    raw: Option<u32>,
}

fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("neither 512 nor 4096".into()),
    }
}

impl ServeArgs {
    /// Serves until the power fails, or the process is told to end.
    pub(super) fn run(self) -> ExitCode {
        if self.devices.asks_for_a_plain_medium() {
            complain(format_args!(
                "powercut: --read-only and --durability are not for a disk whose power fails"
            ));
            return ExitCode::from(USAGE);
        }
        let medium: Arc<dyn OpenMedium> =
            Arc::new(FailingMedium { failure: self.fail, raw: self.raw });
        serve_devices("powercut", self.devices, None, |device| device.open_by(&medium))
    }
}
