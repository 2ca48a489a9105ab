//! The devices that a daemon serves, as the administrator sees them.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::block::DiskFacts;
use super::control::{
    DeviceReport, Identity, LimitsReport, OperationReport, QueueReport, RateReport, SyncReport,
};
use super::device::VhostDevice;
use super::page_tables::PageTables;
use super::pause::{Pause, Quiesced, Standstill};
use super::queue::{BucketConfig, Counter, Operation, QueueCounters, RateLimit};
use super::stop::Stop;
use super::windows::WindowConfig;
use crate::btt::{self, Position};
use crate::namespace::NamespaceError;
use crate::virtio::SyncError;

/// A disk that is served for writing: it can take the sectors which its namespace has gained, and those that it
/// has can be moved.
pub(super) trait Growth: Send + Sync {
    /// Takes them. `None`: there are none.
    ///
    /// # Errors
    ///
    /// The disk stays as it was.
    fn take(&self) -> Result<Option<Grown>, GrowthError>;

    /// Gives the namespace `size` bytes; `None`: all that are free behind it. `force`: also where the free bytes
    /// hold something. `file`: the NVDIMM file, opened once more, where the disk's was handed over.
    ///
    /// # Errors
    ///
    /// The namespace stays as it was.
    fn extend(&self, size: Option<u64>, force: bool, file: Option<File>)
    -> Result<(), GrowthError>;

    /// Goes on with a defragmentation for a moment. Returns how far it has come, and whether it is done.
    ///
    /// # Errors
    ///
    /// Sectors cannot be moved now, or at all: while the gate of the device is closed, none are.
    fn defragment(&self, position: Position) -> Result<(Position, bool), GrowthError>;

    /// Waits until the sectors are moved that are being moved.
    fn wait_until_moved(&self);
}

/// How a disk has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grown {
    /// Sectors before.
    pub before: u64,
    /// Sectors now.
    pub sectors: u64,
    /// A frontend that is connected was told.
    pub is_told: bool,
}

/// Why a disk stays as large as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrowthError {
    /// The namespace, or its BTT.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// What the guest has written cannot be made durable.
    #[error("what was written cannot be made durable, so the disk is not opened again")]
    Sync(#[from] SyncError),
    /// Its file is being copied.
    #[error("the disk is quiesced: resume it first")]
    Quiesced,
    /// Its sectors cannot be moved.
    #[error("the sectors of the disk cannot be moved")]
    Move(#[from] btt::Error),
    /// The daemon cannot open the file.
    #[error(
        "the file was handed over open: the request has to bring it once more, opened again, as 'nvdimmctl resize' \
         does"
    )]
    NeedsFile,
    /// The descriptor is of no use.
    #[error(
        "the descriptor that came with the request is not that of the disk's file, opened again"
    )]
    OtherFile,
}

/// Why something was not done to a device.
#[derive(Debug, thiserror::Error)]
pub(super) enum FleetError {
    /// There is no such device.
    #[error("this daemon serves no device {0:?}; 'nvdimmctl disks' lists those that it serves")]
    Unknown(String),
    /// There are several.
    #[error(
        "this daemon serves several devices {0:?}: name one by its socket, or the uuid of its namespace"
    )]
    Several(String),
    /// Its guest would lose it.
    #[error("busy: a frontend is connected to {0:?}; --force takes the device away from it")]
    Busy(String),
    /// It has been told to end, and goes on.
    #[error("device {0:?} is told to end, and has not within {time} s", time = END_LIMIT.as_secs())]
    Lingers(String),
    /// It is quiesced already.
    #[error("device {0:?} is quiesced already")]
    Quiesced(String),
    /// It is not quiesced yet.
    #[error("device {0:?} is being quiesced: resume it when that is done")]
    Quiescing(String),
    /// It is not quiesced.
    #[error(
        "device {0:?} is not quiesced, or not any more: a copy that was made of it may not be whole"
    )]
    NotQuiesced(String),
    /// It is no disk, or read-only.
    #[error("device {0:?} is no disk that can grow: it is read-only, or persistent memory")]
    NoGrowth(String),
    /// It is no disk, or read-only.
    #[error(
        "device {0:?} is no disk whose sectors can be moved: it is read-only, or persistent memory"
    )]
    NoMoves(String),
    /// It is in no group.
    #[error("this daemon has no group {0:?} of rate limits")]
    NoGroup(String),
    /// The disk stays as large as it was.
    #[error(transparent)]
    Growth(#[from] GrowthError),
    /// The medium fails.
    #[error("device {name:?} cannot be made durable")]
    Sync {
        /// The device.
        name: String,
        /// Why.
        source: SyncError,
    },
}

