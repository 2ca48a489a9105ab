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
    /// True if the client polls for completions, or sleeps until it is interrupted.
    pub polling: bool,
    /// True if all of the disk was written at random before, instead of from end to end. What is read or written
    /// at random is always so.
    pub is_aged: bool,
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
            for (operation, length, is_aged) in loads(sector_size) {
                for depth in [1, 8, 32, MOST_DEPTH] {
                    for polling in [true, false] {
                        cells.push(Cell {
                            operation,
                            length,
                            sector_size,
                            depth,
                            queues,
                            polling,
                            is_aged,
                        });
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

/// Operations on disks of a sector size, the length of their requests, and whether the disk is aged. What needs a
/// fresh disk comes first.
fn loads(sector_size: u32) -> Vec<(Operation, usize, bool)> {
    use Operation::{Mixed, RandRead, RandWrite, SeqRead, SeqWrite};
    let sequential = |is_aged| [SeqRead, SeqWrite].map(|operation| (operation, LONGEST, is_aged));
    let single = sector_size as usize;
    let random = [RandRead, RandWrite, Mixed].map(|operation| (operation, single, true));
    let mut loads = [&sequential(false)[..], &random, &sequential(true)].concat();
    if sector_size == 4096 {
        let lengths = [16 << 10, 64 << 10];
        loads.extend(
            lengths.map(|length| [(RandRead, length, true), (RandWrite, length, true)]).concat(),
        );
    }
    loads
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
        let Cell { operation, length, sector_size, depth, queues, polling, is_aged } = self;
        write!(f, "{} {length}", operation.name())?;
        if *length != *sector_size as usize {
            write!(f, " on {sector_size}")?;
        }
        if self.is_sequential() {
            f.write_str(if *is_aged { ", aged" } else { ", fresh" })?;
        }
        let client = if *polling { "polling" } else { "sleeping" };
        let plural = if *queues == 1 { "" } else { "s" };
        write!(f, ", depth {depth}, {queues} queue{plural}, {client}")
    }
}
