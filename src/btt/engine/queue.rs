//! Queues: the way to read and write sectors.

use std::cell::Cell;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::batch::Batch;
use super::btt::Btt;
use super::round::{Round, Tag};
use crate::btt::format::error::Error;
use crate::pmem::PersistentMemory;

/// A queue: its place in the read tracking table is its own, its lanes too unless there are more
/// queues than lanes. So are its cache lines, which change with every sector.
#[derive(Debug)]
#[repr(align(128))]
pub struct Queue<M> {
    btt: Arc<Btt<M>>,
    number: usize,
    round: Round,
    failures: Vec<(Tag, Error)>,
    /// A sector that is being modified in part.
    scratch: Box<[u8]>,
}

impl<M: PersistentMemory> Queue<M> {
    pub(super) fn new(btt: Arc<Btt<M>>, number: usize) -> Queue<M> {
        let scratch = vec![0; btt.sector_size() as usize].into_boxed_slice();
        Queue { btt, number, round: Round::new(), failures: Vec::new(), scratch }
    }

    /// The BTT that the queue belongs to.
    #[must_use]
    pub fn btt(&self) -> &Arc<Btt<M>> {
        &self.btt
    }

    /// Begins a batch of reads and writes. Waits while another queue that shares its lanes has one.
    pub fn batch(&mut self) -> Batch<'_, M> {
        self.failures.clear();
        Batch {
            lanes: self.btt.lanes(self.number),
            btt: &self.btt,
            queue: self.number,
            guards: ArrayVec::new(),
            round: &mut self.round,
            failures: &mut self.failures,
            scratch: &mut self.scratch,
            extent: 0..0,
            shows_zeroes: Cell::new(false),
        }
    }
}
