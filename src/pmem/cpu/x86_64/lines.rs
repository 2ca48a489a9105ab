//! Copies of whole cache lines, as wide as the CPU can.
//!
//! Vector loads of many lines are under way at once, whereas `rep movsb` waits for one after another
//! where they come from memory: at 512 bytes, it takes twice as long.

use std::arch::{asm, is_x86_feature_detected};

use crate::pmem::cpu::{Fault, answered};
use crate::pmem::sigbus::guard;

/// The registers that lines are copied through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// A line at a time.
    Avx512,
    /// Half of one.
    Avx2,
    /// A quarter; every x86-64 CPU has these.
    Sse2,
}

impl Width {
    /// All that this CPU has, widest first.
    pub(super) fn supported() -> impl Iterator<Item = Width> {
        // Both are looked up once in the process.
        [
            is_x86_feature_detected!("avx512f").then_some(Width::Avx512),
            is_x86_feature_detected!("avx2").then_some(Width::Avx2),
            Some(Width::Sse2),
        ]
        .into_iter()
        .flatten()
    }

    /// The widest that this CPU has.
    #[inline]
    pub(super) fn best() -> Width {
        Width::supported().next().unwrap_or(Width::Sse2)
    }

    /// Copies `lines` cache lines through the cache.
    ///
    /// # Safety
    ///
    /// As for [`copy`](super::copy); the CPU has this width.
    #[inline]
    pub(super) unsafe fn copy(
        self,
        to: *mut u8,
        from: *const u8,
        lines: usize,
    ) -> Result<(), Fault> {
        // SAFETY: as promised by the caller.
        unsafe {
            match self {
                Width::Avx512 => copy_512(to, from, lines),
                Width::Avx2 => copy_256(to, from, lines),
                Width::Sse2 => copy_128(to, from, lines),
            }
        }
    }

    /// Copies `lines` cache lines past the cache.
    ///
    /// # Safety
    ///
    /// As for [`stream_lines`](super::stream_lines); the CPU has this width.
    #[inline]
    pub(super) unsafe fn stream(
        self,
        to: *mut u8,
        from: *const u8,
        lines: usize,
    ) -> Result<(), Fault> {
        // SAFETY: as promised by the caller.
        unsafe {
            match self {
                Width::Avx512 => stream_512(to, from, lines),
                Width::Avx2 => stream_256(to, from, lines),
                Width::Sse2 => stream_128(to, from, lines),
            }
        }
    }
}

/// Defines a function that copies lines: by the instructions of one line, and those that end it.
macro_rules! line_copy {
    ($name:ident, [$($line:literal),*], [$($end:literal),*]) => {
        /// # Safety
        ///
        /// As for the method of [`Width`] that calls it.
        unsafe fn $name(to: *mut u8, from: *const u8, lines: usize) -> Result<(), Fault> {
            if lines == 0 {
                return Ok(());
            }
            let fault: usize;
            // SAFETY: copies 64 · `lines` bytes between mapped ranges; non-temporal stores have their
            // alignment by the caller's promise; a fault ends at label 3 with r11 set.
            unsafe {
                asm!(
                    "2:",
                    $($line,)*
                    "add rsi, 64",
                    "add rdi, 64",
                    "dec rcx",
                    "jnz 2b",
                    "3:",
                    guard!(),
                    $($end,)*
                    inout("rsi") from => _,
                    inout("rdi") to => _,
                    inout("rcx") lines => _,
                    inout("r11") 0usize => fault,
                    // Vector registers among them.
                    clobber_abi("C"),
                    options(nostack),
                );
            }
            answered(fault)
        }
    };
}

// Registers from 16 on leave the CPU in no state that slows down what follows.
line_copy!(copy_512, ["vmovdqu64 zmm16, [rsi]", "vmovdqu64 [rdi], zmm16"], []);
line_copy!(stream_512, ["vmovdqu64 zmm16, [rsi]", "vmovntdq [rdi], zmm16"], []);
line_copy!(
    copy_256,
    [
        "vmovdqu ymm0, [rsi]",
        "vmovdqu ymm1, [rsi + 32]",
        "vmovdqu [rdi], ymm0",
        "vmovdqu [rdi + 32], ymm1"
    ],
    ["vzeroupper"]
);
line_copy!(
    stream_256,
    [
        "vmovdqu ymm0, [rsi]",
        "vmovdqu ymm1, [rsi + 32]",
        "vmovntdq [rdi], ymm0",
        "vmovntdq [rdi + 32], ymm1"
    ],
    ["vzeroupper"]
);
line_copy!(
    copy_128,
    [
        "movdqu xmm0, [rsi]",
        "movdqu xmm1, [rsi + 16]",
        "movdqu xmm2, [rsi + 32]",
        "movdqu xmm3, [rsi + 48]",
        "movdqu [rdi], xmm0",
        "movdqu [rdi + 16], xmm1",
        "movdqu [rdi + 32], xmm2",
        "movdqu [rdi + 48], xmm3"
    ],
    []
);
line_copy!(
    stream_128,
    [
        "movdqu xmm0, [rsi]",
        "movdqu xmm1, [rsi + 16]",
        "movdqu xmm2, [rsi + 32]",
        "movdqu xmm3, [rsi + 48]",
        "movntdq [rdi], xmm0",
        "movntdq [rdi + 16], xmm1",
        "movntdq [rdi + 32], xmm2",
        "movntdq [rdi + 48], xmm3"
    ],
    []
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmem::cpu::drain_stores;

    #[test]
    fn every_width_copies_the_lines_and_nothing_else() {
        #[repr(align(64))]
        struct Lines([u8; 4096]);
        let source: Vec<u8> = (0..4096usize).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for width in Width::supported() {
            for (lines, offset) in [(0, 0), (1, 0), (1, 7), (8, 1), (63, 63)] {
                for streams in [false, true] {
                    let mut target = Lines([0xee; 4096]);
                    let (to, from) = (target.0.as_mut_ptr(), source[offset..].as_ptr());
                    // SAFETY: both are valid for so many lines, the target is aligned to one, and the
                    // CPU has this width.
                    unsafe {
                        if streams {
                            width.stream(to, from, lines)
                        } else {
                            width.copy(to, from, lines)
                        }
                    }
                    .unwrap();
                    drain_stores();
                    let end = lines * 64;
                    assert_eq!(target.0[..end], source[offset..offset + end], "{width:?}");
                    assert!(target.0[end..].iter().all(|byte| *byte == 0xee), "{width:?}");
                }
            }
        }
    }
}
