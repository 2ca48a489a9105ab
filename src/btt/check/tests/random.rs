//! Images with random damage, on which checker and engine must not contradict each other.
//!
//! * What the checker calls clean, the engine opens, and all sectors can be read but the lost ones.
//! * What the engine does not open, the checker finds fault with.
//! * What replay does is what the checker said.
//! * What is left of writes that were cut off is clean.
//!
//! `PROPTEST_CASES` sets the number of images.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::btt::NeverWritten;
use crate::pmem::fletcher64_without_field;

/// Images to be damaged: fresh and used, of either version and layout, of one and of two arenas.
static ORIGINALS: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let two = 2 * SIZE + PAGE;
    let images = [
        Image::new(4096, Version::V1_1),
        used(Image::new(4096, Version::V1_1)),
        used(Image::new(4160, Version::V2_0)),
        used(Image::new(512, Version::V2_0)),
        used(Image::of_arenas(4096, Version::V1_1, two, SIZE)),
    ];
    let mut images = Vec::from(images);
    images.push(old_layout(&images[1]));
    images.push(pending(&images[1]));
    images
});

/// After a few hundred writes, trims, and a lost sector.
fn used(image: Image) -> Image {
    let mut queue = image.open();
    let sectors = queue.btt().sectors();
    for index in 0..900 {
        write(&mut queue, index * index % 97, 3);
        write(&mut queue, sectors - 1 - index % 50, 4);
    }
    let mut batch = queue.batch();
    batch.trim(20, 30, NeverWritten::Zero, 0).unwrap();
    batch.trim(sectors - 9, 9, NeverWritten::Zero, 0).unwrap();
    drop(batch);
    drop(queue);
    let block = image.map(1).block(Lba(1));
    image.set_map(1, MapEntry::error(block));
    image
}

fn old_layout(image: &Image) -> Image {
    let image = image.copy();
    for lane in 0..image.geometry.nfree {
        let from = image.lane_offset(lane) + 16;
        let mut entry = [0; 16];
        image.medium.read_bytes(from, &mut entry).unwrap();
        image.medium.write_bytes(from + 16, &entry).unwrap();
        image.medium.zero(from, 16).unwrap();
    }
    image
}

/// Without the map entries of the last writes.
fn pending(image: &Image) -> Image {
    let written = image.copy();
    let mut queue = written.open();
    (200..230).for_each(|sector| write(&mut queue, sector, 5));
    drop(queue);
    (200..230).for_each(|lba| written.set_map(lba, image.map(lba)));
    written
}

/// A word to be damaged.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Of the first info block, by its number.
    Primary(u64),
    /// Of the second info block, by its number.
    Backup(u64),
    /// Of a lane, reduced to those that exist, by its number.
    Flog(u32, u64),
    /// The entry of a sector, reduced to those that exist.
    Map(u32),
}

/// What is done to a word.
#[derive(Debug, Clone, Copy)]
enum Damage {
    FlipBit(u32),
    Store(u32),
    /// As if a block: reduced to those that exist, and flags.
    Block(u32),
    /// Of what stands so many places further on.
    CopyFrom(u32),
}

fn place() -> impl Strategy<Value = Place> {
    // Lanes and sectors that were used are at the beginning.
    let number = || prop_oneof![0..60u32, any::<u32>()];
    prop_oneof![
        1 => (0..32u64).prop_map(Place::Primary),
        1 => (0..32u64).prop_map(Place::Backup),
        4 => (number(), 0..16u64).prop_map(|(lane, word)| Place::Flog(lane, word)),
        4 => number().prop_map(Place::Map),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0..32u32).prop_map(Damage::FlipBit),
        (0..5u32).prop_map(Damage::Store),
        any::<u32>().prop_map(Damage::Store),
        any::<u32>().prop_map(Damage::Block),
        (0..256u32).prop_map(Damage::CopyFrom),
    ]
}

fn apply(image: &Image, arena: u64, place: Place, damage: Damage, repair_sum: bool) {
    let image = Image { start: image.start + arena * image.geometry.nextoff, ..image.clone() };
    let geometry = image.geometry;
    let (offset, step) = match place {
        Place::Primary(word) => (image.primary_offset() + word * 4, 4),
        Place::Backup(word) => (image.backup_offset() + word * 4, 4),
        Place::Flog(lane, word) => (image.lane_offset(lane % geometry.nfree) + word * 4, 16),
        Place::Map(lba) => (image.map_offset(lba % geometry.external_nlba), 4),
    };
    let found = image.medium.load_u32(offset).unwrap();
    let word = match damage {
        Damage::FlipBit(bit) => found ^ (1 << bit),
        Damage::Store(word) => word,
        Damage::Block(word) => (word % geometry.internal_nlba) | (found & (3 << 30)),
        Damage::CopyFrom(index) => {
            let from = (offset + step * u64::from(index)).min(image.medium.size() - 4);
            image.medium.load_u32(from).unwrap()
        }
    };
    image.medium.store_u32(offset, word).unwrap();
    let info = match place {
        Place::Primary(_) => image.primary_offset(),
        Place::Backup(_) => image.backup_offset(),
        _ => return,
    };
    if repair_sum {
        let bytes = image.info_bytes(info);
        let sum = fletcher64_without_field(&bytes, 4088);
        image.medium.store_u64(info + 4088, sum).unwrap();
    }
}

