//! Info blocks of any contents, at all places where one may stand, on media of any size.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;
use vhost_user_btt::btt::{
    FLOG_PAIR_SIZE, Geometry, INFO_SIZE, InfoBlock, LbaSize, MAP_ENTRY_SIZE, Version, find,
};
use vhost_user_btt::pmem::simulated::{Contents, Simulated};
use vhost_user_btt_fuzz::{Word, repair_sum, verify};

const CHECKSUM_OFFSET: usize = 4088;

#[derive(Debug, Arbitrary)]
struct Input {
    /// Bytes of the medium: 16 MiB and so many times 512.
    size: u16,
    blocks: Vec<Block>,
}

/// An info block.
#[derive(Debug, Arbitrary)]
struct Block {
    lba_size: u8,
    old: bool,
    room: u16,
    /// Words that are replaced.
    words: Vec<(u8, Word)>,
    repair: bool,
    place: Place,
}

/// Where it stands.
#[derive(Debug, Arbitrary)]
enum Place {
    Start,
    Page,
    End,
    /// Where a block before it says that its copy is, or the next arena.
    Anywhere(u16),
}

fuzz_target!(|input: Input| {
    let size = (16 << 20) + u64::from(input.size) * 512;
    let mut contents = Contents::zeroes(size);
    for block in input.blocks.iter().take(6) {
        let offset = match block.place {
            Place::Start => 0,
            Place::Page => 4096,
            Place::End => size - size % 4096 - INFO_SIZE,
            Place::Anywhere(page) => u64::from(page) * 4096 % (size - INFO_SIZE),
        };
        contents.write(offset, &block.encode());
        block.damage(&mut contents, offset);
        let mut bytes = [0; INFO_SIZE as usize];
        contents.read(offset, &mut bytes);
        decode(&bytes, size - offset);
    }
    let medium = Simulated::of(contents.clone());
    for version in [None, Some(Version::V1_1), Some(Version::V2_0)] {
        for arena in find(&medium, version).iter().flatten() {
            assert_inside(&arena.info.geometry, size - arena.start);
        }
        verify(&contents, version, &[]);
    }
});

impl Block {
    fn encode(&self) -> [u8; INFO_SIZE as usize] {
        let lba_size = LbaSize::ALL[usize::from(self.lba_size) % LbaSize::ALL.len()];
        let size = (16 << 20) + u64::from(self.room) * 512;
        InfoBlock {
            uuid: Uuid::max(),
            parent_uuid: Uuid::nil(),
            error: false,
            version: if self.old { Version::V1_1 } else { Version::V2_0 },
            geometry: Geometry::new(size, lba_size, true),
        }
        .encode()
    }

    fn damage(&self, contents: &mut Contents, offset: u64) {
        for (place, word) in self.words.iter().take(16) {
            let place = offset + u64::from(place % 32) * 4;
            let load = |offset: u64| {
                let mut bytes = [0; 4];
                contents.read(offset, &mut bytes);
                u32::from_le_bytes(bytes)
            };
            let other = |distance: i8| load(place.saturating_add_signed(4 * i64::from(distance)));
            let word = word.apply(load(place), other);
            contents.write(place, &word.to_le_bytes());
        }
        if self.repair {
            repair_sum(contents, offset, INFO_SIZE as usize, CHECKSUM_OFFSET);
        }
    }
}

/// What is decoded says what stood there; and where it is valid, it describes an arena.
fn decode(bytes: &[u8; INFO_SIZE as usize], room: u64) {
    let Ok(info) = InfoBlock::decode(bytes) else { return };
    assert_eq!(InfoBlock::decode(&info.encode()), Ok(info));
    if info.geometry.validate(room).is_ok() {
        assert_inside(&info.geometry, room);
    }
}

/// All parts lie inside `room` bytes, in order.
fn assert_inside(geometry: &Geometry, room: u64) {
    let blocks = u64::from(geometry.internal_nlba) * u64::from(geometry.internal_lbasize);
    let mut end = INFO_SIZE;
    for (offset, length) in [
        (geometry.dataoff, blocks),
        (geometry.mapoff, u64::from(geometry.external_nlba) * MAP_ENTRY_SIZE),
        (geometry.logoff, u64::from(geometry.nfree) * FLOG_PAIR_SIZE),
        (geometry.info2off, INFO_SIZE),
    ] {
        assert!(offset >= end, "{geometry:?}");
        end = offset.checked_add(length).expect("no part ends beyond 2^64");
    }
    assert!(end <= room, "{geometry:?}");
}
