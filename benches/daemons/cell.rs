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

/// In which order the sectors of a disk lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As they were written from end to end.
    Fresh,
    /// As many were written at random since as there are.
    Aged,
    /// They were put in order again (`nvdimmctl defragment`), where there is something to put in order.
    Defragmented,
}

/// What the files of the disks are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// Memory: what is measured is the daemons.
    Memory,
    /// A file system on a disk: every write is durable when it completes.
    Disk,
}

/// Disks that are alike: one of each daemon serves all cells of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub medium: Medium,
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
    /// What is read or written at random is always aged.
    pub order: Order,
    pub medium: Medium,
}

/// Bytes of a sequential request, the longest there is.
pub const LONGEST: usize = 128 << 10;
/// The largest depth that is measured.
pub const MOST_DEPTH: usize = 128;

impl Group {
    pub const ALL: [Group; 6] = [
        Group { medium: Medium::Memory, sector_size: 4096, queues: 1 },
        Group { medium: Medium::Memory, sector_size: 512, queues: 1 },
        Group { medium: Medium::Memory, sector_size: 4096, queues: 2 },
        Group { medium: Medium::Memory, sector_size: 512, queues: 2 },
        Group { medium: Medium::Disk, sector_size: 4096, queues: 1 },
        Group { medium: Medium::Disk, sector_size: 4096, queues: 4 },
    ];
}

impl Cell {
    /// The whole matrix.
    pub fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for group in Group::ALL {
            for (operation, length, order) in loads(group) {
                for (depth, polling) in clients(group) {
                    let Group { medium, sector_size, queues } = group;
                    cells.push(Cell {
                        operation,
                        length,
                        sector_size,
                        depth,
                        queues,
                        polling,
                        order,
                        medium,
                    });
                }
            }
        }
        cells
    }

    pub fn group(&self) -> Group {
        Group { medium: self.medium, sector_size: self.sector_size, queues: self.queues }
    }

    pub fn is_sequential(&self) -> bool {
        matches!(self.operation, Operation::SeqRead | Operation::SeqWrite)
    }
}

/// Depths, and whether the client polls. With a disk there is nothing to poll for.
fn clients(group: Group) -> Vec<(usize, bool)> {
    match group.medium {
        Medium::Memory => {
            [1, 8, 32, MOST_DEPTH].map(|depth| [(depth, true), (depth, false)]).concat()
        }
        Medium::Disk => vec![(1, false), (32, false)],
    }
}

/// Operations on the disks of a group, the length of their requests, and the order of the disk: in the order in
/// which a disk comes to it.
fn loads(group: Group) -> Vec<(Operation, usize, Order)> {
    use Operation::{Mixed, RandRead, RandWrite, SeqRead, SeqWrite};
    let single = group.sector_size as usize;
    if group.medium == Medium::Disk {
        return vec![(RandWrite, single, Order::Fresh)];
    }
    let sequential = |order| [SeqRead, SeqWrite].map(|operation| (operation, LONGEST, order));
    let random = [RandRead, RandWrite, Mixed].map(|operation| (operation, single, Order::Aged));
    let mut loads = [&sequential(Order::Fresh)[..], &random, &sequential(Order::Aged)].concat();
    if group.sector_size == 4096 {
        for length in [16 << 10, 64 << 10] {
            loads.extend([RandRead, RandWrite].map(|it| (it, length, Order::Aged)));
        }
    }
    loads.extend(sequential(Order::Defragmented));
    loads
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::Fresh => "fresh",
            Order::Aged => "aged",
            Order::Defragmented => "defragmented",
        })
    }
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
        let Cell { operation, length, sector_size, depth, queues, polling, order, medium } = self;
        write!(f, "{} {length}", operation.name())?;
        if *length != *sector_size as usize {
            write!(f, " on {sector_size}")?;
        }
        if self.is_sequential() {
            write!(f, ", {order}")?;
        }
        if *medium == Medium::Disk {
            f.write_str(", durable on a disk")?;
        }
        let client = if *polling { "polling" } else { "sleeping" };
        let plural = if *queues == 1 { "" } else { "s" };
        write!(f, ", depth {depth}, {queues} queue{plural}, {client}")
    }
}
