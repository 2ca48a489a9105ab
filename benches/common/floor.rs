//! The floor: what the memory itself takes for the stores, write-backs and fences of a write, without
//! anything that decides on them.

#![allow(clippy::cast_ptr_alignment, reason = "offsets are multiples of what is stored there")]

use std::arch::asm;
use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

use super::Shuffled;
use memmap2::MmapMut;
use vhost_user_btt::pmem::full_fence;

/// Sectors of raw memory with a map and a flog.
pub struct Floor {
    memory: MmapMut,
    sector_size: usize,
    sectors: u64,
    flog: usize,
    map: usize,
    lane: usize,
    shuffled: Shuffled,
}

/// Lanes of the flog.
const LANES: usize = 256;
const LINE: usize = 64;

impl Floor {
    pub fn new(sector_size: usize, size: u64) -> Floor {
        let file = super::memory_file(size);
        // SAFETY: nobody else has the file.
        let mut memory =
            unsafe { MmapMut::map_mut(&file) }.expect("a temporary file can be mapped");
        memory.fill(0x5a);
        let metadata = LANES * LINE;
        let sectors = (size as usize - metadata - 4096) / (sector_size + 4);
        let flog = (sectors * sector_size).next_multiple_of(4096);
        let map = flog + metadata;
        assert!(map + sectors * 4 <= size as usize);
        Floor {
            memory,
            sector_size,
            sectors: sectors as u64,
            flog,
            map,
            lane: 0,
            shuffled: Shuffled::new(7),
        }
    }

    /// Writes as many sectors as `from` has, somewhere, in a round.
    pub fn write(&mut self, from: &[u8]) {
        for data in from.chunks_exact(self.sector_size) {
            let sector = self.shuffled.below(self.sectors) as usize;
            self.stream(sector * self.sector_size, data);
        }
        fence();
        let count = from.len() / self.sector_size;
        for lane in self.lane..self.lane + count {
            let offset = self.flog + lane % LANES * LINE;
            self.store(offset, lane as u64);
            self.store(offset + 8, lane as u64);
            self.write_back(offset);
        }
        self.lane += count;
        fence();
        for _ in 0..count {
            let entry = self.map + self.shuffled.below(self.sectors) as usize * 4;
            // SAFETY: the map has an entry for every sector.
            unsafe { self.memory.as_mut_ptr().add(entry).cast::<u32>().write_volatile(1) };
            self.write_back(entry);
        }
        fence();
    }

    /// As [`write`](Self::write), with the locked instructions that threads which share a BTT need beside
    /// it: for the lanes, one map lock, and the reader's side of the read tracking. Each waits for all
    /// stores before it, which the next write otherwise does not.
    pub fn write_locked(&mut self, from: &[u8]) {
        (0..2).for_each(|_| full_fence());
        self.write(from);
        (0..3).for_each(|_| full_fence());
    }

    /// Streams as many sectors as `from` has, somewhere, with a fence at the end.
    pub fn stream_only(&mut self, from: &[u8]) {
        for data in from.chunks_exact(self.sector_size) {
            let sector = self.shuffled.below(self.sectors) as usize;
            self.stream(sector * self.sector_size, data);
        }
        fence();
    }

    /// Copies as many sectors as `from` has, somewhere.
    pub fn copy_only(&mut self, from: &[u8]) {
        for data in from.chunks_exact(self.sector_size) {
            let offset = self.shuffled.below(self.sectors) as usize * self.sector_size;
            self.memory[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    /// Copies sectors from somewhere into all of `into`.
    pub fn read(&mut self, into: &mut [u8]) {
        for data in into.chunks_exact_mut(self.sector_size) {
            let offset = self.shuffled.below(self.sectors) as usize * self.sector_size;
            data.copy_from_slice(&self.memory[offset..offset + data.len()]);
        }
    }

    fn stream(&mut self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.memory.len());
        for place in (0..data.len()).step_by(size_of::<__m128i>()) {
            // SAFETY: both inside their ranges, which are multiples of as many bytes; sectors of the
            // mapping are aligned.
            unsafe {
                let word = _mm_loadu_si128(data.as_ptr().add(place).cast());
                _mm_stream_si128(self.memory.as_mut_ptr().add(offset + place).cast(), word);
            }
        }
    }

    fn store(&mut self, offset: usize, value: u64) {
        assert!(offset + 8 <= self.memory.len());
        // SAFETY: inside the mapping, and aligned.
        unsafe { self.memory.as_mut_ptr().add(offset).cast::<u64>().write_volatile(value) };
    }

    fn write_back(&self, offset: usize) {
        // SAFETY: inside the mapping.
        unsafe {
            let address = self.memory.as_ptr().add(offset);
            asm!("clwb [{}]", in(reg) address, options(nostack, preserves_flags));
        }
    }
}

fn fence() {
    // SAFETY: every x86-64 CPU has `sfence`.
    unsafe { _mm_sfence() };
}
