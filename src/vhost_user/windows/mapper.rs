//! The mappings of a frontend, and the thread that asks it to map and unmap.
//!
//! The thread exists for one connection. It waits for answers in place of the session: while QEMU
//! handles a request to map, it sends a message to the device and first waits for the answer to that. A
//! frontend that does not answer in time is not asked again.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use log::{debug, info, warn};

use super::super::protocol::back_channel::{BackChannel, BackChannelError, SharedRange};
use super::mapped::Mapped;
use super::window::{Piece, Window};
use crate::error_chain::in_one_line;
use crate::pmem::Protection;
use crate::sandbox::{ThreadKind, enter_thread};

/// Flag of a request to map: for writing as well.
const WRITABLE: u64 = 1;

/// What is to be done.
pub(super) enum Order {
    /// The device has started: map all windows, whatever was mapped before.
    MapAll,
    /// Map what is not mapped yet.
    MapMore,
    /// Unmap what window `window` has mapped behind `size`; answers whether that was done.
    Unmap { window: usize, size: u64, answer: SyncSender<bool> },
    /// Tell the frontend that the configuration space has changed.
    ConfigChanged,
    /// Ask the frontend by another channel from now on. What is mapped stays so.
    GoOnAt(BackChannel),
}

/// Why a frontend did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the device is stopped, so the frontend cannot be asked")]
    Stopped,
    #[error(transparent)]
    Channel(#[from] BackChannelError),
}

/// What one frontend has mapped.
pub(super) struct Mapper {
    log_name: Arc<str>,
    windows: Arc<[Window]>,
    /// A bit for each ring that runs.
    running: Arc<AtomicU64>,
    /// True if the frontend has mapped everything.
    is_mapped: Arc<Mapped>,
    channel: BackChannel,
    /// Of each window, in the order of offsets and without gaps.
    mapped: Vec<Vec<Piece>>,
}

impl Mapper {
    pub(super) fn new(
        log_name: Arc<str>,
        windows: Arc<[Window]>,
        (running, is_mapped): (Arc<AtomicU64>, Arc<Mapped>),
        channel: BackChannel,
    ) -> Mapper {
        let mapped = vec![Vec::new(); windows.len()];
        Mapper { log_name, windows, running, is_mapped, channel, mapped }
    }

