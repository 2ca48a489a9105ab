//! x86-64: `clwb`, `clflushopt` or `clflush`, `sfence`, non-temporal stores.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _mm_sfence};

use self::lines::Width;
use super::{Fault, answered};
use crate::pmem::CACHE_LINE;
use crate::pmem::sigbus::guard;

mod lines;

/// Bytes of a cache line.
const LINE: usize = CACHE_LINE as usize;

macro_rules! guarded_load {
    ($name:ident, $word:ty, $instruction:literal) => {
        /// Loads `*address` in one access.
        ///
        /// # Safety
        ///
        /// `address` is aligned and mapped for reading; the page after it may be missing.
        #[inline]
        pub(in crate::pmem) unsafe fn $name(address: *const $word) -> Result<$word, Fault> {
            let value: $word;
            let fault: usize;
            // SAFETY: one load of a mapped address; a fault ends at label 3 with r11 set.
            unsafe {
                asm!(
                    "2:", $instruction, "3:", guard!(),
                    address = in(reg) address,
                    value = out(reg) value,
                    inout("r11") 0usize => fault,
                    options(nostack, preserves_flags),
                );
            }
            answered(fault).map(|()| value)
        }
    };
}

macro_rules! guarded_store {
    ($name:ident, $word:ty, $instruction:literal) => {
        /// Stores `value` to `*address` in one access.
        ///
        /// # Safety
        ///
        /// `address` is aligned and mapped for writing, for concurrent use through this module only;
        /// the page after it may be missing.
        #[inline]
        pub(in crate::pmem) unsafe fn $name(
            address: *mut $word,
            value: $word,
        ) -> Result<(), Fault> {
            let fault: usize;
            // SAFETY: one store to a mapped address; a fault ends at label 3 with r11 set.
            unsafe {
                asm!(
                    "2:", $instruction, "3:", guard!(),
                    address = in(reg) address,
                    value = in(reg) value,
                    inout("r11") 0usize => fault,
                    options(nostack, preserves_flags),
                );
            }
            answered(fault)
        }
    };
}

guarded_load!(load_u32, u32, "mov {value:e}, dword ptr [{address}]");
guarded_load!(load_u64, u64, "mov {value}, qword ptr [{address}]");
guarded_store!(store_u32, u32, "mov dword ptr [{address}], {value:e}");
guarded_store!(store_u64, u64, "mov qword ptr [{address}], {value}");

/// Copies through the cache.
///
/// # Safety
///
/// Both ranges are mapped, `to` for writing, and do not overlap; pages after them may be missing. A
/// range that others change meanwhile yields any mixture of bytes.
#[inline]
pub(in crate::pmem) unsafe fn copy(
    to: *mut u8,
    from: *const u8,
    length: usize,
) -> Result<(), Fault> {
    let whole = length - length % LINE;
    // SAFETY: as promised by the caller, for both parts of the ranges.
    unsafe {
        Width::best().copy(to, from, whole / LINE)?;
        copy_bytes(to.add(whole), from.add(whole), length - whole)
    }
}

/// Copies less than a line.
///
/// # Safety
///
/// As for [`copy`].
#[inline]
unsafe fn copy_bytes(to: *mut u8, from: *const u8, length: usize) -> Result<(), Fault> {
    if length == 0 {
        return Ok(());
    }
    let fault: usize;
    // SAFETY: copies `length` bytes between mapped ranges; the direction flag is clear by the ABI; a
    // fault ends at label 3 with r11 set.
    unsafe {
        asm!(
            "2:", "rep movsb", "3:", guard!(),
            inout("rcx") length => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("r11") 0usize => fault,
            options(nostack, preserves_flags),
        );
    }
    answered(fault)
}

/// True if a streaming copy goes past the cache.
pub(in crate::pmem) const STREAMS_PAST_CACHE: bool = true;

/// Copies `lines` cache lines past the cache; durable after [`drain_stores`].
///
/// # Safety
///
/// As for [`copy`]; `to` is aligned to a cache line.
#[inline]
pub(in crate::pmem) unsafe fn stream_lines(
    to: *mut u8,
    from: *const u8,
    lines: usize,
) -> Result<(), Fault> {
    // SAFETY: as promised by the caller.
    unsafe { Width::best().stream(to, from, lines) }
}

/// Stores `length` zero bytes through the cache.
///
/// # Safety
///
/// The range is mapped for writing; pages after it may be missing.
#[inline]
pub(in crate::pmem) unsafe fn fill_zero(to: *mut u8, length: usize) -> Result<(), Fault> {
    let fault: usize;
    // SAFETY: stores `length` bytes to a mapped range; the direction flag is clear by the ABI; a
    // fault ends at label 3 with r11 set.
    unsafe {
        asm!(
            "2:", "rep stosb", "3:", guard!(),
            inout("rcx") length => _,
            inout("rdi") to => _,
            in("al") 0u8,
            inout("r11") 0usize => fault,
            options(nostack, preserves_flags),
        );
    }
    answered(fault)
}

