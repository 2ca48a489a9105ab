//! Sectors that say what they are, and a ledger of what they may say.

use std::fmt;

use vhost_user_btt::pmem::simulated::Random;

/// Bytes of a description: magic, sector, version, checksum. One stands at either end of a sector,
/// and what is between them follows from it.
const DESCRIPTION: usize = 32;
const MAGIC: [u8; 8] = *b"sector :";

/// The version of a sector of zeroes.
pub const ZEROES: u64 = 0;

/// What a sector turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// One version of one sector, from end to end; [`ZEROES`] of any sector.
    Whole {
        sector: u64,
        version: u64,
    },
    Torn,
}

/// Fills a sector with its description.
pub fn describe(sector: u64, version: u64, into: &mut [u8]) {
    if version == ZEROES {
        return into.fill(0);
    }
    let mut random = Random::new(sector.rotate_left(32) ^ version);
    for word in into.chunks_mut(8) {
        word.copy_from_slice(&random.any().to_le_bytes()[..word.len()]);
    }
    let mut head = [MAGIC, sector.to_le_bytes(), version.to_le_bytes(), [0; 8]].concat();
    let body = DESCRIPTION..into.len() - DESCRIPTION;
    let check = checksum(&[&head, &into[body]]);
    head[24..].copy_from_slice(&check.to_le_bytes());
    into[..DESCRIPTION].copy_from_slice(&head);
    into.last_chunk_mut::<DESCRIPTION>().unwrap().copy_from_slice(&head);
}

/// Reads a sector's description, or that of a sector that expects to be `sector`, if it is zeroes.
pub fn read(sector: u64, data: &[u8]) -> Found {
    if data.iter().all(|byte| *byte == 0) {
        return Found::Whole { sector, version: ZEROES };
    }
    let word = |index: usize| u64::from_le_bytes(data[index * 8..][..8].try_into().unwrap());
    let (head, body) = data.split_at(DESCRIPTION);
    let (body, tail) = body.split_at(body.len() - DESCRIPTION);
    let check = checksum(&[&head[..24], &[0; 8], body]);
    if head == tail && head[..8] == MAGIC && word(3) == check {
        Found::Whole { sector: word(1), version: word(2) }
    } else {
        Found::Torn
    }
}

/// FNV-1a in words of eight bytes.
fn checksum(parts: &[&[u8]]) -> u64 {
    parts.iter().flat_map(|part| part.chunks(8)).fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    })
}

/// What a sector holds, and may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Parts of several versions.
    Torn { sector: u64, in_flight: bool },
    /// The contents of another sector.
    Foreign { sector: u64, of: u64 },
    /// A version that was overwritten before the last write that was acknowledged began, or that
    /// nobody wrote.
    Lost { sector: u64, found: u64, allowed: Vec<u64> },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Torn { sector, in_flight } => {
                let state = if *in_flight { "in flight" } else { "not being written" };
                write!(f, "sector {sector} is torn, {state}")
            }
            Violation::Foreign { sector, of } => {
                write!(f, "sector {sector} holds the contents of sector {of}")
            }
            Violation::Lost { sector, found, allowed } => {
                write!(f, "sector {sector} is of version {found}, and not of {allowed:?}")
            }
        }
    }
}

/// A write that a sector may hold.
#[derive(Debug, Clone, Copy)]
struct Write {
    version: u64,
    /// When it was submitted, which names it.
    submitted: u64,
    acknowledged: Option<u64>,
}

/// A write in flight.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    pub sector: u64,
    pub version: u64,
    submitted: u64,
}

/// What the sectors from `first` on may hold.
///
/// A write may be what a sector holds unless another one that was submitted after it was
/// acknowledged has been acknowledged itself: of writes in flight together, any may be the last.
#[derive(Debug)]
pub struct Ledger {
    pub first: u64,
    sectors: Vec<Vec<Write>>,
    clock: u64,
    next_version: u64,
}

impl Ledger {
    /// A ledger of `count` sectors of zeroes from `first` on.
    pub fn new(first: u64, count: usize) -> Ledger {
        let zeroes = Write { version: ZEROES, submitted: 0, acknowledged: Some(0) };
        Ledger { first, sectors: vec![vec![zeroes]; count], clock: 0, next_version: 1 }
    }

    /// Lets versions begin with `version`.
    pub fn begin_with(&mut self, version: u64) {
        self.next_version = version;
    }

    pub fn count(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// Whether a write of `sector` is in flight.
    pub fn is_in_flight(&self, sector: u64) -> bool {
        self.sectors[(sector - self.first) as usize].iter().any(|w| w.acknowledged.is_none())
    }

    /// A write of `sector` is submitted: of a new version, or of zeroes.
    pub fn submit(&mut self, sector: u64, zeroes: bool) -> Ticket {
        let submitted = self.tick();
        let version = if zeroes { ZEROES } else { self.next_version };
        self.next_version += 1;
        self.writes(sector).push(Write { version, submitted, acknowledged: None });
        Ticket { sector, version, submitted }
    }

    /// A write is acknowledged.
    pub fn acknowledge(&mut self, ticket: Ticket) {
        let now = self.tick();
        let writes = self.writes(ticket.sector);
        for write in writes.iter_mut().filter(|write| write.submitted == ticket.submitted) {
            write.acknowledged = Some(now);
        }
        writes.retain(|write| write.acknowledged.is_none_or(|at| at >= ticket.submitted));
    }

    /// Checks what is read from `sector` while writes are in flight: it is of some version that was
    /// submitted.
    pub fn check_running(&self, sector: u64, data: &[u8]) -> Result<(), Violation> {
        match read(sector, data) {
            Found::Torn => Err(Violation::Torn { sector, in_flight: self.is_in_flight(sector) }),
            Found::Whole { sector: of, .. } if of != sector => {
                Err(Violation::Foreign { sector, of })
            }
            Found::Whole { version, .. } if version >= self.next_version => {
                Err(Violation::Lost { sector, found: version, allowed: Vec::new() })
            }
            Found::Whole { .. } => Ok(()),
        }
    }

    /// Checks what `sector` holds once nothing is in flight any more, and takes it for what it holds
    /// from now on. A sector that is torn is not seen again until it is written.
    pub fn check_settled(&mut self, sector: u64, data: &[u8]) -> Result<(), Violation> {
        let now = self.tick();
        let in_flight = self.is_in_flight(sector);
        let writes = self.writes(sector);
        let allowed: Vec<u64> = writes.iter().map(|write| write.version).collect();
        if allowed.is_empty() {
            return Ok(());
        }
        writes.clear();
        match read(sector, data) {
            Found::Torn => Err(Violation::Torn { sector, in_flight }),
            Found::Whole { sector: of, .. } if of != sector => {
                Err(Violation::Foreign { sector, of })
            }
            Found::Whole { version, .. } if !allowed.contains(&version) => {
                Err(Violation::Lost { sector, found: version, allowed })
            }
            Found::Whole { version, .. } => {
                writes.push(Write { version, submitted: now, acknowledged: Some(now) });
                Ok(())
            }
        }
    }

    fn writes(&mut self, sector: u64) -> &mut Vec<Write> {
        &mut self.sectors[(sector - self.first) as usize]
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}