/// Checks the image, opens it, and compares.
fn compare(image: &Image) -> Result<(), TestCaseError> {
    let report = image.check();
    let found = lines(&report);
    let is_clean = report.verdict() == Verdict::Clean;
    let opened = image.try_open();
    let Ok((btt, mut queues)) = opened else {
        let error = opened.unwrap_err();
        prop_assert!(!is_clean, "clean, but not opened: {error}");
        return Ok(());
    };
    if !is_clean {
        return Ok(());
    }
    let sectors = report.arenas.iter().map(|arena| u64::from(arena.info.geometry.external_nlba));
    prop_assert_eq!(btt.sectors(), sectors.sum::<u64>());
    let failed = (0..btt.sectors()).filter(|&sector| read(&mut queues[0], sector).is_err()).count();
    let errors: u64 = report.arenas.iter().map(|arena| arena.map.error).sum();
    prop_assert_eq!(failed as u64, errors, "{:#?}", found);
    drop((btt, queues));

    let after = image.check();
    prop_assert_eq!(lines(&after), found);
    prop_assert_eq!(after.pending_count(), 0);
    for (before, after) in report.arenas.iter().zip(&after.arenas) {
        prop_assert_eq!(before.map, after.map);
        let (before, after) = (before.lanes, after.lanes);
        prop_assert_eq!(before.pristine, after.pristine);
        // Those that were pending are applied now, and what was applied to their sectors superseded.
        prop_assert_eq!(
            before.applied + before.pending + before.superseded,
            after.applied + after.superseded
        );
        prop_assert!(after.superseded >= before.superseded);
    }
    Ok(())
}

#[test]
fn the_originals_are_clean() {
    for image in ORIGINALS.iter() {
        let image = image.copy();
        let report = image.check();
        assert_clean(&report);
        compare(&image).unwrap();
    }
    assert_eq!(ORIGINALS[6].check().pending_count(), 30);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn checker_and_engine_do_not_contradict_each_other(
        original in 0..7usize,
        damages in prop::collection::vec((0..2u64, place(), damage(), any::<bool>()), 0..6),
    ) {
        let image = ORIGINALS[original].copy();
        for (arena, place, damage, repair_sum) in damages {
            apply(&image, arena, place, damage, repair_sum);
        }
        compare(&image)?;
    }

    #[test]
    fn sectors_that_exchange_blocks_are_no_fault_of_the_map(
        original in 0..7usize,
        swaps in prop::collection::vec((0..300u32, 0..300u32), 1..20),
    ) {
        let image = ORIGINALS[original].copy();
        for (one, other) in swaps {
            let (first, second) = (image.map(one).block(Lba(one)), image.map(other).block(Lba(other)));
            image.set_map(one, MapEntry::data(second));
            image.set_map(other, MapEntry::data(first));
        }
        // A pending or applied write may come to be superseded, and the reverse: but for that, a
        // map that is a permutation of the blocks is as good as any other.
        prop_assert!(faults(&image.check()).iter().all(|fault| matches!(
            fault.kind(),
            Kind::SectorError | Kind::PendingBehind | Kind::BlockShared | Kind::BlockMissing
        )));
        compare(&image)?;
    }

    #[test]
    fn an_image_that_was_cut_off_between_any_two_stores_is_clean(
        original in 0..7usize,
        writes in prop::collection::vec((0..100u64, 1..40usize, 0..9u8), 1..12),
        stores in 0..700u64,
    ) {
        let image = ORIGINALS[original].copy();
        let medium = Shared {
            stores_left: Arc::new(AtomicU64::new(stores)),
            ..image.shared(false)
        };
        let (btt, mut queues) = open_on(medium).unwrap();
        let size = btt.sector_size() as usize;
        for (first, count, kind) in writes {
            let mut batch = queues[0].batch();
            if kind == 0 {
                batch.trim(first, count as u64, NeverWritten::Zero, 0).unwrap();
            } else {
                let mut data = vec![kind; count * size];
                batch.write(first, &VolatileSlice::from(&mut data[..]), 0).unwrap();
            }
            batch.commit();
        }
        drop((btt, queues));
        prop_assert_eq!(image.check().verdict(), Verdict::Clean);
        compare(&image)?;
    }
}