/// How long a device may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long a frontend that has closed its socket may not be known to be gone.
const LEAVING_LIMIT: Duration = Duration::from_millis(500);
/// How long to wait between looks at what a device has come to.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is known of a device beside the device itself.
pub(super) struct Description {
    pub identity: Identity,
    /// `None`: it is persistent memory.
    pub facts: Option<Arc<DiskFacts>>,
    /// `None`: it cannot grow.
    pub growth: Option<Arc<dyn Growth>>,
    /// Name of its group of rate limits.
    pub group: Option<String>,
    /// `None`: its medium has none that could be filled.
    pub page_tables: Option<Arc<PageTables>>,
    /// What its guest maps.
    pub windows: Vec<WindowConfig>,
    /// `None`: the daemon has opened its file itself.
    pub handed_over: Option<HandedOver>,
}

/// A file that was handed over, and the bytes of it that are claimed.
pub(super) struct HandedOver {
    pub file: Arc<File>,
    pub range: Range<u64>,
}

/// A device that is served.
pub(super) struct Member {
    pub device: Arc<dyn VhostDevice>,
    pub description: Description,
    pub stop: Stop,
    /// What the administrator has it do.
    pub standstill: Mutex<Standstill>,
}

/// The devices that are served.
#[derive(Default)]
pub(super) struct Fleet {
    members: Mutex<Vec<Arc<Member>>>,
}

impl Fleet {
    /// Takes in a device.
    pub(super) fn add(&self, member: Arc<Member>) {
        self.members().push(member);
    }

