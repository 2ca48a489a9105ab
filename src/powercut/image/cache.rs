//! What was written to an image and need not be in it yet.
//!
//! The image has what is durable; the rest stays in memory, each write by itself, so that a sector that was written
//! twice has two versions. A flush makes durable what had completed before it was submitted. When the power fails,
//! each sector gets one of its versions, or stays as it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::process::exit;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log::warn;

use super::super::log::{Change, Content, LogWriter, Note};
use super::failure::{Choice, Failure, Moment};

/// Exit status after a power failure.
const POWER_HAS_FAILED: i32 = 3;

/// Bytes of writes that are kept; beyond, the oldest reach the image, as in every disk whose cache is full.
const MOST_PENDING: u64 = 256 << 20;

/// Why an image cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The image, or the log, cannot be used.
    #[error("cannot {action}")]
    File {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The image is not whole sectors.
    #[error("the image has {size} bytes, which are not whole sectors of {sector_size}, or none")]
    Size {
        /// Bytes of the image.
        size: u64,
        /// Bytes of a sector.
        sector_size: u32,
    },
}

/// How an image is served.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Bytes of a sector, which is written whole or not at all.
    pub sector_size: u32,
    /// Writes are durable when they complete.
    pub is_write_through: bool,
    /// When the power fails.
    pub failure: Failure,
}

/// A write that is not durable.
#[derive(Debug)]
struct Write {
    sector: u64,
    data: Data,
    note: Note,
    is_complete: bool,
    /// It is in the log already, before a mark.
    is_recorded: bool,
}

#[derive(Debug)]
enum Data {
    Bytes(Vec<u8>),
    /// So many sectors, without data.
    Discarded(u64),
}

/// Number of a write, in the order of submission.
pub(super) type WriteNumber = u64;

/// An image and its write cache.
#[derive(Debug)]
pub struct Cache {
    image: File,
    sectors: u64,
    options: CacheOptions,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    writes: BTreeMap<WriteNumber, Write>,
    /// Of each sector, who has written it, oldest first.
    versions: BTreeMap<u64, Vec<WriteNumber>>,
    /// Bytes of all writes.
    pending: u64,
    next: WriteNumber,
    completed: u64,
    flushes: u64,
    log: Option<LogWriter>,
    was_full: bool,
}

impl Cache {
    /// The write cache of `image`, which records to `log` if there is one.
    ///
    /// # Errors
    ///
    /// The image is not whole sectors.
    pub fn new(
        image: File,
        options: CacheOptions,
        log: Option<LogWriter>,
    ) -> Result<Cache, CacheError> {
        let metadata = image.metadata();
        let size = metadata
            .map_err(|source| CacheError::File { action: "look at the image", source })?
            .len();
        let sector_size = options.sector_size;
        if size == 0 || !size.is_multiple_of(sector_size.into()) {
            return Err(CacheError::Size { size, sector_size });
        }
        let state = State {
            writes: BTreeMap::new(),
            versions: BTreeMap::new(),
            pending: 0,
            next: 0,
            completed: 0,
            flushes: 0,
            log,
            was_full: false,
        };
        let sectors = size / u64::from(sector_size);
        Ok(Cache { image, sectors, options, begun: Instant::now(), state: Mutex::new(state) })
    }

