//! Label storage areas, put together by the words of the specification.

use proptest::prelude::*;
use vhost_user_btt::nvdimm::label::{IndexBlock, LabelArea, LabelVersion, Layout, find};
use vhost_user_btt::pmem::fletcher64_without_field;
use vhost_user_btt::pmem::simulated::Simulated;

/// Offset of the checksum in an index block.
const CHECKSUM: usize = 64;
/// Bytes of an index block before its bitmap.
const HEADER: u64 = 72;

/// What an area is to hold.
#[derive(Debug, Clone)]
struct Area {
    size: u64,
    version: LabelVersion,
    /// Of the two index blocks.
    sequences: [u32; 2],
    /// Slots that are in use by the first index block, and by the second.
    used: [Vec<prop::sample::Index>; 2],
}

fn areas() -> impl Strategy<Value = Area> {
    let version = prop::sample::select(vec![LabelVersion::V1_1, LabelVersion::V1_2]);
    let used = prop::collection::vec(any::<prop::sample::Index>(), 0..20);
    (32..80u64, version, [1..=3u32, 1..=3u32], [used.clone(), used]).prop_map(
        |(pages, version, sequences, used)| Area { size: pages * 4096, version, sequences, used },
    )
}

impl Area {
    fn layout(&self) -> Layout {
        Layout::of(self.size, self.version).unwrap()
    }

    fn slots(&self, number: usize) -> Vec<u32> {
        let slots = self.layout().nslot as usize;
        let mut used: Vec<u32> =
            self.used[number].iter().map(|slot| slot.index(slots) as u32).collect();
        used.sort_unstable();
        used.dedup();
        used
    }

    fn bytes(&self) -> Vec<u8> {
        let Layout { index_size, nslot } = self.layout();
        let mut bytes = vec![0; self.size as usize];
        for number in 0..2 {
            let mut index = vec![0; index_size as usize];
            let myoff = number as u64 * index_size;
            let (minor, label_size) = match self.version {
                LabelVersion::V1_1 => (1u16, 0u8),
                LabelVersion::V1_2 => (2, 1),
            };
            index[..16].copy_from_slice(b"NAMESPACE_INDEX\0");
            index[19] = label_size;
            index[20..24].copy_from_slice(&self.sequences[number].to_le_bytes());
            for (place, value) in
                [(24, myoff), (32, index_size), (40, index_size - myoff), (48, 2 * index_size)]
            {
                index[place..place + 8].copy_from_slice(&value.to_le_bytes());
            }
            index[56..60].copy_from_slice(&nslot.to_le_bytes());
            index[60..62].copy_from_slice(&1u16.to_le_bytes());
            index[62..64].copy_from_slice(&minor.to_le_bytes());
            index[HEADER as usize..].fill(0xff);
            for slot in self.slots(number) {
                index[HEADER as usize + slot as usize / 8] &= !(1 << (slot % 8));
            }
            let start = myoff as usize;
            bytes[start..start + index.len()].copy_from_slice(&index);
            repair(&mut bytes, start, index.len());
        }
        bytes
    }

    /// Which index block counts: the one whose sequence number follows that of the other, or the second.
    fn newest(&self) -> usize {
        let [first, second] = self.sequences;
        usize::from(first == second || matches!(self.sequences, [1, 2] | [2, 3] | [3, 1]))
    }
}

/// Makes the checksum of the index block at `start` right.
fn repair(bytes: &mut [u8], start: usize, length: usize) {
    let Some(index) = bytes.get_mut(start..start + length) else { return };
    let sum = fletcher64_without_field(index, CHECKSUM);
    index[CHECKSUM..CHECKSUM + 8].copy_from_slice(&sum.to_le_bytes());
}

fn read(area: &[u8]) -> Option<LabelArea> {
    LabelArea::read(&Simulated::with_contents(area), area.len() as u64).unwrap().ok()
}

