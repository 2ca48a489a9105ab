//! Names of features, for the log and for reports.

/// Features of every virtio device, and of its rings.
const COMMON: &[(u32, &str)] = &[
    (24, "NOTIFY_ON_EMPTY"),
    (26, "LOG_ALL"),
    (27, "ANY_LAYOUT"),
    (28, "INDIRECT_DESC"),
    (29, "EVENT_IDX"),
    (30, "PROTOCOL_FEATURES"),
    (32, "VERSION_1"),
    (33, "ACCESS_PLATFORM"),
    (34, "RING_PACKED"),
    (35, "IN_ORDER"),
    (36, "ORDER_PLATFORM"),
    (40, "RING_RESET"),
];

/// Features of block devices (VIRTIO 1.2, 5.2.3).
pub(super) const BLOCK: &[(u32, &str)] = &[
    (1, "SIZE_MAX"),
    (2, "SEG_MAX"),
    (5, "RO"),
    (6, "BLK_SIZE"),
    (9, "FLUSH"),
    (10, "TOPOLOGY"),
    (11, "CONFIG_WCE"),
    (12, "MQ"),
    (13, "DISCARD"),
    (14, "WRITE_ZEROES"),
];

/// Features of the vhost-user protocol.
const PROTOCOL: &[(u32, &str)] = &[
    (0, "MQ"),
    (1, "LOG_SHMFD"),
    (3, "REPLY_ACK"),
    (5, "BACKEND_REQ"),
    (9, "CONFIG"),
    (10, "BACKEND_SEND_FD"),
    (13, "RESET_DEVICE"),
    (15, "CONFIGURE_MEM_SLOTS"),
    (19, "DEVICE_STATE"),
    (22, "SHMEM"),
];

/// The features in `bits` by name, those of the device first; the others by number.
pub(super) fn names(bits: u64, of_device: &[(u32, &str)]) -> String {
    list(bits, of_device).join(" ")
}

/// As [`names`], one by one.
pub(super) fn list(bits: u64, of_device: &[(u32, &str)]) -> Vec<String> {
    named(bits, |bit| of_device.iter().chain(COMMON).find(|(number, _)| *number == bit))
}

/// The protocol features in `bits`, one by one.
pub(super) fn protocol(bits: u64) -> Vec<String> {
    named(bits, |bit| PROTOCOL.iter().find(|(number, _)| *number == bit))
}

fn named<'a>(bits: u64, known: impl Fn(u32) -> Option<&'a (u32, &'a str)>) -> Vec<String> {
    let name =
        |bit: u32| known(bit).map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned());
    (0..u64::BITS).filter(|bit| bits & 1 << bit != 0).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_go_by_their_names_and_unknown_ones_by_their_numbers() {
        let bits = 1 << 9 | 1 << 12 | 1 << 29 | 1 << 32 | 1 << 63;
        assert_eq!(names(bits, BLOCK), "FLUSH MQ EVENT_IDX VERSION_1 bit 63");
        assert_eq!(names(1 << 9, &[]), "bit 9");
        assert_eq!(names(0, BLOCK), "");
        assert_eq!(protocol(1 << 5 | 1 << 63), ["BACKEND_REQ", "bit 63"]);
    }
}
