//! The persistence model: what was stored and need not have reached the medium.

use std::collections::BTreeMap;
use std::thread::ThreadId;

use super::super::CACHE_LINE;

/// Bytes of a word, which never tears.
pub(in crate::pmem) const WORD: u64 = 8;

/// Where stores go once they are durable.
pub trait Durable {
    /// Replaces the bytes at `offset` with `bytes`.
    fn write(&mut self, offset: u64, bytes: &[u8]);

    /// Replaces `length` bytes at `offset` with zeroes.
    fn zero(&mut self, offset: u64, length: u64);
}

/// What was stored and need not have reached the medium.
///
/// It is told of every store, flush and fence, in their order, and moves what becomes durable to
/// where it is told.
#[derive(Debug, Clone, Default)]
pub struct Unfenced {
    /// Lines with ordinary stores, by number.
    pub(in crate::pmem) lines: BTreeMap<u64, Line>,
    /// Streaming stores, oldest first.
    pub(in crate::pmem) streams: Vec<Stream>,
    /// Number of stores so far: they are applied in their order where they overlap.
    stores: u64,
}

/// The ordinary stores to a cache line.
#[derive(Debug, Clone, Default)]
pub(in crate::pmem) struct Line {
    /// Oldest first.
    pub stores: Vec<Store>,
    /// How many of them each thread flushed.
    flushed: Vec<(ThreadId, usize)>,
}

/// An ordinary store: aligned, and of up to eight bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::pmem) struct Store {
    pub order: u64,
    pub offset: u64,
    bytes: [u8; WORD as usize],
    length: usize,
}

impl Store {
    pub(in crate::pmem) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A streaming store.
#[derive(Debug, Clone)]
pub(in crate::pmem) struct Stream {
    pub order: u64,
    /// Whose fence makes it durable; none for zeroing, which ends by itself.
    thread: Option<ThreadId>,
    pub offset: u64,
    pub bytes: Box<[u8]>,
}

impl Stream {
    /// Numbers of the cache lines that it touches.
    pub(in crate::pmem) fn lines(&self) -> std::ops::Range<u64> {
        self.offset / CACHE_LINE..(self.offset + self.bytes.len() as u64).div_ceil(CACHE_LINE)
    }
}

impl Unfenced {
    /// Returns whether everything is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.streams.is_empty()
    }

    /// Bytes that were stored to and are not durable.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let stores = self.lines.values().flat_map(|line| &line.stores);
        let ordinary: usize = stores.map(|store| store.length).sum();
        let streaming: usize = self.streams.iter().map(|stream| stream.bytes.len()).sum();
        (ordinary + streaming) as u64
    }

    /// Offsets of the streaming stores that are not durable.
    pub fn streamed(&self) -> impl Iterator<Item = u64> {
        self.streams.iter().map(|stream| stream.offset)
    }

    /// An ordinary store of up to eight bytes, aligned to their number.
    pub fn store(&mut self, offset: u64, from: &[u8]) {
        let order = self.next_order();
        let mut bytes = [0; WORD as usize];
        bytes[..from.len()].copy_from_slice(from);
        let line = self.lines.entry(offset / CACHE_LINE).or_default();
        line.stores.push(Store { order, offset, bytes, length: from.len() });
    }

    /// A streaming store by `thread`.
    pub fn stream(&mut self, thread: ThreadId, offset: u64, from: &[u8]) {
        self.push_stream(Some(thread), offset, from.into());
    }

    /// A flush by `thread` of the lines that hold `length` bytes at `offset`.
    pub fn flush(&mut self, thread: ThreadId, offset: u64, length: u64) {
        let lines = offset / CACHE_LINE..(offset + length).div_ceil(CACHE_LINE);
        for (_, line) in self.lines.range_mut(lines) {
            line.flushed.retain(|(flusher, _)| *flusher != thread);
            line.flushed.push((thread, line.stores.len()));
        }
    }

    /// A fence by `thread`: what it flushed and streamed is in `durable` from here on.
    pub fn fence(&mut self, thread: ThreadId, durable: &mut impl Durable) {
        let mut fenced: Vec<(u64, u64, Box<[u8]>)> = Vec::new();
        for line in self.lines.values_mut() {
            for store in line.fence(thread) {
                fenced.push((store.order, store.offset, store.bytes().into()));
            }
        }
        self.lines.retain(|_, line| !line.stores.is_empty());
        for stream in self.streams.extract_if(.., |stream| stream.thread == Some(thread)) {
            fenced.push((stream.order, stream.offset, stream.bytes));
        }
        fenced.sort_unstable_by_key(|(order, ..)| *order);
        for (order, offset, bytes) in fenced {
            durable.write(offset, &bytes);
            self.supersede(order, offset, bytes.len() as u64);
        }
    }

    /// Zeroing of `length` bytes at `offset` begins: any of their words may be zero already.
    pub fn begin_zeroing(&mut self, offset: u64, length: u64) {
        self.push_stream(None, offset, vec![0; length as usize].into());
    }

    /// Zeroing of `length` bytes at `offset` is done, and durable.
    pub fn end_zeroing(&mut self, offset: u64, length: u64, durable: &mut impl Durable) {
        let is_this = |stream: &Stream| {
            stream.thread.is_none()
                && (stream.offset, stream.bytes.len() as u64) == (offset, length)
        };
        // The latest: one before it may have been cut off, by a kill, and does not end any more.
        if let Some(position) = self.streams.iter().rposition(is_this) {
            let order = self.streams.remove(position).order;
            durable.zero(offset, length);
            self.supersede(order, offset, length);
        }
    }

    /// Everything stored so far becomes durable.
    pub fn sync(&mut self, durable: &mut impl Durable) {
        self.apply_all(durable);
        self.lines.clear();
        self.streams.clear();
    }

    /// Stores everything to `medium`: what a reader of the running system sees.
    pub fn apply_all(&self, medium: &mut impl Durable) {
        let mut all: Vec<(u64, u64, &[u8])> = Vec::new();
        for store in self.lines.values().flat_map(|line| &line.stores) {
            all.push((store.order, store.offset, store.bytes()));
        }
        all.extend(self.streams.iter().map(|stream| (stream.order, stream.offset, &*stream.bytes)));
        all.sort_unstable_by_key(|(order, ..)| *order);
        for (_, offset, bytes) in all {
            medium.write(offset, bytes);
        }
    }

    fn push_stream(&mut self, thread: Option<ThreadId>, offset: u64, bytes: Box<[u8]>) {
        let order = self.next_order();
        self.streams.push(Stream { order, thread, offset, bytes });
    }

    fn next_order(&mut self) -> u64 {
        self.stores += 1;
        self.stores
    }

    /// Takes stores to `length` bytes at `offset` that are older than `order`, which is durable, out
    /// of the running: the medium never goes back. Of streaming stores only those inside; this
    /// project never streams to bytes that two threads have pending.
    fn supersede(&mut self, order: u64, offset: u64, length: u64) {
        let end = offset + length;
        let lines = offset / CACHE_LINE..end.div_ceil(CACHE_LINE);
        for (_, line) in self.lines.range_mut(lines) {
            for store in &mut line.stores {
                let inside = offset <= store.offset && store.offset + store.length as u64 <= end;
                if inside && store.order < order {
                    store.length = 0;
                }
            }
        }
        self.streams.retain(|stream| {
            let inside =
                offset <= stream.offset && stream.offset + stream.bytes.len() as u64 <= end;
            !(inside && stream.order < order)
        });
    }
}