proptest! {
    /// The slots fit beside two index blocks with a bit for each, and no more than a few more would.
    #[test]
    fn slots_fill_the_area(
        size in prop_oneof![0..1u64 << 24, 0..1u64 << 14],
        version in prop::sample::select(vec![LabelVersion::V1_1, LabelVersion::V1_2]),
    ) {
        let label_size = version.label_size();
        let with = |slots: u64| {
            2 * (HEADER + slots.div_ceil(8)).next_multiple_of(256) + slots * label_size
        };
        let Some(Layout { index_size, nslot }) = Layout::of(size, version) else {
            // Not even two, and their index blocks.
            prop_assert!(size < with(2));
            return Ok(());
        };
        let slots = u64::from(nslot);
        prop_assert_eq!(index_size, (HEADER + slots.div_ceil(8)).next_multiple_of(256));
        prop_assert!(slots >= 2 && with(slots) <= size);
        prop_assert!(with(slots + 1 + 2 * 256 / label_size) > size);
    }

    #[test]
    fn an_area_says_what_was_put_into_it(area in areas()) {
        let bytes = area.bytes();
        let indexes = [0, 1].map(|number| IndexBlock::decode(&bytes, number).unwrap());
        for (number, index) in indexes.iter().enumerate() {
            let Layout { index_size, nslot } = area.layout();
            prop_assert_eq!((index.size, index.nslot), (index_size, nslot));
            prop_assert_eq!((index.version, index.seq), (area.version, area.sequences[number]));
            prop_assert_eq!(index.used_slots().collect::<Vec<_>>(), area.slots(number));
            let mut end = 2 * index.size;
            for slot in 0..index.nslot {
                prop_assert_eq!(index.slot_offset(slot), end);
                end += area.version.label_size();
            }
            prop_assert!(end <= area.size);
            // And encoded as it was found.
            let encoded = index.encode();
            prop_assert_eq!(&encoded, &bytes[index.offset() as usize..][..encoded.len()]);
        }
        let newest = area.newest();
        let [first, second] = indexes.clone();
        prop_assert_eq!(IndexBlock::newer(first, second).number as usize, newest);
        prop_assert_eq!(&read(&bytes).unwrap().index, &indexes[newest]);
        // It is found again at the end of something larger.
        let mut whole = vec![0x5a; 1 << 20];
        whole.extend(&bytes);
        prop_assert_eq!(find(&Simulated::with_contents(&whole)).unwrap(), Some(area.size));
    }

    #[test]
    fn one_damaged_index_block_leaves_the_other(
        area in areas(),
        number in 0..2usize,
        byte in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut bytes = area.bytes();
        let intact = IndexBlock::decode(&bytes, 1 - number as u64).unwrap();
        let byte = number * intact.size as usize + byte.index(intact.size as usize);
        bytes[byte] ^= 1u8 << bit;
        prop_assert!(IndexBlock::decode(&bytes, number as u64).is_err());
        prop_assert_eq!(&read(&bytes).unwrap().index, &intact);
    }

    /// Bytes of any kind in index blocks whose sums are right, and labels.
    #[test]
    fn no_contents_are_too_strange(
        area in areas(),
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0..=8usize), 0..6),
        sums in any::<[bool; 2]>(),
    ) {
        let mut bytes = area.bytes();
        let size = area.layout().index_size;
        for (place, value, count) in patches {
            // Half of them in the fields of the two headers.
            let place = match place.index(4) {
                0 => place.index(HEADER as usize),
                1 => size as usize + place.index(HEADER as usize),
                _ => place.index(bytes.len() - 8),
            };
            bytes[place..place + count].copy_from_slice(&value.to_le_bytes()[..count]);
        }
        for (number, sum) in sums.into_iter().enumerate() {
            let start = number * size as usize;
            let stated = u64::from_le_bytes(bytes[start + 32..start + 40].try_into().unwrap());
            if sum && (HEADER + 1..=area.size).contains(&stated) {
                repair(&mut bytes, start, stated as usize);
            }
        }
        if let Some(area) = read(&bytes) {
            for (slot, label) in area.labels() {
                prop_assert!(slot < area.index.nslot);
                prop_assert!(label.is_err() || label.unwrap().slot == slot);
            }
        }
    }
}
