//! A copy of a disk, which is patched from state to state.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::log::{Log, LogError};
use super::choice::{Choice, Sectors, State, Tear};
use super::timeline::{Content, Timeline};

/// Why a state cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log has entries beyond the end of the base image.
    #[error(
        "{path} has {size} bytes, but the log reaches up to byte {extent}: it is not the base of this log"
    )]
    TooSmall {
        /// The base image.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// How far the log reaches.
        extent: u64,
    },
    /// The check has changed the image.
    #[error("the command has written to the image: give it a copy for each state, with --copy")]
    Changed,
    /// The log has no such point.
    #[error("the log has {entries} entries, and so no point {position}")]
    NoSuchPoint {
        /// The point.
        position: usize,
        /// Number of entries.
        entries: usize,
    },
}

/// A copy of a base image in the state that was asked for last.
pub struct Image<'l> {
    log: &'l Log,
    timeline: Timeline<'l>,
    ignores_flushes: bool,
    base: File,
    base_path: PathBuf,
    file: File,
    path: PathBuf,
    /// What sectors hold that are not as in the base; `None`: a torn sector.
    current: HashMap<u64, Option<Content>>,
    /// Sectors that may not be as durable.
    touched: BTreeSet<u64>,
    /// When the file was changed last, by us.
    stamp: (i64, i64),
}

impl<'l> Image<'l> {
    /// A copy of `base` at `path`, where nothing may be yet, before the first entry of `log`.
    ///
    /// # Errors
    ///
    /// One of the files cannot be used, or the base is too small.
    pub fn create(
        log: &'l Log,
        ignores_flushes: bool,
        base: &Path,
        path: &Path,
    ) -> Result<Image<'l>, ImageError> {
        let base_file = File::open(base).map_err(fails("open", base))?;
        let size = base_file.metadata().map_err(fails("look at", base))?.len();
        let extent = Timeline::extent(log);
        if extent > size {
            return Err(ImageError::TooSmall { path: base.into(), size, extent });
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(fails("make", path))?;
        // In the kernel, where that is possible.
        io::copy(&mut &base_file, &mut &file).map_err(fails("copy the base to", path))?;
        let mut image = Image {
            log,
            timeline: Timeline::new(log, ignores_flushes),
            ignores_flushes,
            base: base_file,
            base_path: base.into(),
            file,
            path: path.into(),
            current: HashMap::new(),
            touched: BTreeSet::new(),
            stamp: (0, 0),
        };
        image.stamp = image.look()?;
        Ok(image)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the image stands in the log.
    #[must_use]
    pub fn timeline(&self) -> &Timeline<'l> {
        &self.timeline
    }

    /// Brings the image into `state`.
    ///
    /// # Errors
    ///
    /// A file fails, or the log has no such point.
    pub fn set(&mut self, state: &State) -> Result<(), ImageError> {
        self.go_to(state.position)?;
        self.patch(&state.choice)?;
        self.stamp = self.look()?;
        Ok(())
    }

    /// Goes to a point of the log.
    fn go_to(&mut self, position: usize) -> Result<(), ImageError> {
        let entries = self.log.entries().len();
        if position > entries {
            return Err(ImageError::NoSuchPoint { position, entries });
        }
        if position < self.timeline.point().position {
            self.timeline = Timeline::new(self.log, self.ignores_flushes);
            self.touched.extend(self.current.keys());
        }
        while self.timeline.point().position < position {
            match self.timeline.advance()? {
                Some(changed) => self.touched.extend(changed),
                None => break,
            }
        }
        Ok(())
    }

    fn patch(&mut self, choice: &Choice) -> Result<(), ImageError> {
        let Sectors { contents, torn } = choice.sectors(&self.timeline);
        let touched = std::mem::take(&mut self.touched);
        let sectors: BTreeSet<u64> = touched.into_iter().chain(contents.keys().copied()).collect();
        for sector in sectors {
            let durable = self.timeline.point().durable(sector);
            let wanted = contents.get(&sector).copied().unwrap_or(durable);
            let tear = torn.filter(|(torn, ..)| *torn == sector);
            let is_there = self.current.get(&sector).copied().unwrap_or(Some(Content::Base));
            if tear.is_some() || is_there != Some(wanted) {
                self.store(sector, wanted, tear.map(|(_, before, tear)| (before, tear)))?;
            }
            if tear.is_some() || wanted != durable {
                self.touched.insert(sector);
            }
        }
        Ok(())
    }

    fn store(
        &mut self,
        sector: u64,
        content: Content,
        tear: Option<(Content, Tear)>,
    ) -> Result<(), ImageError> {
        let mut bytes = self.read(sector, content)?;
        if let Some((before, tear)) = tear {
            let mut torn = self.read(sector, before)?;
            tear.apply(&mut torn, &bytes);
            bytes = torn;
        }
        let at = sector * bytes.len() as u64;
        self.file.write_all_at(&bytes, at).map_err(fails("write to", &self.path))?;
        self.current.insert(sector, if tear.is_some() { None } else { Some(content) });
        Ok(())
    }

    fn read(&self, sector: u64, content: Content) -> Result<Vec<u8>, ImageError> {
        let size = self.log.sector_size() as usize;
        let mut bytes = vec![0; size];
        match content {
            Content::Base => {
                let read = self.base.read_exact_at(&mut bytes, sector * size as u64);
                read.map_err(fails("read", &self.base_path))?;
            }
            Content::Written { entry, index } => {
                self.log.read_sector(&self.log.entries()[entry], index, &mut bytes)?;
            }
        }
        Ok(bytes)
    }

    fn look(&self) -> Result<(i64, i64), ImageError> {
        let metadata = self.file.metadata().map_err(fails("look at", &self.path))?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    }

    /// Notices a check that has written to the image.
    ///
    /// # Errors
    ///
    /// It has.
    pub fn check_unchanged(&self) -> Result<(), ImageError> {
        if self.look()? == self.stamp { Ok(()) } else { Err(ImageError::Changed) }
    }
}

/// Turns an error of the operating system into one that names the file.
fn fails(action: &'static str, path: &Path) -> impl Fn(io::Error) -> ImageError {
    move |source| ImageError::File { action, path: path.into(), source }
}
