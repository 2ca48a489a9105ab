use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn lba_size(bytes: u32) -> LbaSize {
    LbaSize::new(bytes).unwrap()
}

/// Layouts that Linux made, from the size of the area that holds the arenas.
#[test]
fn layouts_are_those_of_linux() {
    // (area, lbasize, arena, internal_nlba, external_nlba, mapoff, logoff, info2off)
    let cases = [
        (64 * MIB - 4096, 512, 0, 129_992, 129_736, 66_564_096, 67_084_288, 67_100_672),
        (64 * MIB, 4096, 0, 16361, 16105, 67_022_848, 67_088_384, 67_104_768),
        (GIB, 512, 0, 2_080_839, 2_080_583, 1_065_398_272, 1_073_721_344, 1_073_737_728),
        (
            TIB - 4096,
            512,
            0,
            1_065_418_188,
            1_065_417_932,
            545_494_118_400,
            549_755_793_408,
            549_755_809_792,
        ),
        (
            TIB - 4096,
            512,
            1,
            1_065_418_180,
            1_065_417_924,
            545_494_114_304,
            549_755_789_312,
            549_755_805_696,
        ),
        (TIB, 4096, 1, 134_086_776, 134_086_520, 549_219_446_784, 549_755_793_408, 549_755_809_792),
    ];
    for (area, lbasize, arena, internal, external, mapoff, logoff, info2off) in cases {
        let (_, size) = arenas(area, ARENA_MAX_SIZE).nth(arena).unwrap();
        let geometry = Geometry::new(size, lba_size(lbasize), true);
        assert_eq!(
            (geometry.internal_nlba, geometry.external_nlba, geometry.mapoff),
            (internal, external, mapoff),
            "{area} {lbasize}"
        );
        assert_eq!((geometry.logoff, geometry.info2off), (logoff, info2off));
        assert_eq!(backup_offset(size), info2off);
    }
}

#[test]
fn an_area_is_cut_into_arenas_of_512_gib_and_a_small_rest_is_left() {
    let cut = |area| arenas(area, ARENA_MAX_SIZE).collect::<Vec<_>>();
    assert_eq!(cut(16 * MIB - 1), []);
    assert_eq!(cut(16 * MIB), [(0, 16 * MIB)]);
    assert_eq!(cut(512 * GIB), [(0, 512 * GIB)]);
    assert_eq!(cut(512 * GIB + 16 * MIB - 1), [(0, 512 * GIB)]);
    assert_eq!(cut(512 * GIB + 16 * MIB), [(0, 512 * GIB), (512 * GIB, 16 * MIB)]);
    assert_eq!(cut(TIB + TIB / 10).len(), 3);
}

#[test]
fn every_new_layout_is_valid_and_reaches_to_its_end() {
    for lba_size in LbaSize::ALL {
        for size in [16 * MIB, 16 * MIB + 4095, 100 * MIB + 512, GIB, 512 * GIB] {
            let geometry = Geometry::new(size, lba_size, true);
            assert_eq!(geometry.validate(size), Ok(()), "{lba_size} in {size}");
            assert_eq!(geometry.size(), size - size % PAGE);
        }
    }
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    let room = 64 * MIB;
    let good = Geometry::new(room, lba_size(512), true);
    let fault = |change: fn(&mut Geometry)| {
        let mut geometry = good;
        change(&mut geometry);
        geometry.validate(room).unwrap_err()
    };
    assert!(matches!(fault(|g| g.internal_lbasize = 448), GeometryFault::InternalLbaSize { .. }));
    assert!(matches!(fault(|g| g.internal_lbasize = 513), GeometryFault::InternalLbaSize { .. }));
    assert!(matches!(fault(|g| g.internal_lbasize = 1024), GeometryFault::InternalLbaSize { .. }));
    assert!(matches!(fault(|g| g.nfree = 0), GeometryFault::Nfree(0)));
    assert!(matches!(fault(|g| g.nfree = 65537), GeometryFault::Nfree(_)));
    assert!(matches!(fault(|g| g.external_nlba += 1), GeometryFault::BlockCounts { .. }));
    assert!(matches!(fault(|g| g.external_nlba = 0), GeometryFault::BlockCounts { .. }));
    assert!(matches!(fault(|g| g.internal_nlba = u32::MAX), GeometryFault::TooManyBlocks(_)));
    assert!(matches!(fault(|g| g.dataoff = 0), GeometryFault::Overlap { part: "dataoff", .. }));
    assert!(matches!(
        fault(|g| g.mapoff = g.dataoff),
        GeometryFault::Overlap { part: "mapoff", .. }
    ));
    assert!(matches!(fault(|g| g.mapoff += 4096), GeometryFault::Overlap { part: "logoff", .. }));
    assert!(matches!(fault(|g| g.logoff += 4096), GeometryFault::Overlap { part: "info2off", .. }));
    assert!(matches!(fault(|g| g.logoff += 1), GeometryFault::Misaligned { part: "logoff", .. }));
    assert!(matches!(fault(|g| g.info2off = u64::MAX - 4095), GeometryFault::TooLarge { .. }));
    assert!(matches!(fault(|g| g.info2off += 4096), GeometryFault::TooLarge { .. }));
    assert!(matches!(fault(|g| g.nextoff = 4096), GeometryFault::NextOff { .. }));
    assert!(matches!(fault(|g| g.nextoff = u64::MAX - 4095), GeometryFault::NextOff { .. }));
    assert!(matches!(fault(|g| g.nextoff = g.size()), GeometryFault::NextOff { .. }));
    assert!(matches!(
        fault(|g| g.nextoff = 2 * g.size() + 512),
        GeometryFault::Misaligned { part: "nextoff", .. }
    ));
    let mut followed = good;
    followed.nextoff = followed.size();
    assert_eq!(followed.validate(2 * followed.size()), Ok(()));
}
