//! One of the states that a power failure may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::super::log::Log;
use super::timeline::{Content, Pending, Timeline};
use crate::pmem::cache_model::Random;

/// A sector as a request has written it, or a whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Piece {
    /// All sectors of an entry.
    Request(usize),
    /// One sector of an entry.
    Sector(Pending),
}

/// How a sector is torn that was being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// So many bytes from the start are new.
    Prefix(u32),
    /// Of the words of eight bytes, those are new that the seed says.
    Words(u64),
}

/// What of the pending sectors is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// All but these.
    Drop(Vec<Piece>),
    /// None but these.
    Keep(Vec<Piece>),
    /// Each or not, as the seed says.
    Random(u64),
    /// All, and this sector is torn.
    Torn(Pending, Tear),
}

/// A state: a point of the log, and what of the pending sectors is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Number of entries before the failure.
    pub position: usize,
    /// What is there.
    pub choice: Choice,
}

/// A state that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a state: it is like 'p=311 drop=5120@309,5121@309', with keep=, random=SEED or torn=SECTOR@ENTRY:BYTES in place of drop="
)]
pub struct ChoiceError(String);

/// The sectors of a state that are not as durable, and the one that is torn.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sectors {
    /// By sector.
    pub contents: BTreeMap<u64, Content>,
    /// A sector, what it held before, and how it is torn.
    pub torn: Option<(u64, Content, Tear)>,
}

impl Choice {
    /// The sectors that are not as durable at the point where `timeline` stands.
    #[must_use]
    pub fn sectors(&self, timeline: &Timeline<'_>) -> Sectors {
        let versions = timeline.versions();
        if let Choice::Torn(piece, tear) = self {
            return torn(timeline, versions, *piece, *tear);
        }
        let mut contents = BTreeMap::new();
        let mut random =
            if let Choice::Random(seed) = self { Some(Random::new(*seed)) } else { None };
        let pieces: BTreeSet<Piece> = match self {
            Choice::Drop(pieces) | Choice::Keep(pieces) => pieces.iter().copied().collect(),
            Choice::Random(_) | Choice::Torn(..) => BTreeSet::new(),
        };
        let is_drop = matches!(self, Choice::Drop(_));
        for (&sector, versions) in versions {
            let newest = match &mut random {
                // Any of the versions, or none.
                Some(random) => match random.within(0..versions.len() as u64 + 1) {
                    0 => None,
                    version => Some(versions[version as usize - 1]),
                },
                None => versions.iter().copied().rfind(|content| {
                    let Content::Written { entry, .. } = *content else { return false };
                    let named = pieces.contains(&Piece::Request(entry))
                        || pieces.contains(&Piece::Sector(Pending { entry, sector }));
                    named != is_drop
                }),
            };
            if let Some(content) = newest {
                contents.insert(sector, content);
            }
        }
        Sectors { contents, torn: None }
    }
}

fn torn(
    timeline: &Timeline<'_>,
    versions: &BTreeMap<u64, Vec<Content>>,
    piece: Pending,
    tear: Tear,
) -> Sectors {
    let mut sectors = Sectors::default();
    for (sector, versions) in versions {
        let at = |content: &Content| matches!(content, Content::Written { entry, .. } if *entry == piece.entry);
        match versions.iter().position(at).filter(|_| *sector == piece.sector) {
            Some(index) => {
                let durable = timeline.point().durable(*sector);
                let before = index.checked_sub(1).map_or(durable, |before| versions[before]);
                sectors.torn = Some((*sector, before, tear));
                sectors.contents.insert(*sector, versions[index]);
            }
            None => {
                if let Some(newest) = versions.last() {
                    sectors.contents.insert(*sector, *newest);
                }
            }
        }
    }
    sectors
}

impl Tear {
    /// Makes of `old` what is there of `new`.
    pub fn apply(self, old: &mut [u8], new: &[u8]) {
        match self {
            Tear::Prefix(bytes) => {
                let length = (bytes as usize).min(new.len());
                old[..length].copy_from_slice(&new[..length]);
            }
            Tear::Words(seed) => {
                let mut random = Random::new(seed);
                for (old, new) in old.chunks_mut(8).zip(new.chunks(8)) {
                    if random.one_in(2) {
                        old.copy_from_slice(new);
                    }
                }
            }
        }
    }
}