    /// The device is not served any more.
    pub(super) fn ended(&self, member: &Arc<Member>) {
        self.members().retain(|other| !Arc::ptr_eq(other, member));
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Member>> {
        self.members().clone()
    }

    /// What is said of the device that goes by `name`; of all, if there is no name.
    pub(super) fn report(&self, name: Option<&str>) -> Result<Vec<DeviceReport>, FleetError> {
        let members = match name {
            Some(name) => vec![self.find(name)?],
            None => self.members().clone(),
        };
        Ok(members.iter().map(|member| member.report()).collect())
    }

    /// Lets a device take nothing off its rings for `limit` at most, and makes everything durable that it has written.
    pub(super) fn quiesce(&self, name: &str, limit: Duration) -> Result<(), FleetError> {
        let member = self.find(name)?;
        let mut standstill = member.standstill();
        if !standstill.runs() {
            return Err(FleetError::Quiesced(name.to_owned()));
        }
        *standstill = Standstill::Begins;
        // A slow medium must not hold up other requests.
        drop(standstill);
        let pause = Pause::begin(member.device.clone());
        if let Some(growth) = &member.description.growth {
            growth.wait_until_moved();
        }
        let synced = member.sync();
        let until = Instant::now() + limit;
        *member.standstill() = match synced {
            Ok(()) => Standstill::Stands(Quiesced { pause, limit, until }),
            Err(_) => Standstill::Runs,
        };
        synced?;
        info!("{}: quiesced for {} s at most", member.device.log().name(), limit.as_secs());
        Ok(())
    }

    /// Takes back a [`quiesce`](Self::quiesce).
    pub(super) fn resume(&self, name: &str) -> Result<(), FleetError> {
        let member = self.find(name)?;
        let mut standstill = member.standstill();
        if matches!(*standstill, Standstill::Begins) {
            return Err(FleetError::Quiescing(name.to_owned()));
        }
        let quiesced = standstill.take();
        drop(standstill);
        quiesced.ok_or_else(|| FleetError::NotQuiesced(name.to_owned()))?;
        info!("{}: resumed", member.device.log().name());
        Ok(())
    }

    /// Returns whether a device is quiesced.
    pub(super) fn has_quiesced(&self) -> bool {
        self.members().iter().any(|member| !member.standstill().runs())
    }

    /// Takes back each [`quiesce`](Self::quiesce) whose time is over.
    pub(super) fn resume_overdue(&self) {
        let members = self.members().clone();
        for member in members {
            let now = Instant::now();
            let over = member.standstill().take_if(|quiesced| quiesced.until <= now);
            if let Some(Quiesced { limit, pause, .. }) = over {
                drop(pause);
                warn!(
                    "{}: resumed, since no client has asked for that within {} s; a copy of it may not be whole",
                    member.device.log().name(),
                    limit.as_secs()
                );
            }
        }
    }

    /// Waits until everything is done that a device has in hand, and makes it durable.
    pub(super) fn drain(&self, name: &str) -> Result<(), FleetError> {
        let member = self.find(name)?;
        let _pause = Pause::begin(member.device.clone());
        member.sync()
    }

    /// Serves a device no more, after what it has in hand is done. `force`: also while a frontend is connected.
    pub(super) fn remove(&self, name: &str, force: bool) -> Result<(), FleetError> {
        let member = self.find(name)?;
        let is_free = || !member.device.connection().is_there();
        if !force && !is_true_within(LEAVING_LIMIT, is_free) {
            return Err(FleetError::Busy(name.to_owned()));
        }
        member.stop.stop();
        let is_gone = || !self.members().iter().any(|other| Arc::ptr_eq(other, &member));
        if !is_true_within(END_LIMIT, is_gone) {
            return Err(FleetError::Lingers(name.to_owned()));
        }
        info!("{}: removed", member.device.log().name());
        Ok(())
    }

    /// Makes a disk larger, or takes what its namespace has gained already.
    pub(super) fn resize(
        &self,
        name: &str,
        size: Option<u64>,
        force: bool,
        file: Option<File>,
    ) -> Result<(u64, u64, bool), FleetError> {
        let member = self.find(name)?;
        let no_growth = || FleetError::NoGrowth(name.to_owned());
        let growth = member.description.growth.as_ref().ok_or_else(no_growth)?;
        let facts = member.description.facts.as_ref().ok_or_else(no_growth)?;
        if !member.standstill().runs() {
            return Err(GrowthError::Quiesced.into());
        }
        let before = facts.report().size;
        growth.extend(size, force, file)?;
        let grown = growth.take()?;
        Ok((before, facts.report().size, grown.is_some_and(|grown| grown.is_told)))
    }

    /// Goes on with the defragmentation of a disk for a moment.
    pub(super) fn defragment(
        &self,
        name: &str,
        position: Position,
    ) -> Result<(Position, bool), FleetError> {
        let member = self.find(name)?;
        let growth = member.description.growth.as_ref();
        let growth = growth.ok_or_else(|| FleetError::NoMoves(name.to_owned()))?;
        Ok(growth.defragment(position)?)
    }

    /// Sets other rate limits of a device.
    pub(super) fn rate(&self, name: &str, limit: RateLimit) -> Result<(), FleetError> {
        let member = self.find(name)?;
        member.device.gate().limits().own().set(limit, Instant::now());
        member.wake();
        info!("{}: other rate limits", member.device.log().name());
        Ok(())
    }

    /// Sets other rate limits of a group.
    pub(super) fn group_rate(&self, name: &str, limit: RateLimit) -> Result<(), FleetError> {
        let members: Vec<_> = self.members().clone();
        let in_group = |member: &&Arc<Member>| member.description.group.as_deref() == Some(name);
        let members: Vec<_> = members.iter().filter(in_group).collect();
        let first = members.first().and_then(|member| member.device.gate().limits().group());
        let group = first.ok_or_else(|| FleetError::NoGroup(name.to_owned()))?;
        group.set(limit, Instant::now());
        for member in members {
            member.wake();
        }
        info!("group {name:?}: other rate limits");
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<Member>, FleetError> {
        let members = self.members();
        let mut found = members.iter().filter(|member| member.description.identity.goes_by(name));
        match (found.next(), found.next()) {
            (Some(member), None) => Ok(member.clone()),
            (None, _) => Err(FleetError::Unknown(name.to_owned())),
            (Some(_), Some(_)) => Err(FleetError::Several(name.to_owned())),
        }
    }

    fn members(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        // Each change is a whole one.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Locked for moments only.
    fn standstill(&self) -> MutexGuard<'_, Standstill> {
        self.standstill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self) -> Result<(), FleetError> {
        let name = || self.description.identity.name.clone();
        self.device.sync().map_err(|source| FleetError::Sync { name: name(), source })
    }

    /// Has the threads of its queues look at their limits again.
    fn wake(&self) {
        for queue in 0..self.device.queues() {
            self.device.worker(queue).wake();
        }
    }

    fn report(&self) -> DeviceReport {
        let Description { identity, facts, group, page_tables, .. } = &self.description;
        let (limits, syncs) = (self.device.gate().limits(), self.device.syncs());
        let queues = 0..self.device.queues();
        DeviceReport {
            identity: identity.clone(),
            frontend: self.device.connection().report(self.device.feature_names()),
            connections: self.device.connection().count(),
            quiesced: !self.standstill().runs(),
            disk: facts.as_ref().map(|facts| facts.report()),
            limits: LimitsReport {
                own: rate_report(limits.own().limit()),
                group_name: group.clone(),
                group: limits.group().and_then(|group| rate_report(group.limit())),
            },
            pages: page_tables.as_ref().and_then(|tables| tables.report()),
            syncs: SyncReport {
                count: syncs.syncs.get(),
                errors: syncs.errors.get(),
                time: syncs.time.get(),
            },
            queues: queues.map(|queue| queue_report(self.device.counters(queue))).collect(),
        }
    }
}

fn queue_report(counters: &QueueCounters) -> QueueReport {
    let operation = |operation: Operation| {
        let counters = counters.of(operation);
        let report = OperationReport {
            count: counters.requests.get(),
            errors: counters.errors.get(),
            bytes: counters.bytes.get(),
            time: counters.latency.total(),
            latency: counters.latency.buckets(),
        };
        (operation.name().to_owned(), report)
    };
    QueueReport {
        requests: Operation::ALL.map(operation).into_iter().collect::<BTreeMap<_, _>>(),
        batches: counters.batches.iter().map(Counter::get).collect(),
        polls: counters.polls.get(),
        kicks: counters.kicks.get(),
        interrupts: counters.interrupts.get(),
        fences: counters.fences.get(),
        throttles: counters.throttles.get(),
        throttled: counters.throttled.get(),
    }
}

/// Returns whether `is_true` becomes true within `limit`.
fn is_true_within(limit: Duration, is_true: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_true() {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    true
}

fn rate_report(limit: RateLimit) -> Option<RateReport> {
    let parts = |config: Option<BucketConfig>| {
        config.map_or((0, 0, 0), |BucketConfig { size, one_time_burst, refill_time }| {
            (size, one_time_burst, u64::try_from(refill_time.as_millis()).unwrap_or(u64::MAX))
        })
    };
    let (bw_size, bw_one_time_burst, bw_refill_time) = parts(limit.bandwidth);
    let (ops_size, ops_one_time_burst, ops_refill_time) = parts(limit.operations);
    (limit != RateLimit::default()).then_some(RateReport {
        bw_size,
        bw_one_time_burst,
        bw_refill_time,
        ops_size,
        ops_one_time_burst,
        ops_refill_time,
    })
}
