//! What each sector may read as, at every moment and after every power failure.
//!
//! The writes and reads of a sector have to be in an order that respects which of them had ended before
//! which began, and in which each read returns what the last write before it has left. What remains after
//! a power failure is the end of such an order: it has all writes that were acknowledged, all reads that
//! were completed, and of those in flight any. So what a completed read has shown stays, unless the sector
//! is written again, whether the write that it has shown was acknowledged or not.

use std::collections::HashSet;

use super::value::Value;

/// What an operation does to a sector.
#[derive(Debug, Clone)]
pub enum Effect {
    Set(Value),
    Replace(usize, Vec<u8>),
    /// It returns this, and changes nothing.
    Show(Value),
}

/// A write or a read, with the positions in the trace of its begin and of its end, when its caller was told.
#[derive(Debug, Clone)]
pub struct Operation {
    pub begin: usize,
    pub end: Option<usize>,
    pub effect: Effect,
}

impl Operation {
    /// Returns whether it may change the sector.
    pub fn is_write(&self) -> bool {
        !matches!(self.effect, Effect::Show(_))
    }

    fn has_ended(&self, before: usize) -> bool {
        self.end.is_some_and(|end| end < before)
    }
}

/// All that happens to a sector.
#[derive(Debug, Clone)]
pub struct History {
    pub sector: u64,
    pub initial: Value,
    pub operations: Vec<Operation>,
}

/// Most operations at a time: one bit for each.
const MOST_OPERATIONS: usize = u128::BITS as usize;

impl History {
    /// What the sector may hold once the first `position` events of the trace have happened. Nothing, if
    /// what reads returned by then cannot be.
    pub fn after(&self, position: usize) -> Vec<Value> {
        let begun = self.operations.iter().filter(|operation| operation.begin < position);
        search(begun.collect(), position, &self.initial)
    }

    /// What a read may return that begins after `begin` events and ends after `end`, whatever other reads
    /// return.
    pub fn between(&self, begin: usize, end: usize) -> Vec<Value> {
        let writes = self.operations.iter().filter(|operation| operation.is_write());
        search(writes.filter(|write| write.begin < end).collect(), begin, &self.initial)
    }

    /// Returns whether the first `end` events have begun a write of the sector which the first `begin` of
    /// them have not ended.
    pub fn is_written_between(&self, begin: usize, end: usize) -> bool {
        let mut writes = self.operations.iter().filter(|operation| operation.is_write());
        writes.any(|write| write.begin < end && !write.has_ended(begin))
    }
}

/// The values that a sector may have after some of `operations`, among them those that have ended before
/// `must_end`.
fn search(operations: Vec<&Operation>, must_end: usize, initial: &Value) -> Vec<Value> {
    assert!(operations.len() <= MOST_OPERATIONS, "too many operations on a sector");
    let mut search = Search { operations, must_end, seen: HashSet::new(), found: Vec::new() };
    search.from(0, initial);
    search.found
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    /// Operations that ended before this have to be in.
    must_end: usize,
    seen: HashSet<(u128, u64)>,
    found: Vec<Value>,
}

impl Search<'_> {
    /// Goes on from the operations in the set `done`, after which the sector holds `value`.
    fn from(&mut self, done: u128, value: &Value) {
        if !self.seen.insert((done, value.identity())) {
            return;
        }
        let is_done = |index: usize| done & 1 << index != 0;
        let is_missing = |before: usize| {
            let mut operations = self.operations.iter().enumerate();
            operations.any(|(index, operation)| operation.has_ended(before) && !is_done(index))
        };
        if !is_missing(self.must_end) && !self.found.contains(value) {
            self.found.push(value.clone());
        }
        let next: Vec<usize> = (0..self.operations.len())
            .filter(|index| !is_done(*index) && !is_missing(self.operations[*index].begin))
            .collect();
        for index in next {
            let after = match &self.operations[index].effect {
                Effect::Set(value) => value.clone(),
                Effect::Replace(offset, bytes) => value.replaced(*offset, bytes),
                Effect::Show(shown) if shown == value => value.clone(),
                Effect::Show(_) => continue,
            };
            self.from(done | 1 << index, &after);
        }
    }
}

/// An oracle that allows everything would prove nothing: what this one says of two writes at a time, a
/// third one in flight, and of reads that have shown some of it.
pub fn check_itself() {
    let value = |version| match version {
        0 => Value::zeroes(512),
        version => Value::stamp(1, version, 512),
    };
    let write = |begin, end, version| Operation { begin, end, effect: Effect::Set(value(version)) };
    let read = |begin, end, version| Operation {
        begin,
        end: Some(end),
        effect: Effect::Show(value(version)),
    };
    let history = |operations: &[Operation]| History {
        sector: 1,
        initial: value(0),
        operations: operations.to_vec(),
    };
    let versions = |versions: &[u64]| -> HashSet<u64> {
        versions.iter().map(|version| value(*version).identity()).collect()
    };
    let found = |values: Vec<Value>| values.iter().map(Value::identity).collect::<HashSet<u64>>();
    let writes = [write(0, Some(4), 1), write(2, Some(6), 2), write(8, None, 3)];
    let written = history(&writes);
    assert_eq!(found(written.after(0)), versions(&[0]));
    assert_eq!(found(written.after(1)), versions(&[0, 1]));
    assert_eq!(found(written.after(3)), versions(&[0, 1, 2]));
    // The second may have been first.
    assert_eq!(found(written.after(5)), versions(&[1, 2]));
    assert_eq!(found(written.after(7)), versions(&[1, 2]));
    assert_eq!(found(written.after(9)), versions(&[1, 2, 3]));
    assert_eq!(found(written.between(1, 5)), versions(&[0, 1, 2]));
    assert!(written.is_written_between(6, 7) && !written.is_written_between(7, 8));
    assert!(written.is_written_between(7, 9), "the third has begun");

    let shown = |reads: &[Operation]| history(&[&writes[..], reads].concat());
    assert_eq!(found(shown(&[read(7, 7, 1)]).after(8)), versions(&[1]), "so it was the last");
    let third = shown(&[read(10, 11, 3)]);
    assert_eq!(found(third.after(11)), versions(&[1, 2, 3]), "nobody has been told");
    assert_eq!(found(third.after(12)), versions(&[3]));
    let back = shown(&[read(10, 11, 3), read(12, 13, 2)]);
    assert_eq!(found(back.after(14)), versions(&[]), "it was shown, and is gone");
}
