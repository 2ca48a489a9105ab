//! The tree of decisions: which version of each sector a run of the check gets.

use std::collections::{BTreeMap, HashSet};

use super::super::states::Content;

/// The undecided sectors of a moment, and what each may hold, the newest first.
pub(super) type Undecided = BTreeMap<u64, Vec<Content>>;

/// A depth-first search of all states of a moment.
#[derive(Debug)]
pub struct Search {
    /// The decisions of the next run that are given; later ones take the newest version.
    path: Vec<Decision>,
    is_finished: bool,
    covered: f64,
    runs: u64,
}

#[derive(Debug, Clone, Copy)]
struct Decision {
    sector: u64,
    versions: usize,
    /// Number of the version that the run gets.
    taken: usize,
}

/// What a run has decided: all states that have these sectors are the same to the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The sectors that were read, and the number of the version that each had.
    pub sectors: Vec<(u64, usize)>,
}

/// A run has not read what an earlier one with the same disk has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the check is not deterministic: sector {sector} was read before, and is not now")]
pub struct NotDeterministic {
    /// A sector that was not read.
    pub sector: u64,
}

impl Search {
    /// Has tried nothing.
    #[must_use]
    pub fn new() -> Search {
        Search { path: Vec::new(), is_finished: false, covered: 0.0, runs: 0 }
    }

    /// The versions that the next run has to have, by sector; `None`: all are covered.
    #[must_use]
    pub fn next(&self) -> Option<BTreeMap<u64, usize>> {
        let decisions = self.path.iter().map(|decision| (decision.sector, decision.taken));
        (!self.is_finished).then(|| decisions.collect())
    }

    /// Takes note of the undecided sectors that the run has read, in order, and goes on to the next.
    ///
    /// # Errors
    ///
    /// The run has not read all that was decided: the tree says nothing about this check.
    pub fn learn(&mut self, read: &[u64], undecided: &Undecided) -> Result<Leaf, NotDeterministic> {
        let given: HashSet<u64> = self.path.iter().map(|decision| decision.sector).collect();
        let seen: HashSet<u64> = read.iter().copied().collect();
        if let Some(missing) = self.path.iter().find(|decision| !seen.contains(&decision.sector)) {
            return Err(NotDeterministic { sector: missing.sector });
        }
        for &sector in read.iter().filter(|sector| !given.contains(sector)) {
            let versions = undecided.get(&sector).map_or(1, Vec::len);
            self.path.push(Decision { sector, versions, taken: 0 });
        }
        self.runs += 1;
        self.covered +=
            self.path.iter().map(|it| 1.0 / f64::from(it.versions as u32)).product::<f64>();
        let leaf = self.path.iter().map(|decision| (decision.sector, decision.taken)).collect();
        self.backtrack();
        Ok(Leaf { sectors: leaf })
    }

    fn backtrack(&mut self) {
        while let Some(last) = self.path.last_mut() {
            last.taken += 1;
            if last.taken < last.versions {
                return;
            }
            self.path.pop();
        }
        self.is_finished = true;
    }

    /// Returns whether all states are covered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// The part of all states that is covered, from 0 to 1.
    #[must_use]
    pub fn covered(&self) -> f64 {
        self.covered
    }

    /// Number of runs.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }
}

impl Default for Search {
    fn default() -> Search {
        Search::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmem::cache_model::Random;

    /// A check that reads sectors in an order which depends on what it has read: a random decision tree over
    /// `sectors`, whose leaves fail now and then.
    struct Tree {
        seed: u64,
        sectors: u64,
    }

    impl Tree {
        /// Runs on a disk that says the version of a sector. Returns whether it fails, and what it has read.
        fn run(&self, mut disk: impl FnMut(u64) -> usize) -> (bool, Vec<u64>) {
            let (mut state, mut read) = (self.seed, Vec::new());
            loop {
                let mut random = Random::new(state);
                if random.one_in(4) {
                    return (random.one_in(5), read);
                }
                let sector = random.within(0..self.sectors);
                if !read.contains(&sector) {
                    read.push(sector);
                }
                let version = disk(sector) as u64;
                state = random.any() ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
        }
    }

    fn undecided(counts: &[usize]) -> Undecided {
        let versions = |count: &usize| {
            (0..*count).map(|entry| Content::Written { entry, index: 0 }).collect::<Vec<_>>()
        };
        (0..).zip(counts.iter().map(versions)).collect()
    }

    /// All states, as the version of each sector.
    fn all_states(counts: &[usize]) -> Vec<Vec<usize>> {
        counts.iter().fold(vec![Vec::new()], |states, count| {
            let more = |state: &Vec<usize>| {
                (0..*count).map(|version| [&state[..], &[version]].concat()).collect::<Vec<_>>()
            };
            states.iter().flat_map(more).collect()
        })
    }

    #[test]
    fn a_finished_search_fails_on_the_same_states_as_trying_all_of_them() {
        let counts = [2, 3, 2, 4, 2, 2];
        let undecided = undecided(&counts);
        let states = all_states(&counts);
        let (mut failing, mut fewer) = (0, 0);
        for seed in 0..300 {
            let tree = Tree { seed, sectors: counts.len() as u64 };
            let fails = |state: &Vec<usize>| tree.run(|sector| state[sector as usize]).0;
            let expected: Vec<&Vec<usize>> = states.iter().filter(|state| fails(state)).collect();

            let (mut search, mut leaves) = (Search::new(), Vec::new());
            while let Some(fixed) = search.next() {
                let disk = |sector| fixed.get(&sector).copied().unwrap_or(0);
                let (failed, read) = tree.run(disk);
                let leaf = search.learn(&read, &undecided).unwrap();
                leaves.push((leaf, failed));
            }
            let covers = |leaf: &Leaf, state: &Vec<usize>| {
                leaf.sectors.iter().all(|(sector, version)| state[*sector as usize] == *version)
            };
            for state in &states {
                let of: Vec<_> = leaves.iter().filter(|(leaf, _)| covers(leaf, state)).collect();
                assert_eq!(of.len(), 1, "seed {seed}: {state:?} is in one leaf");
                assert_eq!(of[0].1, expected.contains(&state), "seed {seed}: {state:?}");
            }
            assert!((search.covered() - 1.0).abs() < 1e-9, "{}", search.covered());
            assert_eq!(search.runs(), leaves.len() as u64);
            failing += usize::from(!expected.is_empty());
            fewer += usize::from(leaves.len() < states.len());
        }
        assert!(failing > 20, "{failing} of 300 trees fail somewhere");
        assert!(fewer > 200, "{fewer} of 300 searches took fewer runs than there are states");
    }

    #[test]
    fn a_check_that_reads_something_else_the_second_time_is_noticed() {
        let undecided = undecided(&[2, 2]);
        let mut search = Search::new();
        search.learn(&[0, 1], &undecided).unwrap();
        assert_eq!(search.learn(&[1], &undecided), Err(NotDeterministic { sector: 0 }));
    }
}