impl Line {
    /// Takes out the stores that `thread` flushed.
    fn fence(&mut self, thread: ThreadId) -> Vec<Store> {
        let position = self.flushed.iter().position(|(flusher, _)| *flusher == thread);
        let Some(position) = position else {
            return Vec::new();
        };
        let (_, count) = self.flushed.remove(position);
        for (_, others) in &mut self.flushed {
            *others = others.saturating_sub(count);
        }
        self.flushed.retain(|(_, count)| *count != 0);
        self.stores.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::contents::Contents;
    use super::*;

    fn word(contents: &Contents, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        contents.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn other_thread() -> ThreadId {
        thread::spawn(|| thread::current().id()).join().unwrap()
    }

    #[test]
    fn a_store_is_durable_after_flush_and_fence() {
        let (mut unfenced, mut durable) = (Unfenced::default(), Contents::zeroes(4096));
        let me = thread::current().id();
        unfenced.store(8, &[1; 8]);
        unfenced.fence(me, &mut durable);
        assert_eq!(word(&durable, 8), 0, "not flushed");
        unfenced.flush(me, 0, 64);
        unfenced.store(16, &[2; 8]);
        unfenced.fence(other_thread(), &mut durable);
        assert_eq!(word(&durable, 8), 0, "another thread's fence");
        unfenced.fence(me, &mut durable);
        assert_eq!(word(&durable, 8), u64::from_le_bytes([1; 8]));
        assert_eq!(word(&durable, 16), 0, "stored after the flush");
        assert_eq!(unfenced.bytes(), 8);
    }

    #[test]
    fn a_streaming_store_is_durable_after_the_fence_of_its_thread() {
        let (mut unfenced, mut durable) = (Unfenced::default(), Contents::zeroes(4096));
        let (me, other) = (thread::current().id(), other_thread());
        unfenced.stream(me, 0, &[1; 64]);
        unfenced.stream(other, 64, &[2; 64]);
        unfenced.fence(me, &mut durable);
        assert_eq!((word(&durable, 0), word(&durable, 64)), (u64::from_le_bytes([1; 8]), 0));
        unfenced.fence(other, &mut durable);
        assert!(unfenced.is_empty());
    }

    #[test]
    fn the_medium_never_goes_back_to_an_older_store() {
        let (mut unfenced, mut durable) = (Unfenced::default(), Contents::zeroes(4096));
        let (me, other) = (thread::current().id(), other_thread());
        unfenced.store(0, &[1; 8]);
        unfenced.flush(me, 0, 8);
        unfenced.stream(other, 0, &[2; 64]);
        unfenced.fence(other, &mut durable);
        unfenced.fence(me, &mut durable);
        assert_eq!(word(&durable, 0), u64::from_le_bytes([2; 8]));
    }

    #[test]
    fn zeroing_and_sync_are_durable_by_themselves() {
        let (mut unfenced, mut durable) = (Unfenced::default(), Contents::zeroes(4096));
        durable.write(0, &[7; 256]);
        unfenced.begin_zeroing(0, 64);
        unfenced.store(128, &[1]);
        assert_eq!(word(&durable, 0), u64::from_le_bytes([7; 8]));
        unfenced.end_zeroing(0, 64, &mut durable);
        assert_eq!(word(&durable, 0), 0);
        unfenced.sync(&mut durable);
        assert!(unfenced.is_empty());
        let mut byte = [0];
        durable.read(128, &mut byte);
        assert_eq!(byte, [1]);
    }
}