/// The instruction that writes a cache line back to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pmem) enum WriteBack {
    /// Writes back and keeps the line.
    Clwb,
    /// Writes back and evicts, unordered.
    ClflushOpt,
    /// Writes back and evicts, ordered with other `clflush`.
    Clflush,
}

/// CPUID leaf 7, subleaf 0, EBX: the CPU has `clflushopt`.
const CLFLUSHOPT: u32 = 1 << 23;
/// CPUID leaf 7, subleaf 0, EBX: the CPU has `clwb`.
const CLWB: u32 = 1 << 24;

/// CPUID leaf 7, subleaf 0, EBX; zero if the CPU has no such leaf.
#[allow(unused_unsafe, reason = "these functions are unsafe in the oldest Rust that is supported")]
fn cpuid_features() -> u32 {
    // SAFETY: every x86-64 CPU has the CPUID instruction and leaf 0, which names the highest leaf.
    unsafe { if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 } }
}

impl WriteBack {
    /// All that this CPU has, best first.
    pub(in crate::pmem) fn supported() -> impl Iterator<Item = WriteBack> {
        let features = cpuid_features();
        let optional = |feature, kind| (features & feature != 0).then_some(kind);
        [
            optional(CLWB, WriteBack::Clwb),
            optional(CLFLUSHOPT, WriteBack::ClflushOpt),
            Some(WriteBack::Clflush),
        ]
        .into_iter()
        .flatten()
    }

    /// The best that this CPU has.
    pub(in crate::pmem) fn best() -> WriteBack {
        WriteBack::supported().next().unwrap_or(WriteBack::Clflush)
    }

    /// Begins to write back the line that holds `address`.
    ///
    /// # Safety
    ///
    /// `address` is mapped; the page after it may be missing.
    #[inline]
    pub(in crate::pmem) unsafe fn line(self, address: *const u8) -> Result<(), Fault> {
        macro_rules! write_back {
            ($instruction:literal) => {{
                let fault: usize;
                // SAFETY: writing back a mapped line changes no memory; a fault ends at label 3
                // with r11 set; each instruction is used only where CPUID reports it.
                unsafe {
                    asm!(
                        "2:", concat!($instruction, " [{address}]"), "3:", guard!(),
                        address = in(reg) address,
                        inout("r11") 0usize => fault,
                        options(nostack, preserves_flags),
                    );
                }
                answered(fault)
            }};
        }
        match self {
            WriteBack::Clwb => write_back!("clwb"),
            WriteBack::ClflushOpt => write_back!("clflushopt"),
            WriteBack::Clflush => write_back!("clflush"),
        }
    }
}

/// Begins to fetch the line that holds `address`, if there is one.
#[inline]
pub(in crate::pmem) fn prefetch(address: *const u8) {
    // SAFETY: a prefetch changes no memory and raises no fault, whatever the address.
    unsafe {
        asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Begins to fetch the line that holds `address`, if there is one, to be stored to.
#[inline]
pub(in crate::pmem) fn prefetch_to_store(address: *const u8) {
    // SAFETY: as in `prefetch`; a CPU without this one takes it for no operation.
    unsafe {
        asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Waits for all earlier write-backs and streaming stores of this thread.
#[inline]
pub(in crate::pmem) fn drain_stores() {
    #[cfg(test)]
    super::DRAINS.set(super::DRAINS.get() + 1);
    // SAFETY: every x86-64 CPU has `sfence`; it touches no memory.
    unsafe { _mm_sfence() };
}

/// Orders earlier cached stores of this thread before later ones: the CPU does so by itself, only
/// the compiler has to be told.
#[inline]
pub(in crate::pmem) fn order_stores() {
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// Orders all earlier loads and stores of this thread before all later ones, for all threads.
///
/// A locked instruction does that in half the time of the `mfence` that the standard library's fence is.
#[inline]
pub(in crate::pmem) fn full_fence() {
    // SAFETY: changes no bit of the stack's top, which is ours.
    unsafe { asm!("lock or dword ptr [rsp], 0", options(nostack)) };
}

/// Index of `rip` among the general registers of a signal context.
const RIP: usize = libc::REG_RIP as usize;
/// Index of `r11`, the fault register.
const R11: usize = libc::REG_R11 as usize;

/// The instruction at which a signal arrived.
pub(in crate::pmem) fn instruction_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[RIP].cast_unsigned() as usize
}

/// Lets the interrupted thread go on at `at` with `fault` in the fault register.
pub(in crate::pmem) fn resume_with_fault(context: &mut libc::ucontext_t, at: usize, fault: usize) {
    context.uc_mcontext.gregs[RIP] = (at as u64).cast_signed();
    context.uc_mcontext.gregs[R11] = (fault as u64).cast_signed();
}
