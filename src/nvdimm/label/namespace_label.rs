//! The label of a namespace.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{LabelFault, LabelName, LabelVersion};
use crate::pmem::{PAGE, fletcher64_without_field};

/// The on-media structure of version 1.2 (the kernel's `struct nd_namespace_label`); version 1.1 is
/// its first 128 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OnMedia {
    uuid: [u8; 16],
    name: [u8; 64],
    flags: U32,
    nlabel: U16,
    position: U16,
    isetcookie: U64,
    lbasize: U64,
    dpa: U64,
    rawsize: U64,
    slot: U32,
    align: u8,
    reserved: [u8; 3],
    type_guid: [u8; 16],
    abstraction_guid: [u8; 16],
    reserved2: [u8; 88],
    checksum: U64,
}

const CHECKSUM_OFFSET: usize = 248;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<OnMedia>() == 256);
    assert!(offset_of!(OnMedia, flags) == 80);
    assert!(offset_of!(OnMedia, isetcookie) == 88);
    assert!(offset_of!(OnMedia, slot) == 120);
    assert!(offset_of!(OnMedia, type_guid) == 128);
    assert!(offset_of!(OnMedia, checksum) == CHECKSUM_OFFSET);
};

impl OnMedia {
    /// The bytes of a slot, which are fewer in version 1.1, filled up with zeroes.
    fn whole(bytes: &[u8]) -> [u8; size_of::<OnMedia>()] {
        let mut whole = [0; size_of::<OnMedia>()];
        whole[..bytes.len()].copy_from_slice(bytes);
        whole
    }
}

/// The contents of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceLabel {
    /// Version of the label format.
    pub version: LabelVersion,
    /// Of the namespace.
    pub uuid: Uuid,
    /// Of the namespace, as people call it.
    pub name: LabelName,
    /// Flag bits: 1 read-only, 2 local, 8 being updated.
    pub flags: u32,
    /// Number of labels that make up the namespace.
    pub nlabel: u16,
    /// Place of this label among them.
    pub position: u16,
    /// Says which set of NVDIMMs the label was written for.
    pub isetcookie: u64,
    /// Sector size in bytes of a namespace in sector mode.
    pub lbasize: u64,
    /// First byte of the namespace in the NVDIMM.
    pub dpa: u64,
    /// Number of its bytes.
    pub rawsize: u64,
    /// The slot that the label stands in.
    pub slot: u32,
    /// Alignment, which is not used; 0 in version 1.1.
    pub align: u8,
    /// Kind of the namespace; nil in version 1.1.
    pub type_guid: Uuid,
    /// What the namespace holds; nil: raw, or (in version 1.1) not said.
    pub abstraction_guid: Uuid,
}

impl NamespaceLabel {
    /// Decodes the label in slot `slot`; `bytes` are the slot's, as many as the version has.
    ///
    /// # Errors
    ///
    /// The slot does not hold a label that counts, for the reasons of the kernel's `slot_valid`; it
    /// can be passed over.
    pub fn decode(
        bytes: &[u8],
        version: LabelVersion,
        slot: u32,
    ) -> Result<NamespaceLabel, LabelFault> {
        let whole = OnMedia::whole(bytes);
        let raw: &OnMedia = zerocopy::transmute_ref!(&whole);
        if version == LabelVersion::V1_2 {
            let (found, expected) =
                (raw.checksum.get(), fletcher64_without_field(&whole, CHECKSUM_OFFSET));
            if found != expected {
                return Err(LabelFault::Checksum { found, expected });
            }
        }
        if raw.slot.get() != slot {
            return Err(LabelFault::Slot(raw.slot.get()));
        }
        let (dpa, rawsize) = (raw.dpa.get(), raw.rawsize.get());
        if !dpa.is_multiple_of(PAGE) || !rawsize.is_multiple_of(PAGE) {
            return Err(LabelFault::Range { dpa, rawsize });
        }
        Ok(NamespaceLabel::as_it_seems(bytes, version, slot))
    }

    /// What the slot `slot` says, whether it is a label that counts or not.
    #[must_use]
    pub fn as_it_seems(bytes: &[u8], version: LabelVersion, slot: u32) -> NamespaceLabel {
        let whole = OnMedia::whole(bytes);
        let raw: &OnMedia = zerocopy::transmute_ref!(&whole);
        NamespaceLabel {
            version,
            uuid: Uuid::from_bytes(raw.uuid),
            name: LabelName::from_bytes(raw.name),
            flags: raw.flags.get(),
            nlabel: raw.nlabel.get(),
            position: raw.position.get(),
            isetcookie: raw.isetcookie.get(),
            lbasize: raw.lbasize.get(),
            dpa: raw.dpa.get(),
            rawsize: raw.rawsize.get(),
            slot,
            align: raw.align,
            type_guid: Uuid::from_bytes_le(raw.type_guid),
            abstraction_guid: Uuid::from_bytes_le(raw.abstraction_guid),
        }
    }

    /// The bytes of the label, as many as its version has, checksum included: what
    /// [`decode`](Self::decode) reads as this. Reserved bytes are zero, as Linux writes them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = OnMedia {
            uuid: self.uuid.into_bytes(),
            name: self.name.bytes(),
            flags: U32::new(self.flags),
            nlabel: U16::new(self.nlabel),
            position: U16::new(self.position),
            isetcookie: U64::new(self.isetcookie),
            lbasize: U64::new(self.lbasize),
            dpa: U64::new(self.dpa),
            rawsize: U64::new(self.rawsize),
            slot: U32::new(self.slot),
            align: self.align,
            reserved: [0; 3],
            type_guid: self.type_guid.to_bytes_le(),
            abstraction_guid: self.abstraction_guid.to_bytes_le(),
            reserved2: [0; 88],
            checksum: U64::ZERO,
        };
        raw.checksum = U64::new(fletcher64_without_field(raw.as_bytes(), CHECKSUM_OFFSET));
        raw.as_bytes()[..self.version.label_size() as usize].to_vec()
    }
}
