use proptest::prelude::*;

use super::*;

#[test]
fn the_layouts_that_linux_makes() {
    for (area_size, version, index_size, nslot) in [
        (128 << 10, LabelVersion::V1_1, 256, 1020),
        (128 << 10, LabelVersion::V1_2, 256, 510),
        (2 << 20, LabelVersion::V1_1, 2304, 16_348),
        (2 << 20, LabelVersion::V1_2, 1280, 8182),
        // The least that the UEFI specification allows.
        (1024, LabelVersion::V1_2, 256, 2),
    ] {
        let layout = Layout::of(area_size, version);
        assert_eq!(layout, Some(Layout { index_size, nslot }), "{area_size} {version}");
    }
    for area_size in [0, 255, 512, 1023] {
        assert_eq!(Layout::of(area_size, LabelVersion::V1_2), None);
    }
}

#[test]
fn sequence_numbers_go_round_and_the_follower_is_newer() {
    let layout = Layout { index_size: 256, nslot: 510 };
    let index = |number, seq| IndexBlock::empty(LabelVersion::V1_2, layout, number, seq);
    for (first, second, newer) in
        [(1, 2, 1), (2, 3, 1), (3, 1, 1), (2, 1, 0), (3, 2, 0), (1, 3, 0), (1, 1, 1), (3, 3, 1)]
    {
        let chosen = IndexBlock::newer(index(0, first), index(1, second));
        assert_eq!(chosen.number, newer, "{first} {second}");
    }
    let mut current = index(0, 3);
    for (number, seq) in [(1, 1), (0, 2), (1, 3), (0, 1)] {
        current = current.successor();
        assert_eq!((current.number, current.seq), (number, seq));
    }
}

/// An area of `size` bytes in which `index` stands where it says.
fn area_with(index: &IndexBlock, size: u64) -> Vec<u8> {
    let mut area = vec![0; size as usize];
    let bytes = index.encode();
    area[index.offset() as usize..][..bytes.len()].copy_from_slice(&bytes);
    area
}

#[test]
fn a_first_index_block_that_says_it_has_no_size_does_not_hide_the_second() {
    let layout = Layout::of(128 << 10, LabelVersion::V1_2).unwrap();
    let [first, second] =
        [0, 1].map(|number| IndexBlock::empty(LabelVersion::V1_2, layout, number, 1));
    let mut area = area_with(&second, 128 << 10);
    area[..256].copy_from_slice(&first.encode());
    area[32..40].fill(0);
    assert_eq!(IndexBlock::decode(&area, 1), Ok(second));
}

proptest! {
    #[test]
    fn an_index_block_is_decoded_as_it_was_encoded(
        pages in 1..600u64,
        newer in any::<bool>(),
        number in 0..2u64,
        seq in 1..=3u32,
        used in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let size = pages * 4096;
        let version = LabelVersion::ALL[usize::from(newer)];
        let layout = Layout::of(size, version).unwrap();
        prop_assert!(2 * layout.index_size + u64::from(layout.nslot) * version.label_size() <= size);
        let mut index = IndexBlock::empty(version, layout, number, seq);
        prop_assert_eq!(index.free_slots().count(), layout.nslot as usize);
        let mut slots: Vec<u32> =
            used.iter().map(|slot| slot.index(layout.nslot as usize) as u32).collect();
        slots.sort_unstable();
        slots.dedup();
        for slot in &slots {
            index.set_free(*slot, false);
        }
        prop_assert_eq!(index.used_slots().collect::<Vec<_>>(), slots);
        let decoded = IndexBlock::decode(&area_with(&index, size), number);
        prop_assert_eq!(decoded, Ok(index));
    }

    /// Whatever stands there, decoding says what is wrong, and does not panic.
    #[test]
    fn a_changed_index_block_is_refused(
        offset in 0..256usize,
        value in any::<u8>(),
        number in 0..2u64,
    ) {
        let layout = Layout::of(128 << 10, LabelVersion::V1_2).unwrap();
        let index = IndexBlock::empty(LabelVersion::V1_2, layout, number, 1);
        let mut area = area_with(&index, 128 << 10);
        let byte = &mut area[(number * 256) as usize + offset];
        prop_assume!(*byte != value);
        *byte = value;
        prop_assert!(IndexBlock::decode(&area, number).is_err());
    }

    /// The same with a checksum that holds: sizes and places are checked, not trusted.
    #[test]
    fn a_forged_index_block_never_leads_out_of_the_area(
        word in 4..15usize,
        value in any::<u32>(),
        number in 0..2u64,
    ) {
        let layout = Layout::of(128 << 10, LabelVersion::V1_2).unwrap();
        let index = IndexBlock::empty(LabelVersion::V1_2, layout, number, 1);
        let mut area = area_with(&index, 128 << 10);
        let start = (number * 256) as usize;
        area[start + word * 4..][..4].copy_from_slice(&value.to_le_bytes());
        let size = u64::from_le_bytes(area[start + 32..][..8].try_into().unwrap());
        if let Some(block) = area.get(start..).and_then(|rest| rest.get(..size as usize))
            && size >= 72
        {
            let checksum = fletcher64_without_field(block, CHECKSUM_OFFSET).to_le_bytes();
            area[start + CHECKSUM_OFFSET..][..8].copy_from_slice(&checksum);
        }
        if let Ok(index) = IndexBlock::decode(&area, number) {
            prop_assert!(index.slot_offset(index.nslot) <= area.len() as u64);
            prop_assert!(index.free_slots().chain(index.used_slots()).count() == index.nslot as usize);
        }
    }
}
