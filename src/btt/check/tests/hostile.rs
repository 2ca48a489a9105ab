//! Images that were made to hurt the checker.

use super::*;
use crate::btt::ARENA_MIN_SIZE;

/// Arenas as close together as can be, in each of which thousands of writes to the only sector are
/// pending, one behind another.
#[test]
fn long_chains_of_pending_writes_are_followed_to_their_end() {
    let (arenas, lanes) = (6, 20_000u32);
    let data = (u64::from(lanes) + 1) * 512;
    let mapoff = PAGE + data.next_multiple_of(PAGE);
    let geometry = Geometry {
        lba_size: LbaSize::new(512).unwrap(),
        internal_lbasize: 512,
        external_nlba: 1,
        internal_nlba: lanes + 1,
        nfree: lanes,
        nextoff: 0,
        dataoff: PAGE,
        mapoff,
        logoff: mapoff + PAGE,
        info2off: mapoff + PAGE + (u64::from(lanes) * 64).next_multiple_of(PAGE),
    };
    let medium = Simulated::new(arenas * ARENA_MIN_SIZE);
    for number in 0..arenas {
        let is_last = number + 1 == arenas;
        let info = InfoBlock {
            uuid: Uuid::nil(),
            parent_uuid: Uuid::nil(),
            error: false,
            version: Version::V2_0,
            geometry: Geometry { nextoff: if is_last { 0 } else { ARENA_MIN_SIZE }, ..geometry },
        };
        let start = number * ARENA_MIN_SIZE;
        for offset in [0, geometry.info2off] {
            medium.write_bytes(start + offset, &info.encode()).unwrap();
        }
        for lane in 0..lanes {
            let entries = [[0, 0, 0, 1], [0, lane, lane + 1, 2]].map(entry_bytes);
            let offset = start + geometry.flog_offset(LaneIndex(lane));
            medium.write_bytes(offset, entries.as_flattened()).unwrap();
        }
    }
    let report = check(&medium, &CheckOptions::default(), &mut |_, _| {});
    assert_eq!(report.arenas.len() as u64, arenas);
    assert_eq!(report.pending_count(), arenas * u64::from(lanes));
    assert_eq!(report.pending.len(), 100);
    let counts: Vec<(Kind, u64)> = report.findings.counts().collect();
    let behind = arenas * u64::from(lanes - 1);
    assert_eq!(counts, [(Kind::PendingBehind, behind)]);
}

fn entry_bytes(words: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[test]
fn a_medium_that_answers_nothing_is_checked_to_the_end() {
    let image = Image::new(512, Version::V1_1);
    image.medium.poison(image.start + PAGE..image.start + image.geometry.info2off);
    let report = image.check();
    assert_eq!(report.findings.count(Kind::LaneUnreadable), 256);
    assert_eq!(report.findings.count(Kind::MapUnreadable), 1);
    let nlba = u64::from(image.geometry.external_nlba);
    assert_eq!(report.arenas[0].map.unreadable, nlba);
    assert_eq!(report.findings.count(Kind::BlockMissing), nlba + 256);

    image.medium.poison(0..SIZE);
    assert_eq!(image.check().verdict(), Verdict::Problems);
}

#[test]
fn noise_is_no_btt() {
    for seed in 1..20u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let noise: Vec<u8> = noise.take(seed as usize * 4000).collect();
        let medium = Simulated::with_contents(&noise);
        let report = check(&medium, &CheckOptions::default(), &mut |_, _| {});
        assert_only(&report, Fault::NoBtt);
    }
}
