//! `stat` and `disks`.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::super::{Error, say_json};
use super::{devices, prometheus, table};
use crate::cli::output::document;

/// Show what the devices of a daemon do: requests, bytes and times by kind, as iostat -x does
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Stat {
    /// The device; otherwise all of the daemon
    device: Option<String>,

    /// Show again every N seconds what has come since
    #[arg(short, long, value_name = "N", num_args = 0..=1, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,

    /// End after N times of --watch
    #[arg(short, long, value_name = "N", requires = "watch")]
    count: Option<u64>,

    /// Print JSON: all that is counted, since the start of the daemon
    #[arg(short, long, conflicts_with = "watch")]
    json: bool,

    /// Print what Prometheus reads
    #[arg(short, long, conflicts_with_all = ["watch", "json"])]
    prometheus: bool,
}

/// List the devices that a daemon serves, with their frontends
#[derive(Debug, Args)]
pub(in crate::cli::nvdimmctl) struct Disks {
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

impl Stat {
    pub(super) fn run(&self, socket: &Path) -> Result<(), Error> {
        let reports = devices(socket, self.device.as_ref())?;
        if self.json {
            return say_json(&reports);
        }
        if self.prometheus {
            document(&prometheus::text(&reports));
            return Ok(());
        }
        let Some(seconds) = self.watch else {
            document(&table::statistics(&reports, None));
            return Ok(());
        };
        self.watch(socket, Duration::from_secs(seconds))
    }

    /// Shows what has come in each `interval`.
    fn watch(&self, socket: &Path, interval: Duration) -> Result<(), Error> {
        let (mut before, mut at) = (devices(socket, self.device.as_ref())?, Instant::now());
        for _ in 0..self.count.unwrap_or(u64::MAX) {
            thread::sleep(interval);
            let (now, taken) = (devices(socket, self.device.as_ref())?, at.elapsed());
            at = Instant::now();
            document(&table::statistics(&now, Some((&before, taken))));
            document("");
            before = now;
        }
        Ok(())
    }
}

impl Disks {
    pub(super) fn run(&self, socket: &Path) -> Result<(), Error> {
        let reports = devices(socket, None)?;
        if self.json {
            return say_json(&reports);
        }
        document(&table::devices(&reports));
        Ok(())
    }
}
