//! What the benches share: a BTT in memory, sectors in no order, and the floor.

#![allow(dead_code, unused_imports, reason = "each bench uses a part of it")]

mod disk;
pub mod floor;
pub mod load;
pub mod pmemblk;
pub mod ring;

pub use disk::{SIZE, atomic_disk, disk, memory_file};

/// Numbers in no order (xorshift).
pub struct Shuffled(u64);

impl Shuffled {
    pub fn new(seed: u64) -> Shuffled {
        Shuffled(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The high half of the product: no division on the measured path.
        ((u128::from(self.0) * u128::from(end)) >> 64) as u64
    }
}