    /// Carries out commands until their sender is dropped.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        enter_thread(ThreadKind::Windows);
        for order in orders {
            match order {
                Order::MapAll => {
                    let is_complete = self.map_all();
                    self.is_mapped.end(is_complete);
                }
                Order::MapMore => {
                    for window in 0..self.windows.len() {
                        if !self.map_more(window) {
                            self.is_mapped.lacks();
                        }
                    }
                }
                Order::ConfigChanged => {
                    if let Err(error) = self.channel.config_changed() {
                        let error = in_one_line(&error);
                        warn!("{}: the frontend is not told of a new size: {error}", self.log_name);
                    }
                }
                Order::GoOnAt(channel) => self.channel = channel,
                Order::Unmap { window, size, answer } => {
                    let done = self.unmap(window, size);
                    // The caller may have stopped waiting.
                    let _ = answer.send(done);
                }
            }
        }
    }

    /// Maps all windows. Returns whether the frontend has mapped everything.
    fn map_all(&mut self) -> bool {
        let mut is_complete = true;
        for window in 0..self.windows.len() {
            is_complete &= self.map_window(window);
        }
        is_complete
    }

    /// Maps a window, whatever of it was mapped before. Returns whether the frontend has mapped all of it.
    fn map_window(&mut self, window: usize) -> bool {
        let before = std::mem::take(&mut self.mapped[window]);
        let Some(first) = self.windows[window].pieces().first().copied() else { return true };
        match self.send_map(window, first) {
            Ok(()) => self.mapped[window].push(first),
            // A frontend that stopped the device and did not reset it has kept its mappings.
            Err(Refusal::Channel(BackChannelError::Refused)) if !before.is_empty() => {
                debug!("{}: window {window} is mapped from before", self.log_name);
                self.mapped[window] = before;
            }
            Err(refusal) => return self.not_mapped(window, first, &refusal),
        }
        let is_complete = self.map_more(window);
        let (mapped, name) = (self.end(window), self.windows[window].name());
        info!("{}: window {window}, {name:?}: {mapped} bytes are mapped", self.log_name);
        is_complete
    }

    /// Maps what comes after the end of what is mapped, up to the first refusal. Returns whether there was
    /// none.
    fn map_more(&mut self, window: usize) -> bool {
        let end = self.end(window);
        let pieces = self.windows[window].pieces();
        for piece in pieces.into_iter().filter_map(|piece| piece.behind(end)) {
            match self.send_map(window, piece) {
                Ok(()) => self.mapped[window].push(piece),
                Err(refusal) => return self.not_mapped(window, piece, &refusal),
            }
        }
        true
    }

    /// Byte offset of the end of what is mapped of a window.
    fn end(&self, window: usize) -> u64 {
        self.mapped[window].last().map_or(0, Piece::end)
    }

    /// Unmaps what lies behind `size`. Returns whether nothing does any more.
    ///
    /// A stopped device may have its mappings still, if its machine only pauses: then they cannot be taken
    /// away.
    fn unmap(&mut self, window: usize, size: u64) -> bool {
        while let Some(last) = self.mapped[window].last().copied().filter(|last| last.end() > size)
        {
            if let Err(refusal) = self.send_unmap(window, last) {
                self.complain(window, last, &refusal);
                return false;
            }
            self.mapped[window].pop();
        }
        // QEMU unmaps whole what was mapped whole: what is to stay of the last piece is mapped again.
        self.map_more(window);
        true
    }

    fn send_map(&mut self, window: usize, piece: Piece) -> Result<(), Refusal> {
        self.must_run()?;
        let shared_file = self.windows[window].shared_file();
        let flags = match shared_file.protection() {
            Protection::ReadOnly => 0,
            Protection::ReadWrite => WRITABLE,
        };
        shared_file.note_mapped(piece.file_offset, piece.length);
        Ok(self.channel.map(&range(window, piece, flags), shared_file.as_fd())?)
    }

    /// Complains, unless it is done when the device starts again.
    fn not_mapped(&self, window: usize, piece: Piece, refusal: &Refusal) -> bool {
        if !matches!(refusal, Refusal::Stopped) {
            self.complain(window, piece, refusal);
        }
        false
    }

    fn send_unmap(&mut self, window: usize, piece: Piece) -> Result<(), Refusal> {
        self.must_run()?;
        let range = range(window, piece, 0);
        self.channel.unmap(&range)?;
        // QEMU answers first and unmaps then, but does one thing after the other: when it has answered
        // again, that there is nothing to unmap, it has unmapped.
        match self.channel.unmap(&range) {
            Ok(()) | Err(BackChannelError::Refused) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// Of a device that does not run, QEMU must not be asked anything.
    fn must_run(&self) -> Result<(), Refusal> {
        if self.running.load(Ordering::Acquire) == 0 { Err(Refusal::Stopped) } else { Ok(()) }
    }

    fn complain(&self, window: usize, piece: Piece, refusal: &Refusal) {
        let (log_name, name) = (&self.log_name, self.windows[window].name());
        let Piece { offset, length, .. } = piece;
        let refusal = in_one_line(refusal);
        warn!(
            "{log_name}: window {window}, {name:?}: {refusal}, at {length} bytes at offset {offset:#x}; the \
             guest has the window up to the last piece that was mapped, and all else as it was"
        );
    }
}

fn range(window: usize, piece: Piece, flags: u64) -> SharedRange {
    SharedRange {
        // There are 256 at most.
        shmid: window as u8,
        padding: [0; 7],
        file_offset: piece.file_offset,
        offset: piece.offset,
        length: piece.length,
        flags,
    }
}
