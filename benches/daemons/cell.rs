//! What is measured: the cells of the matrix.

use std::fmt;

use serde::Serialize;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    RandRead,
    RandWrite,
    /// Half reads, half writes.
    Mixed,
    SeqRead,
    SeqWrite,
}

/// Disks that are alike: one of each daemon serves all cells of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Bytes of a sector.
    pub sector_size: u32,
    pub queues: usize,
}

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    pub operation: Operation,
    /// Bytes of a request.
    pub length: usize,
    pub sector_size: u32,
    /// Requests in flight per queue.
    pub depth: usize,
    pub queues: usize,
    /// Whether the client polls for completions, or sleeps until it is interrupted.
    pub polling: bool,
}

/// Bytes of a sequential request, the longest there is.
pub const LONGEST: usize = 128 << 10;
/// The largest depth that is measured.
pub const MOST_DEPTH: usize = 128;

impl Group {
    pub const ALL: [Group; 4] = [
        Group { sector_size: 4096, queues: 1 },
        Group { sector_size: 512, queues: 1 },
        Group { sector_size: 4096, queues: 2 },
        Group { sector_size: 512, queues: 2 },
    ];
}

impl Cell {
    /// The whole matrix.
    pub fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for Group { sector_size, queues } in Group::ALL {
            for (operation, length) in loads(sector_size) {
                for depth in [1, 8, 32, MOST_DEPTH] {
                    for polling in [true, false] {
                        cells.push(Cell { operation, length, sector_size, depth, queues, polling });
                    }
                }
            }
        }
        cells
    }

    pub fn group(&self) -> Group {
        Group { sector_size: self.sector_size, queues: self.queues }
    }

    pub fn is_sequential(&self) -> bool {
        matches!(self.operation, Operation::SeqRead | Operation::SeqWrite)
    }
}

/// Operations on disks of a sector size, and the length of their requests.
fn loads(sector_size: u32) -> Vec<(Operation, usize)> {
    use Operation::{Mixed, RandRead, RandWrite, SeqRead, SeqWrite};
    let random = [RandRead, RandWrite, Mixed].map(|operation| (operation, sector_size as usize));
    let sequential = [SeqRead, SeqWrite].map(|operation| (operation, LONGEST));
    random.into_iter().chain(sequential).collect()
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::RandRead => "randread",
            Operation::RandWrite => "randwrite",
            Operation::Mixed => "mixed",
            Operation::SeqRead => "seqread",
            Operation::SeqWrite => "seqwrite",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { operation, length, sector_size, depth, queues, polling } = self;
        write!(f, "{} {length}", operation.name())?;
        if *length != *sector_size as usize {
            write!(f, " on {sector_size}")?;
        }
        let client = if *polling { "polling" } else { "sleeping" };
        let plural = if *queues == 1 { "" } else { "s" };
        write!(f, ", depth {depth}, {queues} queue{plural}, {client}")
    }
}
