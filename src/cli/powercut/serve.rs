//! `powercut serve`.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::serve_image::ImageArgs;
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
pub(super) struct ServeArgs {
    #[command(flatten)]
    devices: DeviceArgs,

    /// When the power fails, and what is left then
    ///
    /// An image: 'after-writes=N', 'after-flushes=N' or 'at-mark=TEXT', and 'seed=S'. Each sector gets one
    /// of the versions that were written since the last flush that covers it, or stays as it was; or,
    /// with 'model=prefix', the newest, with 'model=drop-K' all but K requests are there, and with
    /// 'model=keep-K' none but K. The exit status is 3 then.
    ///
    /// An NVDIMM file: 'after-fences=N' and 'seed=S'.
    /// The file is treated as if it were DAX: it gets what was flushed and fenced, and nothing else
    /// until the power fails. Then it gets what the CPU's caches might have written back by then of
    /// all the rest, as the seed says. Without 'after-fences', the power fails at SIGUSR1 alone;
    /// without 'seed', the seed is random. The last line on standard error says which it was. What
    /// guests store to DAX devices, and have not flushed, is lost in part, too; that takes as much
    /// memory as they are large. With 'lose-flushes', what they have flushed is lost as well: the
    /// control experiment.
    #[arg(
        long,
        value_name = "KEY=VALUE,...",
        default_value = "",
        hide_default_value = true,
        help_heading = "Power failures"
    )]
    fail: String,

    /// Serve the namespace's bytes as they are, as sectors of 512 or 4096 bytes: not a BTT, and not
    /// atomic. What is in the namespace is lost
    #[arg(long, value_name = "SECTOR-SIZE", value_parser = sector_size,
          help_heading = "Power failures")]
    raw: Option<u32>,

    #[command(flatten)]
    image: ImageArgs,
}

pub(super) fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("neither 512 nor 4096".into()),
    }
}

impl ServeArgs {
    /// Serves until the power fails, or the process is told to end.
    pub(super) fn run(self) -> ExitCode {
        if let Some(image) = &self.image.image {
            return self.serve_image(image);
        }
        if self.devices.asks_for_a_plain_medium() {
            return usage(&"--read-only and --durability are not for a disk whose power fails");
        }
        let failure = match self.fail.parse::<PowerFailure>() {
            Ok(failure) => failure,
            Err(error) => return usage(&error),
        };
        let medium: Arc<dyn OpenMedium> = Arc::new(FailingMedium { failure, raw: self.raw });
        serve_devices("powercut", self.devices, None, |device| device.open_by(&medium))
    }

    fn serve_image(&self, image: &Path) -> ExitCode {
        let failure = match self.fail.parse() {
            Ok(failure) => failure,
            Err(error) => return usage(&error),
        };
        self.devices.log_level.start_logging();
        match self.devices.disk_options() {
            Some(options) => self.image.run(image, failure, &options),
            None => usage(&"say where to listen: --socket-path=PATH"),
        }
    }
}

/// Says what is wrong with the command line.
fn usage(error: &dyn Display) -> ExitCode {
    complain(format_args!("powercut: {error} (see --help)"));
    ExitCode::from(USAGE)
}
