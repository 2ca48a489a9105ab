//! `defragment`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::administer::{devices, unknown};
use super::{Error, say_json};
use crate::btt::{Position, defragment};
use crate::cli::name::{NamespaceArgs, PositionalNamespace};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::namespace::Atomic;
use crate::nvdimm::ClaimKind;
use crate::pmem::DurabilityRequest;
use crate::vhost_user::control::{self, Answer, Request};

/// How long a step takes: the bar moves, and a rate is kept, in such steps.
const STEP: Duration = Duration::from_millis(100);
/// Bytes that a daemon moves in a second unless another rate is asked for: its guests have most of the memory's
/// bandwidth.
const ONLINE_RATE: Size = Size(64 << 20);

/// Put the sectors of a disk in order, so that reads in sequence find them one after another
///
/// Each sector is moved by a write that is atomic and durable, and no data are at risk at any time: the command may
/// be interrupted, and given again. With --control, the daemon moves the sectors of a disk that it serves,
/// while its guest goes on. 'inspect' says how many sectors are out of order.
#[derive(Debug, Args)]
pub(super) struct Defragment {
    /// The NVDIMM file; with --control, the device: the name or device name of its namespace, its uuid, or the
    /// path of its socket
    #[arg(value_name = "FILE|DEVICE")]
    target: PathBuf,

    #[command(flatten)]
    positional: PositionalNamespace,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Move at most so many bytes in a second [default: 64M with --control, else no limit]
    #[arg(short, long, value_name = "SIZE")]
    rate: Option<Size>,

    /// Print JSON: an object
    #[arg(short, long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    /// Sectors that were out of place, as they were counted before the first was moved.
    misplaced: u64,
    /// How often a sector was moved.
    moved: u64,
    sector_size: u32,
}

impl Defragment {
    /// Takes a namespace that was given without an option for one that was given with it.
    pub(super) fn place_namespace(&mut self) {
        self.positional.move_into(&mut self.namespace);
    }

    pub(super) fn run(&self, control: Option<&Path>) -> Result<(), Error> {
        if self.rate == Some(Size(0)) {
            return Err(Error::Usage("--rate=0 would never end"));
        }
        let done = match control {
            Some(socket) => self.online(socket)?,
            None => self.offline()?,
        };
        if self.json {
            return say_json(&done);
        }
        let (target, Done { misplaced, moved, sector_size }) = (self.target.display(), &done);
        let bytes = Size(moved.saturating_mul((*sector_size).into()));
        say!("{target}: {misplaced} sectors were out of place; {moved} were moved ({bytes})");
        Ok(())
    }

    fn offline(&self) -> Result<Done, Error> {
        let options = self.namespace.options(&self.target, DurabilityRequest::Auto);
        let mapped = options.map(ClaimKind::Exclusive)?;
        let (claim, (btt, _)) = mapped.open(false, 1, Atomic::default())?;
        let end = all_steps(btt.sector_size(), self.rate, |position| {
            let step = defragment(&btt, position, STEP, Duration::ZERO);
            step.map_err(|source| Error::Sectors { path: claim.path().into(), source })
        })?;
        Ok(Done { misplaced: end.misplaced, moved: end.moved, sector_size: btt.sector_size() })
    }

    fn online(&self, socket: &Path) -> Result<Done, Error> {
        if self.namespace.namespace.is_some()
            || self.namespace.label_size.is_some()
            || self.namespace.btt_version.is_some()
        {
            return Err(Error::Usage("with --control, the device is all that is to be named"));
        }
        let device = self.target.to_string_lossy().into_owned();
        let sector_size = sector_size(socket, &device)?;
        let rate = self.rate.unwrap_or(ONLINE_RATE);
        let end = all_steps(sector_size, Some(rate), |position| {
            let request = Request::Defragment { device: device.clone(), position };
            match control::request(socket, &request)? {
                Answer::Defragmented { position, is_done } => Ok((position, is_done)),
                other => Err(unknown(socket, &other)),
            }
        })?;
        Ok(Done { misplaced: end.misplaced, moved: end.moved, sector_size })
    }
}

/// Bytes of a sector of a daemon's disk.
fn sector_size(socket: &Path, device: &str) -> Result<u32, Error> {
    let devices = devices(socket, Some(&device.to_owned()))?;
    let disk = devices.first().and_then(|device| device.disk.as_ref());
    // Without a disk, the daemon refuses the first step.
    Ok(disk.map_or(4096, |disk| disk.sector_size))
}

/// Takes step after step, none faster than `rate` allows. Returns where the last has ended.
fn all_steps(
    sector_size: u32,
    rate: Option<Size>,
    mut step: impl FnMut(Position) -> Result<(Position, bool), Error>,
) -> Result<Position, Error> {
    let bytes = |sectors: u64| sectors.saturating_mul(sector_size.into());
    let progress = Progress::new("counting", None);
    let (begun, mut position) = (Instant::now(), Position::BEGIN);
    loop {
        let (next, is_done) = step(position)?;
        if is_done {
            return Ok(next);
        }
        position = next;
        if position.moves {
            progress.say("moving");
            let total = position.misplaced.max(position.moved);
            progress.set(bytes(position.moved), bytes(total));
        }
        if let Some(Size(rate)) = rate {
            let due = u128::from(bytes(position.moved)) * 1000 / u128::from(rate);
            let due = Duration::from_millis(u64::try_from(due).unwrap_or(u64::MAX));
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
}
