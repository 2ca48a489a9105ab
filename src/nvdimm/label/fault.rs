//! Faults of index blocks and labels.

use uuid::Uuid;

/// Why an index block or a label cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LabelFault {
    /// The signature is not there.
    #[error("no index signature")]
    Signature,
    /// The checksum does not match.
    #[error("checksum {found:#018x} where the contents sum to {expected:#018x}")]
    Checksum {
        /// What the structure says.
        found: u64,
        /// What it sums to.
        expected: u64,
    },
    /// A version of the label format that is not known.
    #[error("label version {0}.{1} is neither 1.1 nor 1.2")]
    Version(u16, u16),
    /// The size of a label does not go with the version.
    #[error("labels of {0} bytes")]
    LabelSize(u32),
    /// A sequence number outside 1 to 3.
    #[error("sequence number {0}")]
    Sequence(u32),
    /// An index block that says it stands elsewhere, or has another size than it has room for.
    #[error("{field} is {found} where {expected} belongs")]
    Place {
        /// The field.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// More slots than the area holds.
    #[error("{slots} slots do not fit into the area")]
    TooManySlots {
        /// Number of slots.
        slots: u32,
    },
    /// A label that says it stands in another slot.
    #[error("the label says that it belongs to slot {0}")]
    Slot(u32),
    /// A range that is not made of pages, or not inside the data area.
    #[error("bytes {dpa:#x} and {rawsize:#x} more are not whole pages inside the data area")]
    Range {
        /// First byte.
        dpa: u64,
        /// Number of bytes.
        rawsize: u64,
    },
    /// Two labels lay claim to the same bytes.
    #[error("its range overlaps that of {other}")]
    Overlap {
        /// Uuid of the other namespace.
        other: Uuid,
    },
    /// Several labels of one namespace: it is interleaved over several NVDIMMs, or in pieces.
    #[error("the namespace has {labels} labels: it is interleaved, or in pieces")]
    Interleaved {
        /// Number of labels.
        labels: u16,
    },
}
