//! A disk that takes the sectors which its namespace has gained, whether or not a frontend is connected.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::info;

use super::super::device::{DeviceBackend, VhostDevice};
use super::super::fleet::{Grown, Growth, GrowthError};
use super::super::page_tables::PageTables;
use super::super::pause::Pause;
use super::config::{DiskConfig, OpenDisk};
use super::device::BlockModel;
use super::facts::DiskFacts;
use crate::btt::{self, Btt, Position, Version};
use crate::namespace::{self, NamespaceOptions};
use crate::nvdimm::{Claim, is_locked};
use crate::pmem::Mapping;

/// How long sectors are moved for one request: the disk can be quiesced then, or grow.
const STEP: Duration = Duration::from_millis(50);
/// How long the guest's queues have their lanes to themselves after each round.
const PAUSE: Duration = Duration::from_micros(100);

/// What is needed to open the disk again, and to move its sectors.
pub(super) struct DiskGrowth {
    config: DiskConfig,
    device: Arc<DeviceBackend<BlockModel<btt::Queue<Mapping>>>>,
    facts: Arc<DiskFacts>,
    opened: Mutex<Opened>,
    version: Option<Version>,
    page_tables: Arc<PageTables>,
}

/// What was opened last.
pub(super) struct Opened {
    /// The claim on the namespace, which says how large it was.
    pub claim: Claim,
    pub btt: Arc<Btt<Mapping>>,
}

impl DiskGrowth {
    /// The growth of `device`, which `config` has opened.
    pub(super) fn new(
        config: DiskConfig,
        device: Arc<DeviceBackend<BlockModel<btt::Queue<Mapping>>>>,
        facts: Arc<DiskFacts>,
        (opened, version): (Opened, Option<Version>),
        page_tables: Arc<PageTables>,
    ) -> DiskGrowth {
        DiskGrowth { config, device, facts, opened: Mutex::new(opened), version, page_tables }
    }

    /// What was opened last; nothing is opened while this is held.
    fn opened(&self) -> MutexGuard<'_, Opened> {
        // Replaced as a whole.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the disk again if its namespace is larger than its claim says, and hands it to the device.
    fn reopen(&self, opened: &mut Opened) -> Result<bool, GrowthError> {
        // The BTT in memory and the one that is opened must not both be written to.
        let _pause = Pause::begin(self.device.clone());
        let grown = namespace::grow_claimed(&self.config.namespace, &opened.claim, self.version)?;
        let Some(mut mapped) = grown else { return Ok(false) };
        // The one that is opened knows nothing of writes that are not durable yet.
        self.device.sync()?;
        mapped.medium.keep_single_pages();
        let pages = mapped.medium.pages();
        let OpenDisk { claim, btt, device, facts, .. } = self.config.open_btt(mapped)?;
        *opened = Opened { claim, btt };
        self.facts.become_those_of(&facts);
        let (device, queues) = device.into_parts();
        self.device.take_over(device, queues);
        self.page_tables.are_of(pages);
        Ok(true)
    }
}

impl DiskGrowth {
    /// Refuses a file that is another one, or the same opening of the file, which the claim does not keep from the
    /// BTT that is served.
    fn refuse_other_file(&self, file: &File) -> Result<(), GrowthError> {
        let opened = self.opened();
        let claim = &opened.claim;
        let identity = |file: &File| file.metadata().map(|file| (file.dev(), file.ino())).ok();
        let is_same = identity(file).is_some_and(|this| Some(this) == identity(claim.file()));
        let is_apart = is_locked(file, &claim.namespace().range).unwrap_or(false);
        if is_same && is_apart { Ok(()) } else { Err(GrowthError::OtherFile) }
    }
}

impl Growth for DiskGrowth {
    fn take(&self) -> Result<Option<Grown>, GrowthError> {
        let mut opened = self.opened();
        if self.device.gate().is_closed() {
            return Err(GrowthError::Quiesced);
        }
        let (name, before) = (self.device.log().name(), self.device.sectors());
        if !self.reopen(&mut opened)? {
            return Ok(None);
        }
        let now = self.device.sectors();
        info!("{name}: the disk has grown from {before} to {now} sectors");
        let is_told = self.device.config_changed();
        Ok(Some(Grown { before, sectors: now, is_told }))
    }

    fn extend(
        &self,
        size: Option<u64>,
        force: bool,
        file: Option<File>,
    ) -> Result<(), GrowthError> {
        let file = file.map(Arc::new);
        if let Some(file) = &file {
            self.refuse_other_file(file)?;
        } else if self.config.namespace.file.is_some() {
            return Err(GrowthError::NeedsFile);
        }
        let options = NamespaceOptions { file, ..self.config.namespace.clone() };
        namespace::grow_namespace(&options, size, force, |_, _| {})?;
        Ok(())
    }

    fn defragment(&self, position: Position) -> Result<(Position, bool), GrowthError> {
        // A disk that was opened again must not be written through what was opened before.
        let opened = self.opened();
        if self.device.gate().is_closed() {
            return Err(GrowthError::Quiesced);
        }
        Ok(btt::defragment(&opened.btt, position, STEP, PAUSE)?)
    }

    fn wait_until_moved(&self) {
        drop(self.opened());
    }
}
