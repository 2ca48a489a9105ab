//! aarch64: `dc cvap` (or `dc cvac` where the CPU lacks it), `dsb`.

use std::arch::asm;

use super::{Fault, answered};
use crate::pmem::sigbus::guard;

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
            // SAFETY: one load of a mapped address; a fault ends at label 3 with x9 set.
            unsafe {
                asm!(
                    "2:", $instruction, "3:", guard!(),
                    address = in(reg) address,
                    value = out(reg) value,
                    inout("x9") 0usize => fault,
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
            // SAFETY: one store to a mapped address; a fault ends at label 3 with x9 set.
            unsafe {
                asm!(
                    "2:", $instruction, "3:", guard!(),
                    address = in(reg) address,
                    value = in(reg) value,
                    inout("x9") 0usize => fault,
                    options(nostack, preserves_flags),
                );
            }
            answered(fault)
        }
    };
}

guarded_load!(load_u32, u32, "ldar {value:w}, [{address}]");
guarded_load!(load_u64, u64, "ldar {value}, [{address}]");
guarded_store!(store_u32, u32, "stlr {value:w}, [{address}]");
guarded_store!(store_u64, u64, "stlr {value}, [{address}]");

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
    let fault: usize;
    // SAFETY: copies `length` bytes between mapped ranges; a fault ends at label 3 with x9 set.
    unsafe {
        asm!(
            "2:",
            "subs {n}, {n}, #16",
            "b.lo 5f",
            "4:",
            "ldp {a}, {b}, [{from}], #16",
            "stp {a}, {b}, [{to}], #16",
            "subs {n}, {n}, #16",
            "b.hs 4b",
            "5:",
            "adds {n}, {n}, #16",
            "b.eq 3f",
            "6:",
            "ldrb {a:w}, [{from}], #1",
            "strb {a:w}, [{to}], #1",
            "subs {n}, {n}, #1",
            "b.ne 6b",
            "3:",
            guard!(),
            n = inout(reg) length => _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            a = out(reg) _,
            b = out(reg) _,
            inout("x9") 0usize => fault,
            options(nostack),
        );
    }
    answered(fault)
}

/// True if a streaming copy goes past the cache.
pub(in crate::pmem) const STREAMS_PAST_CACHE: bool = false;

/// Copies `lines` cache lines and begins to write them back; durable after [`drain_stores`].
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
    // The architecture has no store that is known to bypass the cache: copy, then clean.
    // SAFETY: as promised by the caller.
    unsafe { copy(to, from, lines * 64)? };
    let write_back = WriteBack::best();
    for line in 0..lines {
        // SAFETY: the line is part of the range just written.
        unsafe { write_back.line(to.add(line * 64))? };
    }
    Ok(())
}

/// Stores `length` zero bytes through the cache.
///
/// # Safety
///
/// The range is mapped for writing; pages after it may be missing.
#[inline]
pub(in crate::pmem) unsafe fn fill_zero(to: *mut u8, length: usize) -> Result<(), Fault> {
    let fault: usize;
    // SAFETY: stores `length` bytes to a mapped range; a fault ends at label 3 with x9 set.
    unsafe {
        asm!(
            "2:",
            "cbz {n}, 3f",
            "4:",
            "strb wzr, [{to}], #1",
            "subs {n}, {n}, #1",
            "b.ne 4b",
            "3:",
            guard!(),
            n = inout(reg) length => _,
            to = inout(reg) to => _,
            inout("x9") 0usize => fault,
            options(nostack),
        );
    }
    answered(fault)
}

/// The instruction that writes a cache line back to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pmem) enum WriteBack {
    /// Cleans to the point of persistence.
    Cvap,
    /// Cleans to the point of coherency, all that a CPU before Armv8.2 has.
    Cvac,
}

impl WriteBack {
    /// All that this CPU has, best first.
    pub(in crate::pmem) fn supported() -> impl Iterator<Item = WriteBack> {
        // SAFETY: getauxval only reads the process's auxiliary vector.
        let features = unsafe { libc::getauxval(libc::AT_HWCAP) };
        let cvap = (features & libc::HWCAP_DCPOP != 0).then_some(WriteBack::Cvap);
        [cvap, Some(WriteBack::Cvac)].into_iter().flatten()
    }

    /// The best that this CPU has.
    pub(in crate::pmem) fn best() -> WriteBack {
        WriteBack::supported().next().unwrap_or(WriteBack::Cvac)
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
                // with x9 set; each instruction is used only where the kernel reports it.
                unsafe {
                    asm!(
                        "2:", concat!($instruction, ", {address}"), "3:", guard!(),
                        address = in(reg) address,
                        inout("x9") 0usize => fault,
                        options(nostack, preserves_flags),
                    );
                }
                answered(fault)
            }};
        }
        match self {
            // `dc cvap` by its encoding: assemblers want +dpb for the name.
            WriteBack::Cvap => write_back!("sys #3, c7, c12, #1"),
            WriteBack::Cvac => write_back!("dc cvac"),
        }
    }
}

/// Begins to fetch the line that holds `address`, if there is one.
#[inline]
pub(in crate::pmem) fn prefetch(address: *const u8) {
    // SAFETY: a prefetch changes no memory and raises no fault, whatever the address.
    unsafe {
        asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Begins to fetch the line that holds `address`, if there is one, to be stored to.
#[inline]
pub(in crate::pmem) fn prefetch_to_store(address: *const u8) {
    // SAFETY: as in `prefetch`.
    unsafe {
        asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Waits for all earlier write-backs of this thread.
#[inline]
pub(in crate::pmem) fn drain_stores() {
    #[cfg(test)]
    super::DRAINS.set(super::DRAINS.get() + 1);
    // SAFETY: a barrier touches no memory.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Orders earlier cached stores of this thread before later ones.
#[inline]
pub(in crate::pmem) fn order_stores() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Orders all earlier loads and stores of this thread before all later ones, for all threads.
#[inline]
pub(in crate::pmem) fn full_fence() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Number of the fault register, x9.
const X9: usize = 9;

/// The instruction at which a signal arrived.
pub(in crate::pmem) fn instruction_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

/// Lets the interrupted thread go on at `at` with `fault` in the fault register.
pub(in crate::pmem) fn resume_with_fault(context: &mut libc::ucontext_t, at: usize, fault: usize) {
    context.uc_mcontext.pc = at as u64;
    context.uc_mcontext.regs[X9] = fault as u64;
}
