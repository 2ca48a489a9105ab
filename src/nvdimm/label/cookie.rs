//! The interleave set cookie, which identifies the NVDIMMs that a label was written for.
//!
//! Linux ignores a namespace whose label has another cookie than the NVDIMM (the kernel's
//! `nd_region_interleave_set_cookie`). The cookie is a checksum over the vendor and the serial number of
//! each NVDIMM of the set. QEMU derives both from the memory slot that the device is plugged into.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::LabelVersion;
use crate::pmem::fletcher64;

/// The record of version 1.2 (the kernel's `struct nfit_set_info2`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Record {
    region_offset: U64,
    serial: U32,
    vendor: U16,
    manufacturing_date: U16,
    manufacturing_location: u8,
    reserved: [u8; 31],
}

/// The record of version 1.1 (the kernel's `struct nfit_set_info`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct OldRecord {
    region_offset: U64,
    serial: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<Record>() == 48 && size_of::<OldRecord>() == 16);

/// The vendor that QEMU gives to its NVDIMMs: Intel.
const QEMU_VENDOR: u16 = 0x8086;
/// The serial number that QEMU gives to the NVDIMM in memory slot 0; the others follow.
const QEMU_SERIAL: u32 = 0x0012_3456;
/// Most memory slots that QEMU has.
pub const MOST_QEMU_SLOTS: u32 = 256;

/// The cookie of no NVDIMM: Linux ignores a namespace with it, and does not give its bytes to another one (the
/// kernel's `create_namespace_pmem`, and `nd_label_reserve_dpa`, which does not look at cookies).
pub const NO_COOKIE: u64 = 0;

/// The cookie in labels of `version` on QEMU's NVDIMM in memory slot `slot`.
#[must_use]
pub fn qemu_cookie(version: LabelVersion, slot: u32) -> u64 {
    let serial = U32::new(QEMU_SERIAL + slot);
    match version {
        LabelVersion::V1_1 => {
            let record = OldRecord { region_offset: U64::ZERO, serial, reserved: U32::ZERO };
            fletcher64(record.as_bytes())
        }
        LabelVersion::V1_2 => {
            let record = Record {
                region_offset: U64::ZERO,
                serial,
                vendor: U16::new(QEMU_VENDOR),
                manufacturing_date: U16::ZERO,
                manufacturing_location: 0,
                reserved: [0; 31],
            };
            fletcher64(record.as_bytes())
        }
    }
}

/// The memory slot in which QEMU's NVDIMM accepts labels of `version` with `cookie`, if any does.
#[must_use]
pub fn qemu_slot(version: LabelVersion, cookie: u64) -> Option<u32> {
    (0..MOST_QEMU_SLOTS).find(|slot| qemu_cookie(version, *slot) == cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cookies that Linux wrote on QEMU's NVDIMM in slot 0.
    #[test]
    fn the_known_cookies() {
        assert_eq!(qemu_cookie(LabelVersion::V1_1, 0), 0x0024_68ac_0012_3456);
        assert_eq!(qemu_cookie(LabelVersion::V1_2, 0), 0x00ba_9012_0012_b4dc);
    }

    #[test]
    fn a_cookie_tells_its_slot() {
        for version in LabelVersion::ALL {
            for slot in [0, 1, 7, MOST_QEMU_SLOTS - 1] {
                assert_eq!(qemu_slot(version, qemu_cookie(version, slot)), Some(slot));
            }
            assert_eq!(qemu_slot(version, 0), None);
            assert_eq!(qemu_slot(version, qemu_cookie(version, MOST_QEMU_SLOTS)), None);
        }
    }
}
