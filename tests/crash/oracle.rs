//! What each sector may read as, whenever the power fails or somebody reads.

use std::collections::HashSet;

use super::value::Value;

/// What a write does to a sector.
#[derive(Debug, Clone)]
pub enum Effect {
    Set(Value),
    Replace(usize, Vec<u8>),
}

/// A write, with the positions in the trace of its begin and its acknowledgement.
#[derive(Debug, Clone)]
pub struct Write {
    pub begin: usize,
    pub end: Option<usize>,
    pub effect: Effect,
}

/// All that happens to a sector.
#[derive(Debug, Clone)]
pub struct History {
    pub sector: u64,
    pub initial: Value,
    pub writes: Vec<Write>,
}

impl History {
    /// What the sector may hold once the first `position` events of the trace have happened: writes
    /// that were acknowledged have had their effect, those in flight may have had it, in any order that
    /// respects who was acknowledged before the other began.
    pub fn after(&self, position: usize) -> Vec<Value> {
        self.between(position, position)
    }

    /// What a read may see that begins after `begin` events and ends after `end`.
    pub fn between(&self, begin: usize, end: usize) -> Vec<Value> {
        let candidates: Vec<&Write> =
            self.writes.iter().filter(|write| write.begin < end).collect();
        let mut search =
            Search { writes: &candidates, begin, seen: HashSet::new(), found: Vec::new() };
        search.from(0, &self.initial);
        search.found
    }
}

struct Search<'a> {
    writes: &'a [&'a Write],
    /// Writes that ended before this have to be in.
    begin: usize,
    seen: HashSet<(u128, u64)>,
    found: Vec<Value>,
}

impl Search<'_> {
    /// Goes on from the writes in the set `done`, after which the sector holds `value`.
    fn from(&mut self, done: u128, value: &Value) {
        if !self.seen.insert((done, value.identity())) {
            return;
        }
        let is_done = |index: usize| done & 1 << index != 0;
        let ended = |write: &Write, before: usize| write.end.is_some_and(|end| end < before);
        let missing = |before: usize| {
            let mut writes = self.writes.iter().enumerate();
            writes.any(|(index, write)| ended(write, before) && !is_done(index))
        };
        if !missing(self.begin) && !self.found.contains(value) {
            self.found.push(value.clone());
        }
        let next: Vec<usize> = (0..self.writes.len())
            .filter(|index| !is_done(*index) && !missing(self.writes[*index].begin))
            .collect();
        for index in next {
            let after = match &self.writes[index].effect {
                Effect::Set(value) => value.clone(),
                Effect::Replace(offset, bytes) => value.replaced(*offset, bytes),
            };
            self.from(done | 1 << index, &after);
        }
    }
}

/// An oracle that allows everything would prove nothing: what this one says of two writes at a time
/// and a third one in flight.
pub fn check_itself() {
    let write = |begin, end, version| Write {
        begin,
        end,
        effect: Effect::Set(Value::stamp(1, version, 512)),
    };
    let initial = Value::zeroes(512);
    let writes = vec![write(0, Some(4), 1), write(2, Some(6), 2), write(8, None, 3)];
    let history = History { sector: 1, initial: initial.clone(), writes };
    let versions = |versions: &[u64]| -> HashSet<u64> {
        versions
            .iter()
            .map(|version| match version {
                0 => initial.identity(),
                version => Value::stamp(1, *version, 512).identity(),
            })
            .collect()
    };
    let found = |values: Vec<Value>| values.iter().map(Value::identity).collect::<HashSet<u64>>();
    assert_eq!(found(history.after(0)), versions(&[0]));
    assert_eq!(found(history.after(1)), versions(&[0, 1]));
    assert_eq!(found(history.after(3)), versions(&[0, 1, 2]));
    // The second may have been first.
    assert_eq!(found(history.after(5)), versions(&[1, 2]));
    assert_eq!(found(history.after(7)), versions(&[1, 2]));
    assert_eq!(found(history.after(9)), versions(&[1, 2, 3]));
    assert_eq!(found(history.between(1, 5)), versions(&[0, 1, 2]));
}
