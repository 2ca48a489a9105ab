//! The DAX regions that the process has open, each of them once for all its windows.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::Error;
use super::super::medium::OpenMedium;
use super::Windows;
use crate::dax::Region;
use crate::namespace::{NamespaceError, NamespaceOptions};
use crate::nvdimm::{self, Claim, ClaimKind, LabelSize, NvdimmFile, Selection};
use crate::pmem::{PersistentMemory, Protection, SharedFile};

/// Any medium: nothing that a window does is worth one kind of code for each.
pub(super) type Medium = Arc<dyn PersistentMemory>;

/// A region, as it is asked for.
#[derive(Debug, Clone)]
pub struct RegionConfig {
    /// The NVDIMM file.
    pub path: PathBuf,
    /// The namespace that holds the region.
    pub namespace: Selection,
    /// Where the file's labels are.
    pub label_size: LabelSize,
    /// How its medium is opened.
    pub medium: Arc<dyn OpenMedium>,
}

/// A region that is open.
pub struct OpenRegion {
    /// What the log calls it.
    log_name: String,
    /// Keeps others from the namespace.
    claim: Claim,
    region: Region<Medium>,
    read_only: Arc<SharedFile>,
    /// `None`: the region is open for reading only.
    writable: Option<Arc<SharedFile>>,
}

impl OpenRegion {
    /// The devices.
    pub fn region(&self) -> &Region<Medium> {
        &self.region
    }

    /// What the log calls it.
    pub fn log_name(&self) -> &str {
        &self.log_name
    }

    /// The claim on its namespace.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Returns whether its namespace goes by `name`.
    pub(super) fn goes_by(&self, name: &str) -> bool {
        self.claim.namespace().goes_by(name)
    }

    /// Returns whether it is in `file`.
    pub(super) fn is_in(&self, file: &Path) -> bool {
        let same = |path: &Path| path.canonicalize();
        same(self.claim.path()).is_ok_and(|ours| same(file).is_ok_and(|theirs| ours == theirs))
    }

    /// The file that it is in.
    pub(super) fn file(&self) -> &SharedFile {
        &self.read_only
    }

    /// The file, for a frontend.
    pub(super) fn shared_file(&self, protection: Protection) -> Option<&Arc<SharedFile>> {
        match protection {
            Protection::ReadOnly => Some(&self.read_only),
            Protection::ReadWrite => self.writable.as_ref(),
        }
    }
}

/// Which region: its file, and the device name of its namespace.
type Key = (PathBuf, String);

/// A region as it is asked for: a file, a selection in it, and where the file's labels are.
type Request = (PathBuf, Selection, LabelSize);

/// The regions that are open.
#[derive(Default)]
pub struct Regions {
    /// What the requests so far mean, so that a file is looked at once for each.
    keys: HashMap<Request, Key>,
    open: HashMap<Key, Arc<OpenRegion>>,
    /// Regions that a device of this process writes to.
    written: HashSet<Key>,
    /// The windows of all devices.
    windows: Vec<Arc<Windows>>,
}

impl Regions {
    /// No region yet. Those in `written` will be written to, and the others not: they can be shared with
    /// other processes that only read.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or has no such namespace.
    pub fn new<'a>(written: impl IntoIterator<Item = &'a RegionConfig>) -> Result<Regions, Error> {
        let mut regions = Regions::default();
        for config in written {
            let key = regions.key(config)?;
            regions.written.insert(key);
        }
        Ok(regions)
    }

    /// The region that is asked for, opened if it is not yet.
    ///
    /// # Errors
    ///
    /// Another process holds the namespace, or it contains no usable region.
    pub fn open(&mut self, config: &RegionConfig) -> Result<Arc<OpenRegion>, Error> {
        let key = self.key(config)?;
        if let Some(open) = self.open.get(&key) {
            return Ok(Arc::clone(open));
        }
        let is_written = self.written.contains(&key);
        let kind = if is_written { ClaimKind::Exclusive } else { ClaimKind::Shared };
        let opened = Arc::new(config.open(kind)?);
        self.open.insert(key, Arc::clone(&opened));
        Ok(opened)
    }

    /// Which region is asked for.
    fn key(&mut self, config: &RegionConfig) -> Result<Key, Error> {
        let request = (config.path.clone(), config.namespace.clone(), config.label_size);
        if let Some(key) = self.keys.get(&request) {
            return Ok(key.clone());
        }
        let key = config.find()?;
        self.keys.insert(request, key.clone());
        Ok(key)
    }

    /// Takes note of the windows of a device.
    pub fn used_by(&mut self, windows: &Arc<Windows>) {
        self.windows.push(Arc::clone(windows));
    }

    /// The regions, and the windows of all devices.
    pub(super) fn into_parts(self) -> (Vec<Arc<OpenRegion>>, Vec<Arc<Windows>>) {
        (self.open.into_values().collect(), self.windows)
    }
}

impl RegionConfig {
    /// Looks for the namespace, without a claim on it.
    fn find(&self) -> Result<Key, Error> {
        let file = NvdimmFile::open(&self.path, ClaimKind::Shared, self.label_size)?;
        let namespace = file.select(&crate::namespace::region::resolve(&file, &self.namespace))?;
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        Ok((path, namespace.device_name()))
    }

    fn open(&self, kind: ClaimKind) -> Result<OpenRegion, Error> {
        let options =
            NamespaceOptions::new(self.path.clone(), self.namespace.clone(), self.label_size);
        let (claim, mapping) = options.map_region(kind)?;
        let fails = |source| nvdimm::Error::Map { path: self.path.clone(), source };
        let (medium, share_file) = self.medium.region(mapping).map_err(fails)?;
        let read_only = share_file(Protection::ReadOnly).map_err(fails)?;
        let writable = (kind == ClaimKind::Exclusive)
            .then(|| share_file(Protection::ReadWrite).map_err(fails))
            .transpose()?;
        let region = Region::open(medium, kind == ClaimKind::Shared)
            .map_err(|source| NamespaceError::region(&self.path, claim.namespace(), source))?;
        Ok(OpenRegion {
            log_name: super::super::announce::log_name(claim.path(), claim.namespace()),
            claim,
            region,
            read_only: Arc::new(read_only),
            writable: writable.map(Arc::new),
        })
    }
}
