//! What a frontend has mapped, and the thread that asks it to map more or less.
//!
//! The thread is there for one connection. It waits for answers, and nobody waits for it for ever: while
//! QEMU handles a request to map, it sends a message of its own to the device and waits for that one's
//! answer first. A frontend that never answers costs a sleeping thread until its socket closes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use log::{debug, info, warn};
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags};
use vhost::vhost_user::{Backend as Frontend, Error as ProtocolError, VhostUserFrontendReqHandler};

use super::window::{Piece, Window};
use crate::pmem::Protection;

/// What is to be done.
pub(super) enum Order {
    /// The device has started: map all windows, whatever was mapped before.
    MapAll,
    /// Map what is not mapped yet.
    MapMore,
    /// Unmap what window `window` has mapped behind `size`; answers whether that was done.
    Unmap { window: usize, size: u64, answer: SyncSender<bool> },
}

/// Why a frontend did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the frontend refuses")]
    Refused,
    #[error("the device is stopped, so the frontend cannot be asked")]
    Stopped,
    #[error("the frontend does not answer: {0}")]
    Gone(io::Error),
}

/// What one frontend has mapped.
pub(super) struct Mapper {
    title: Arc<str>,
    windows: Arc<[Window]>,
    /// A bit for each ring that runs.
    running: Arc<AtomicU64>,
    /// To be set when the frontend does not map something.
    refused: Arc<AtomicBool>,
    frontend: Frontend,
    /// Of each window, in the order of offsets and without gaps.
    mapped: Vec<Vec<Piece>>,
}

impl Mapper {
    pub(super) fn new(
        title: Arc<str>,
        windows: Arc<[Window]>,
        (running, refused): (Arc<AtomicU64>, Arc<AtomicBool>),
        frontend: Frontend,
    ) -> Mapper {
        let mapped = vec![Vec::new(); windows.len()];
        Mapper { title, windows, running, refused, frontend, mapped }
    }

    /// Does what it is told, until there is nobody to tell it.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        for order in orders {
            match order {
                Order::MapAll => self.map_all(),
                Order::MapMore => (0..self.windows.len()).for_each(|window| self.map_more(window)),
                Order::Unmap { window, size, answer } => {
                    let done = self.unmap(window, size);
                    // Whoever asked may have given up.
                    let _ = answer.send(done);
                }
            }
        }
    }

    fn map_all(&mut self) {
        self.refused.store(false, Ordering::Release);
        for window in 0..self.windows.len() {
            let before = std::mem::take(&mut self.mapped[window]);
            let Some(first) = self.windows[window].pieces().first().copied() else { continue };
            match self.send_map(window, first) {
                Ok(()) => self.mapped[window].push(first),
                // A frontend that stopped the device and did not reset it has kept its mappings.
                Err(Refusal::Refused) if !before.is_empty() => {
                    debug!("{}: window {window} is mapped from before", self.title);
                    self.mapped[window] = before;
                }
                // It is done when the device starts again.
                Err(Refusal::Stopped) => return,
                Err(refusal) => {
                    self.not_mapped(window, first, &refusal);
                    continue;
                }
            }
            self.map_more(window);
            let (mapped, name) = (self.end(window), self.windows[window].name());
            if mapped > 0 {
                info!("{}: window {window}, {name:?}: {mapped} bytes are mapped", self.title);
            }
        }
    }

    /// Maps what comes behind the end of what is mapped, up to the first refusal.
    fn map_more(&mut self, window: usize) {
        let end = self.end(window);
        let pieces = self.windows[window].pieces();
        for piece in pieces.into_iter().filter_map(|piece| piece.behind(end)) {
            match self.send_map(window, piece) {
                Ok(()) => self.mapped[window].push(piece),
                // As above.
                Err(Refusal::Stopped) => return,
                Err(refusal) => return self.not_mapped(window, piece, &refusal),
            }
        }
    }

    /// Byte offset of the end of what is mapped of a window.
    fn end(&self, window: usize) -> u64 {
        self.mapped[window].last().map_or(0, Piece::end)
    }

    /// Unmaps what lies behind `size`. Whether nothing does any more.
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

    fn send_map(&self, window: usize, piece: Piece) -> Result<(), Refusal> {
        self.must_run()?;
        let lent = self.windows[window].lent();
        let flags = match lent.protection() {
            Protection::ReadOnly => VhostUserMMapFlags::empty(),
            Protection::ReadWrite => VhostUserMMapFlags::WRITABLE,
        };
        #[cfg(feature = "power-fail")]
        if lent.protection() == Protection::ReadWrite {
            lent.lend(piece.file_offset, piece.length);
        }
        let request = request(window, piece, flags);
        judge(self.frontend.shmem_map(&request, lent))
    }

    /// Complains, and has flushes fail: a part of the window is not there.
    fn not_mapped(&self, window: usize, piece: Piece, refusal: &Refusal) {
        self.refused.store(true, Ordering::Release);
        self.complain(window, piece, refusal);
    }

    fn send_unmap(&self, window: usize, piece: Piece) -> Result<(), Refusal> {
        self.must_run()?;
        let request = request(window, piece, VhostUserMMapFlags::empty());
        judge(self.frontend.shmem_unmap(&request))?;
        // QEMU answers first and unmaps then, but does one thing after the other: when it has answered
        // again, that there is nothing to unmap, it has unmapped.
        match judge(self.frontend.shmem_unmap(&request)) {
            Ok(()) | Err(Refusal::Refused) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Of a device that does not run, QEMU must not be asked anything.
    fn must_run(&self) -> Result<(), Refusal> {
        if self.running.load(Ordering::Acquire) == 0 { Err(Refusal::Stopped) } else { Ok(()) }
    }

    fn complain(&self, window: usize, piece: Piece, refusal: &Refusal) {
        let (title, name) = (&self.title, self.windows[window].name());
        let Piece { offset, length, .. } = piece;
        warn!(
            "{title}: window {window}, {name:?}: {refusal}, at {length} bytes at offset {offset:#x}; the \
             guest has the window up to the last piece that was mapped, and all else as it was"
        );
    }
}

fn judge(answer: io::Result<u64>) -> Result<(), Refusal> {
    let Err(error) = answer else { return Ok(()) };
    let protocol = error.get_ref().and_then(|error| error.downcast_ref::<ProtocolError>());
    if matches!(protocol, Some(ProtocolError::FrontendInternalError)) {
        Err(Refusal::Refused)
    } else {
        Err(Refusal::Gone(error))
    }
}

fn request(window: usize, piece: Piece, flags: VhostUserMMapFlags) -> VhostUserMMap {
    VhostUserMMap {
        // There are 256 at most.
        shmid: window as u8,
        padding: [0; 7],
        fd_offset: piece.file_offset,
        shm_offset: piece.offset,
        len: piece.length,
        flags: flags.bits(),
    }
}