impl Piece {
    /// The sectors of the piece.
    #[must_use]
    pub fn sectors(self, log: &Log) -> Vec<Pending> {
        match self {
            Piece::Sector(sector) => vec![sector],
            Piece::Request(entry) => {
                let Some(request) = log.entries().get(entry) else { return Vec::new() };
                let sectors = request.sector..request.sector + request.sectors;
                sectors.map(|sector| Pending { entry, sector }).collect()
            }
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Piece::Request(entry) => write!(f, "@{entry}"),
            Piece::Sector(Pending { entry, sector }) => write!(f, "{sector}@{entry}"),
        }
    }
}

impl FromStr for Piece {
    type Err = ();

    fn from_str(text: &str) -> Result<Piece, ()> {
        let (sector, entry) = text.split_once('@').ok_or(())?;
        let entry = entry.parse().map_err(|_| ())?;
        if sector.is_empty() {
            return Ok(Piece::Request(entry));
        }
        Ok(Piece::Sector(Pending { entry, sector: sector.parse().map_err(|_| ())? }))
    }
}

fn list(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p={}", self.position)?;
        match &self.choice {
            Choice::Drop(pieces) if pieces.is_empty() => Ok(()),
            Choice::Drop(pieces) => write!(f, " drop={}", list(pieces)),
            Choice::Keep(pieces) => write!(f, " keep={}", list(pieces)),
            Choice::Random(seed) => write!(f, " random={seed}"),
            Choice::Torn(Pending { entry, sector }, Tear::Prefix(bytes)) => {
                write!(f, " torn={sector}@{entry}:{bytes}")
            }
            Choice::Torn(Pending { entry, sector }, Tear::Words(seed)) => {
                write!(f, " torn={sector}@{entry}:words-{seed}")
            }
        }
    }
}

impl FromStr for State {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<State, ChoiceError> {
        parse(text).ok_or_else(|| ChoiceError(text.into()))
    }
}

fn parse(text: &str) -> Option<State> {
    let mut words = text.split_whitespace();
    let position = words.next()?.strip_prefix("p=")?.parse().ok()?;
    let Some(choice) = words.next() else {
        return Some(State { position, choice: Choice::Drop(Vec::new()) });
    };
    let pieces = |list: &str| -> Option<Vec<Piece>> {
        list.split(',').filter(|piece| !piece.is_empty()).map(|piece| piece.parse().ok()).collect()
    };
    let choice = match choice.split_once('=')? {
        ("drop", list) => Choice::Drop(pieces(list)?),
        ("keep", list) => Choice::Keep(pieces(list)?),
        ("random", seed) => Choice::Random(seed.parse().ok()?),
        ("torn", torn) => {
            let (piece, tear) = torn.split_once(':')?;
            let Ok(Piece::Sector(piece)) = piece.parse() else { return None };
            let tear = match tear.strip_prefix("words-") {
                Some(seed) => Tear::Words(seed.parse().ok()?),
                None => Tear::Prefix(tear.parse().ok()?),
            };
            Choice::Torn(piece, tear)
        }
        _ => return None,
    };
    words.next().is_none().then_some(State { position, choice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_is_written() {
        for text in [
            "p=311",
            "p=311 drop=5120@309,@310",
            "p=0 keep=",
            "p=4 keep=7@3",
            "p=9 random=17",
            "p=9 torn=8@7:128",
            "p=9 torn=8@7:words-3",
        ] {
            assert_eq!(text.parse::<State>().unwrap().to_string(), text);
        }
        for bad in ["", "311", "p=x", "p=1 drop", "p=1 drop=5", "p=1 torn=@3:8", "p=1 keep=1@1 x"] {
            assert!(bad.parse::<State>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_torn_sector_has_something_of_both() {
        let mut sector = [1; 512];
        Tear::Prefix(8).apply(&mut sector, &[2; 512]);
        assert!(sector[..8] == [2; 8] && sector[8..] == [1; 504]);
        let mut sector = [1; 512];
        Tear::Words(5).apply(&mut sector, &[2; 512]);
        let words: Vec<&[u8; 8]> = sector.as_chunks().0.iter().collect();
        assert!(words.contains(&&[1; 8]) && words.contains(&&[2; 8]));
    }
}
