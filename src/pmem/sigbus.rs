//! Turns `SIGBUS` into an error value, or into the end of one connection.
//!
//! Touching poisoned memory, a page beyond the end of a truncated file, or a hole that a full file
//! system cannot back raises `SIGBUS`. What becomes of it depends on the memory:
//!
//! * **The NVDIMM.** Every instruction of ours that touches its mapping stands in a *guarded region*:
//!   its start and end are recorded in the linker section `pmem_guarded` by the [`guard`] macro. The
//!   handler sends the thread to the region's end with the address of the fault in
//!   [`FAULT_REGISTER`](super::cpu), which held zero before. Nothing is unwound and nothing is remapped,
//!   so a later access to the same page fails, or works, on its own account.
//! * **Guest memory.** Any instruction may touch it. The frontend owns the file and can truncate it at any
//!   time, or its pages can run out. The handler puts a page of zeroes in the place of the one that does
//!   not answer and marks the region as broken ([`watched`]); the instruction then runs
//!   again. The connection is ended as soon as the mark is seen.
//!
//! A `SIGBUS` that no access of the thread has raised, such as one that `kill` sends or the kernel's
//! notice of a page that was found poisoned before use (`BUS_MCEERR_AO`), is ignored. One that another
//! access has raised goes to the handler that was there before.

use std::arch::asm;
use std::sync::OnceLock;

use libc::{BUS_MCEERR_AO, c_int, c_void, siginfo_t};
use nix::errno::Errno;

use super::{cpu, watched};

/// Records the instructions between the labels `2` and `3` of an `asm!` block as a guarded region.
///
/// To be the last line of the block's template. The offsets are relative to where they stand, so the
/// table needs no relocation; the section's `R` flag keeps it from the linker's garbage collection.
macro_rules! guard {
    () => {
        concat!(
            ".pushsection pmem_guarded, \"aR\", %progbits\n",
            ".balign 4\n",
            ".long 2b - .\n",
            ".long 3b - .\n",
            ".popsection"
        )
    };
}
pub(super) use guard;

/// An entry of the section `pmem_guarded`.
#[repr(C)]
struct Region {
    start: i32,
    end: i32,
}

unsafe extern "C" {
    // Made by the linker, as for every section whose name is a C identifier.
    #[link_name = "__start_pmem_guarded"]
    static FIRST: Region;
    #[link_name = "__stop_pmem_guarded"]
    static AFTER_LAST: Region;
}

fn regions() -> &'static [Region] {
    // The linker knows the two symbols only if an object that it takes has such a section, and a program
    // that never touches a mapping has none: an empty region stands here.
    // SAFETY: the block holds no instruction.
    unsafe { asm!("2:", "3:", guard!(), options(nomem, nostack, preserves_flags)) };
    let (first, after_last) = (&raw const FIRST, &raw const AFTER_LAST);
    // SAFETY: the two symbols delimit the section, which holds nothing but regions, each written by
    // `guard` with the size and alignment of `Region`; the section is never written. The linker provides
    // both symbols for one object, the section, so that a pointer to its start is good for all of it.
    unsafe { std::slice::from_raw_parts(first, after_last.offset_from_unsigned(first)) }
}

impl Region {
    fn start(&self) -> usize {
        (&raw const self.start).addr().wrapping_add_signed(self.start as isize)
    }

    fn end(&self) -> usize {
        (&raw const self.end).addr().wrapping_add_signed(self.end as isize)
    }
}

/// Where a guarded region that holds the instruction at `address` ends.
fn end_of_region(address: usize) -> Option<usize> {
    regions()
        .iter()
        .find(|region| (region.start()..region.end()).contains(&address))
        .map(Region::end)
}

/// The disposition of `SIGBUS` before ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once for the process.
pub(super) fn install() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let previous = disposition(std::ptr::null())?;
        PREVIOUS.get_or_init(|| previous);
        // SAFETY: an all-zero `sigaction` is valid: no flags, an empty mask, the default handler.
        let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
        ours.sa_sigaction = on_sigbus as *const () as usize;
        // On the alternate stack, where the thread has one: the fault may be on any stack.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        disposition(&raw const ours).map(drop)
    })
}

/// Has faults of memory become errors, before the process has mapped a file: later, its sandbox may not let it.
///
/// # Errors
///
/// The operating system refuses.
pub fn catch_faults() -> std::io::Result<()> {
    Ok(install()?)
}

/// Sets the disposition of `SIGBUS` to `new`, unless that is null. Returns the one before.
fn disposition(new: *const libc::sigaction) -> Result<libc::sigaction, Errno> {
    // SAFETY: an all-zero `sigaction` is valid, and is filled in by the call.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `old` is valid for the duration of the call, and so is `new` unless it is null; the only
    // handler that is installed is async-signal-safe: it reads tables of atomics and constants, maps a
    // page and writes to the context it is handed.
    Errno::result(unsafe { libc::sigaction(libc::SIGBUS, new, &raw mut old) })?;
    Ok(old)
}

extern "C" fn on_sigbus(_signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo.
    let info = unsafe { &*info };
    // Codes of zero and less are those of signals that a process has sent.
    if info.si_code <= 0 || info.si_code == BUS_MCEERR_AO {
        return;
    }
    // SAFETY: the fields of a SIGBUS that the kernel raises for a fault hold its address.
    let address = unsafe { info.si_addr() }.addr();
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid context that it may change.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let is_replaced = watched::replace_page(address);
    match end_of_region(cpu::instruction_pointer(context)) {
        // Zero would read as "no fault".
        Some(end) => cpu::resume_with_fault(context, end, address.max(1)),
        None if is_replaced => {}
        None => step_aside(),
    }
}

/// Gives the signal back to the handler that was there before ours: the instruction that raised it
/// runs again, and meets that handler.
fn step_aside() {
    let mut default = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero `sigaction` is valid and means the default handler, which ends the process.
    let default = unsafe { default.assume_init_mut() };
    let previous = PREVIOUS.get().unwrap_or(default);
    // SAFETY: `previous` is a valid disposition; `sigaction` is async-signal-safe.
    unsafe { libc::sigaction(libc::SIGBUS, std::ptr::from_ref(previous), std::ptr::null_mut()) };
}