    /// Number of sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// How it is served.
    #[must_use]
    pub fn options(&self) -> &CacheOptions {
        &self.options
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads whole sectors as the guest has left them.
    ///
    /// # Errors
    ///
    /// The image cannot be read.
    pub fn read(&self, first: u64, into: &mut [u8]) -> io::Result<()> {
        let size = self.options.sector_size as usize;
        let state = self.state();
        self.image.read_exact_at(into, first * size as u64)?;
        let end = first + (into.len() / size) as u64;
        for (sector, versions) in state.versions.range(first..end) {
            let newest = versions.last().and_then(|number| state.writes.get(number));
            if let Some(write) = newest {
                let at = (sector - first) as usize * size;
                write.copy_sector(*sector, &mut into[at..at + size]);
            }
        }
        Ok(())
    }

    /// A request writes whole sectors; it is complete with [`complete`](Self::complete). `last`: the write of the
    /// same request that came before, which this one may continue.
    pub fn write(
        &self,
        sector: u64,
        data: Vec<u8>,
        queue: u32,
        last: Option<WriteNumber>,
    ) -> WriteNumber {
        let mut state = self.state();
        let size = u64::from(self.options.sector_size);
        state.pending += data.len() as u64;
        let sectors = sector..sector + data.len() as u64 / size;
        let number = match last.and_then(|last| Some((last, state.writes.get_mut(&last)?))) {
            Some((last, Write { sector: first, data: Data::Bytes(bytes), .. }))
                if *first + bytes.len() as u64 / size == sector =>
            {
                bytes.extend(data);
                last
            }
            _ => self.add(&mut state, sector, Data::Bytes(data), queue),
        };
        for sector in sectors {
            state.versions.entry(sector).or_default().push(number);
        }
        self.fail_if_due(&mut state);
        number
    }

    /// A request discards sectors: they read as zeroes.
    pub fn discard(&self, sector: u64, sectors: u64, queue: u32) -> WriteNumber {
        let mut state = self.state();
        let number = self.add(&mut state, sector, Data::Discarded(sectors), queue);
        for sector in sector..sector + sectors {
            state.versions.entry(sector).or_default().push(number);
        }
        self.fail_if_due(&mut state);
        number
    }

    fn add(&self, state: &mut State, sector: u64, data: Data, queue: u32) -> WriteNumber {
        let number = state.next;
        state.next += 1;
        let note = self.note(number, queue);
        state
            .writes
            .insert(number, Write { sector, data, note, is_complete: false, is_recorded: false });
        number
    }

    fn note(&self, submitted: u64, queue: u32) -> Note {
        let microseconds = self.begun.elapsed().as_micros() as u64;
        Note { submitted, microseconds, queue, in_flight: false }
    }

    /// The guest is about to be told that these writes are done. Without a write cache they are durable then.
    ///
    /// # Errors
    ///
    /// The image or the log cannot be written, and the writes are not durable.
    pub fn complete(&self, numbers: &[WriteNumber]) -> io::Result<()> {
        let mut state = self.state();
        for number in numbers {
            if let Some(write) = state.writes.get_mut(number) {
                write.is_complete = true;
            }
        }
        state.completed += numbers.len() as u64;
        if self.options.is_write_through && !self.options.failure.loses_flushes {
            return self.make_durable(&mut state, numbers, super::super::log::flag::FUA, None);
        }
        self.make_room(&mut state)
    }

    /// Lets the oldest writes reach the image when there are too many.
    fn make_room(&self, state: &mut State) -> io::Result<()> {
        while state.pending > MOST_PENDING {
            let mut complete = state.writes.iter().filter(|(_, write)| write.is_complete);
            let Some(oldest) = complete.next().map(|(number, _)| *number) else { break };
            if !std::mem::replace(&mut state.was_full, true) {
                warn!(
                    "{MOST_PENDING} bytes are written and not flushed: the oldest become durable"
                );
            }
            self.make_durable(state, &[oldest], 0, None)?;
        }
        Ok(())
    }

    /// Makes durable what has completed.
    ///
    /// # Errors
    ///
    /// The image or the log cannot be written. What was not made durable is pending as before.
    pub fn flush(&self, queue: u32) -> io::Result<()> {
        let mut state = self.state();
        if self.options.failure.moment == Moment::AfterFlushes(state.flushes) {
            self.fail_in(&mut state);
        }
        let complete = state.writes.iter().filter(|(_, write)| write.is_complete);
        let mut complete: Vec<WriteNumber> = complete.map(|(number, _)| *number).collect();
        if self.options.failure.loses_flushes {
            complete.clear();
        }
        let note = self.note(state.next, queue);
        state.next += 1;
        self.make_durable(&mut state, &complete, 0, Some(note))?;
        state.flushes += 1;
        Ok(())
    }

    /// Writes become durable, and are recorded, and after them the flush that has made them so.
    fn make_durable(
        &self,
        state: &mut State,
        numbers: &[WriteNumber],
        flags: u64,
        flush: Option<Note>,
    ) -> io::Result<()> {
        self.record(state, numbers, flags, flush)
            .inspect_err(|_| state.log.iter_mut().for_each(LogWriter::abandon))?;
        for number in numbers {
            if let Some(write) = state.writes.remove(number) {
                state.forget(*number, &write, self.options.sector_size);
            }
        }
        Ok(())
    }

    /// Brings writes into the image and the log, where all of them count at once.
    fn record(
        &self,
        state: &mut State,
        numbers: &[WriteNumber],
        flags: u64,
        flush: Option<Note>,
    ) -> io::Result<()> {
        let State { writes, log, .. } = state;
        let chosen = || numbers.iter().filter_map(|number| writes.get(number));
        if let Some(log) = log {
            log.changes(chosen().filter_map(|write| write.entry(flags)))?;
        }
        chosen().try_for_each(|write| write.store(&self.image, self.options.sector_size))?;
        let Some(log) = log else { return Ok(()) };
        flush.map_or(Ok(()), |note| log.flush(note))?;
        log.commit()
    }

    /// Sets a mark, behind all writes that have completed.
    ///
    /// # Errors
    ///
    /// The log cannot be written.
    pub fn mark(&self, text: &str) -> io::Result<()> {
        let mut state = self.state();
        record_mark(&mut state, text)
            .inspect_err(|_| state.log.iter_mut().for_each(LogWriter::abandon))?;
        if matches!(&self.options.failure.moment, Moment::AtMark(at) if at == text) {
            self.fail_in(&mut state);
        }
        Ok(())
    }

    /// Everything becomes durable, in an orderly end.
    ///
    /// # Errors
    ///
    /// The image or the log cannot be written.
    pub fn close(&self) -> io::Result<()> {
        let mut state = self.state();
        let numbers: Vec<WriteNumber> = state.writes.keys().copied().collect();
        for write in state.writes.values_mut() {
            write.note.in_flight = !write.is_complete;
        }
        self.make_durable(&mut state, &numbers, 0, None)?;
        self.image.sync_data()
    }

    fn fail_if_due(&self, state: &mut State) {
        if let Moment::AfterWrites(writes) = self.options.failure.moment
            && state.completed >= writes
        {
            self.fail_in(state);
        }
    }

    /// Lets the power fail now.
    pub fn fail(&self) -> ! {
        self.fail_in(&mut self.state())
    }

    /// Lets reach the image what the seed says. Other writers wait for good.
    fn fail_in(&self, state: &mut State) -> ! {
        let (pending, kept) = self.leave(state);
        let State { completed, flushes, .. } = *state;
        let seed = self.options.failure.seed;
        // Not by way of the logger, which may be off, and may be locked by a thread that waits for this one.
        let _ = writeln!(
            io::stderr(),
            "powercut: power failure: after-writes={completed},seed={seed}: {flushes} flushes had taken \
             effect, {pending} sectors were pending, {kept} of them are kept"
        );
        if let Some(again) = again(state, seed) {
            let _ = writeln!(io::stderr(), "powercut: the states of this moment: {again}");
        }
        exit(POWER_HAS_FAILED)
    }

    /// Gives each pending sector one of its versions, or leaves it. Returns how many there were, and how many of
    /// them have a new version.
    fn leave(&self, state: &mut State) -> (usize, usize) {
        let size = self.options.sector_size;
        let mut choice = Choice::new(&self.options.failure, state.writes.keys().copied());
        let mut kept = 0;
        for (sector, versions) in &state.versions {
            let chosen = choice.of(versions);
            let Some(write) = chosen.and_then(|number| state.writes.get(&number)) else { continue };
            let mut bytes = vec![0; size as usize];
            write.copy_sector(*sector, &mut bytes);
            // An image that does not answer keeps nothing, power or no power.
            if self.image.write_all_at(&bytes, sector * u64::from(size)).is_ok() {
                kept += 1;
            }
        }
        if let Some(log) = &mut state.log {
            for write in state.writes.values_mut() {
                write.note.in_flight = !write.is_complete;
            }
            let _ = log.changes(state.writes.values().filter_map(|write| write.entry(0)));
            let _ = log.commit();
        }
        (state.versions.len(), kept)
    }
}

/// Records a mark, and before it the writes that have completed. These are not durable: a flush that makes them so comes
/// later in the log.
fn record_mark(state: &mut State, text: &str) -> io::Result<()> {
    let State { writes, log: Some(log), .. } = state else { return Ok(()) };
    let is_new = |write: &&mut Write| write.is_complete && !write.is_recorded;
    let new: Vec<&mut Write> = writes.values_mut().filter(is_new).collect();
    log.changes(new.iter().filter_map(|write| write.entry(0)))?;
    log.mark(text)?;
    log.commit()?;
    for write in new {
        write.is_recorded = true;
    }
    Ok(())
}

/// How the states of the moment of a failure can be had again.
fn again(state: &State, seed: u64) -> Option<String> {
    state.log.as_ref()?;
    Some(format!("powercut states LOG --base BASE.raw --model random:{seed}"))
}

impl State {
    /// Takes a write that is durable out of the versions.
    fn forget(&mut self, number: WriteNumber, write: &Write, sector_size: u32) {
        let count = write.sectors(sector_size);
        if let Data::Bytes(bytes) = &write.data {
            self.pending -= bytes.len() as u64;
        }
        for sector in write.sector..write.sector + count {
            if let Some(versions) = self.versions.get_mut(&sector) {
                versions.retain(|version| *version != number);
                if versions.is_empty() {
                    self.versions.remove(&sector);
                }
            }
        }
    }
}

impl Write {
    fn sectors(&self, sector_size: u32) -> u64 {
        match &self.data {
            Data::Bytes(bytes) => bytes.len() as u64 / u64::from(sector_size),
            Data::Discarded(sectors) => *sectors,
        }
    }

    fn copy_sector(&self, sector: u64, into: &mut [u8]) {
        match &self.data {
            Data::Bytes(bytes) => {
                let at = (sector - self.sector) as usize * into.len();
                into.copy_from_slice(&bytes[at..at + into.len()]);
            }
            Data::Discarded(_) => into.fill(0),
        }
    }

    fn store(&self, image: &File, sector_size: u32) -> io::Result<()> {
        let at = self.sector * u64::from(sector_size);
        match &self.data {
            Data::Bytes(bytes) => image.write_all_at(bytes, at),
            Data::Discarded(sectors) => {
                let zeroes = vec![0; sector_size as usize];
                let places = (at..).step_by(sector_size as usize).take(*sectors as usize);
                places.into_iter().try_for_each(|at| image.write_all_at(&zeroes, at))
            }
        }
    }

    /// What of it is recorded; `None`: it is in the log already.
    fn entry(&self, flags: u64) -> Option<Change<'_>> {
        let content = match &self.data {
            Data::Bytes(bytes) => Content::Bytes(bytes),
            Data::Discarded(sectors) => Content::Discarded(*sectors),
        };
        let Write { sector, note, .. } = *self;
        (!self.is_recorded).then_some(Change { sector, content, flags, note })
    }
}
