//! The CPU's part: single-access loads and stores, copies, cache write-back and fences.
//!
//! Every function that touches memory runs in a guarded region (see [`sigbus`](super::sigbus)) and
//! reports a [`Fault`] instead of raising `SIGBUS`. On x86-64 a load acquires and a store releases by
//! itself; on aarch64 `ldar` and `stlr` are used.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("cache write-back is known for x86-64 and aarch64 only");

#[cfg(test)]
thread_local! {
    /// How often this thread has drained its stores.
    pub(super) static DRAINS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// An access to memory that did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// The address that the kernel reported for the fault.
    pub address: usize,
}

/// What the fault register held at the end of a guarded region, as a result.
fn answered(fault_register: usize) -> Result<(), Fault> {
    match fault_register {
        0 => Ok(()),
        address => Err(Fault { address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_see_what_stores_stored() {
        let (mut word, mut double) = (0u32, 0u64);
        // SAFETY: both are valid, aligned and ours alone.
        unsafe {
            store_u32(&raw mut word, 0x1234_5678).unwrap();
            store_u64(&raw mut double, 0x1122_3344_5566_7788).unwrap();
            assert_eq!(load_u32(&raw const word), Ok(0x1234_5678));
            assert_eq!(load_u64(&raw const double), Ok(0x1122_3344_5566_7788));
        }
    }

    #[test]
    fn copies_and_fills_touch_exactly_their_range() {
        #[repr(align(64))]
        struct Line([u8; 256]);
        for length in [0usize, 1, 7, 63, 64, 65, 128, 200] {
            let source: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut target = Line([0xee; 256]);
            // SAFETY: source and target are valid for `length` bytes and do not overlap.
            unsafe { copy(target.0.as_mut_ptr(), source.as_ptr(), length) }.unwrap();
            assert_eq!(&target.0[..length], source);
            assert!(target.0[length..].iter().all(|&byte| byte == 0xee));
            // SAFETY: as above.
            unsafe { fill_zero(target.0.as_mut_ptr(), length) }.unwrap();
            assert!(target.0[..length].iter().all(|&byte| byte == 0));
            assert!(target.0[length..].iter().all(|&byte| byte == 0xee));
        }
    }

    #[test]
    fn streaming_copies_whole_lines() {
        #[repr(align(64))]
        struct Lines([u8; 4096]);
        let source: Vec<u8> = (0..4096usize).map(|i| u8::try_from(i % 253).unwrap()).collect();
        let mut target = Lines([0; 4096]);
        // SAFETY: both are valid for 4096 bytes, the target is aligned to a line, no overlap.
        unsafe { stream_lines(target.0.as_mut_ptr(), source.as_ptr(), 4096 / 64) }.unwrap();
        drain_stores();
        assert_eq!(target.0.as_slice(), source);
    }

    #[test]
    fn every_kind_of_write_back_leaves_the_bytes_alone() {
        let bytes = [0x5au8; 192];
        for write_back in WriteBack::supported() {
            for offset in [0, 64, 128] {
                // SAFETY: the byte is inside the array.
                unsafe { write_back.line(bytes.as_ptr().add(offset)) }.unwrap();
            }
            drain_stores();
            assert!(bytes.iter().all(|&byte| byte == 0x5a), "{write_back:?}");
        }
    }
}
