//! A ledger of what self-describing sectors may say.

use std::fmt;

use super::sectors::{Found, ZEROES, read};

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
    /// What would have been the version of the last write of zeroes to each.
    zeroed: Vec<u64>,
    clock: u64,
    next_version: u64,
}

/// What a sector might hold when a read of it was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    sector: u64,
    allowed: Vec<u64>,
    /// Versions from here on were submitted later.
    since: u64,
}

impl Ledger {
    /// A ledger of `count` sectors of zeroes from `first` on.
    pub fn new(first: u64, count: usize) -> Ledger {
        let zeroes = Write { version: ZEROES, submitted: 0, acknowledged: Some(0) };
        let sectors = vec![vec![zeroes]; count];
        Ledger { first, sectors, zeroed: vec![0; count], clock: 0, next_version: 1 }
    }

    /// Lets versions begin with `version`.
    pub fn begin_with(&mut self, version: u64) {
        self.next_version = version;
    }

    pub fn count(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// Returns whether a write of `sector` is in flight.
    pub fn is_in_flight(&self, sector: u64) -> bool {
        self.sectors[(sector - self.first) as usize].iter().any(|w| w.acknowledged.is_none())
    }

    /// A write of `sector` is submitted: of a new version, or of zeroes.
    pub fn submit(&mut self, sector: u64, zeroes: bool) -> Ticket {
        let submitted = self.tick();
        let mut version = self.next_version;
        self.next_version += 1;
        if zeroes {
            self.zeroed[(sector - self.first) as usize] = version;
            version = ZEROES;
        }
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

    /// What `sector` may hold now.
    pub fn before_read(&self, sector: u64) -> Before {
        let writes = &self.sectors[(sector - self.first) as usize];
        let allowed = writes.iter().map(|write| write.version).collect();
        Before { sector, allowed, since: self.next_version }
    }

    /// Checks what was read while writes were in flight: what the sector might hold before, or what
    /// was submitted since.
    pub fn check_read(&self, before: &Before, data: &[u8]) -> Result<(), Violation> {
        let Before { sector, ref allowed, since } = *before;
        let is_allowed = |version: u64| {
            let zeroed = self.zeroed[(sector - self.first) as usize];
            allowed.contains(&version)
                || (since..self.next_version).contains(&version)
                || version == ZEROES && zeroed >= since
        };
        match read(sector, data) {
            Found::Torn => Err(Violation::Torn { sector, in_flight: self.is_in_flight(sector) }),
            Found::Whole { sector: of, .. } if of != sector => {
                Err(Violation::Foreign { sector, of })
            }
            Found::Whole { version, .. } if !is_allowed(version) => {
                Err(Violation::Lost { sector, found: version, allowed: allowed.clone() })
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

    /// Takes `sector` for what it holds, whatever that is.
    pub fn adopt(&mut self, sector: u64, data: &[u8]) {
        let now = self.tick();
        let writes = self.writes(sector);
        writes.clear();
        if let Found::Whole { version, .. } = read(sector, data) {
            writes.push(Write { version, submitted: now, acknowledged: Some(now) });
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
