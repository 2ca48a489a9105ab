//! Names of the feature bits that are offered, as the specifications have them.

/// Bits that any virtio device may have.
const VIRTIO: [(u32, &str); 6] = [
    (28, "RING_INDIRECT_DESC"),
    (29, "RING_EVENT_IDX"),
    (30, "PROTOCOL_FEATURES"),
    (32, "VERSION_1"),
    (33, "ACCESS_PLATFORM"),
    (35, "IN_ORDER"),
];

/// Bits of a block device (VIRTIO 1.2, 5.2.3).
const BLOCK: [(u32, &str); 9] = [
    (2, "BLK_SEG_MAX"),
    (5, "BLK_RO"),
    (6, "BLK_BLK_SIZE"),
    (9, "BLK_FLUSH"),
    (10, "BLK_TOPOLOGY"),
    (11, "BLK_CONFIG_WCE"),
    (12, "BLK_MQ"),
    (13, "BLK_DISCARD"),
    (14, "BLK_WRITE_ZEROES"),
];

/// Bits of persistent memory (VIRTIO 1.2, 5.19.3).
const PMEM: [(u32, &str); 1] = [(0, "PMEM_SHMEM_REGION")];

/// Bits of the vhost-user protocol.
const PROTOCOL: [(u32, &str); 7] = [
    (0, "MQ"),
    (3, "REPLY_ACK"),
    (5, "BACKEND_REQ"),
    (9, "CONFIG"),
    (10, "BACKEND_SEND_FD"),
    (15, "CONFIGURE_MEM_SLOTS"),
    (22, "SHMEM"),
];

/// What the driver of a device of `kind` has accepted.
pub(super) fn of_driver(kind: &str, features: u64) -> Vec<String> {
    let own: &[(u32, &str)] = if kind == "pmem" { &PMEM } else { &BLOCK };
    names(own.iter().chain(&VIRTIO), features)
}

/// What a frontend has accepted.
pub(super) fn of_frontend(features: u64) -> Vec<String> {
    names(PROTOCOL.iter(), features)
}

/// The names of the bits in `features`; a bit without a name goes by its number.
fn names<'a>(known: impl Iterator<Item = &'a (u32, &'a str)>, features: u64) -> Vec<String> {
    let known: Vec<_> = known.collect();
    let name = |bit: u32| {
        let named = known.iter().find(|(number, _)| *number == bit);
        named.map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned())
    };
    (0..u64::BITS).filter(|bit| features & 1 << bit != 0).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names_or_numbers() {
        assert_eq!(of_driver("disk", 1 << 9 | 1 << 32), ["BLK_FLUSH", "VERSION_1"]);
        assert_eq!(of_driver("pmem", 1 | 1 << 9), ["PMEM_SHMEM_REGION", "bit 9"]);
        assert_eq!(of_frontend(1 << 5 | 1 << 63), ["BACKEND_REQ", "bit 63"]);
    }
}
