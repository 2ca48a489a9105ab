//! Damage of every kind, done to the bytes of NVDIMM files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vhost_user_btt::btt::flog::FlogEntry;
use vhost_user_btt::btt::map::MapEntry;
use vhost_user_btt::btt::{Block, FoundArena, InfoBlock, LaneIndex, Lba, find};
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt::pmem::{CHECKSUM_SIZE, fletcher64_without_field};

const PAGE: u64 = 4096;
/// Offset of the checksum in an info block.
const CHECKSUM: u64 = PAGE - CHECKSUM_SIZE as u64;

/// A file with one label-less namespace, as bytes: sectors 0 to 39 were written, through as many lanes.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    /// The arenas, as they were before any damage.
    pub arenas: Vec<FoundArena>,
}

impl Image {
    pub fn read(path: &Path) -> Image {
        let bytes = std::fs::read(path).unwrap();
        let arenas = find(&Simulated::with_contents(&bytes), None).unwrap();
        Image { bytes, arenas }
    }

    /// Writes it to `path`, as a sparse file.
    pub fn write(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.bytes.len() as u64).unwrap();
        for (page, offset) in self.bytes.chunks(PAGE as usize).zip((0..).step_by(PAGE as usize)) {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, offset).unwrap();
            }
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn word(&self, offset: u64) -> u32 {
        u32::from_le_bytes(*self.bytes[offset as usize..].first_chunk().unwrap())
    }

    /// Offsets of the two info blocks of an arena.
    fn infos(&self, arena: usize) -> [u64; 2] {
        let FoundArena { start, info, .. } = self.arenas[arena];
        [start, start + info.geometry.info2off]
    }

    fn wipe(&mut self, offset: u64) {
        self.put(offset, &[0; PAGE as usize]);
    }

    /// Makes the checksum of the info block at `offset` wrong.
    fn spoil(&mut self, offset: u64) {
        self.bytes[offset as usize + 61] ^= 1;
    }

    /// Changes the info block at `offset`, checksum and all.
    fn change_info(&mut self, offset: u64, change: impl FnOnce(&mut [u8])) {
        let block = &mut self.bytes[offset as usize..][..PAGE as usize];
        change(block);
        let sum = fletcher64_without_field(block, CHECKSUM as usize);
        block[CHECKSUM as usize..].copy_from_slice(&sum.to_le_bytes());
    }

    /// Changes both info blocks of arena 0, by what they say.
    fn change_infos(&mut self, change: impl Fn(&mut InfoBlock)) {
        let mut info = self.arenas[0].info;
        change(&mut info);
        for offset in self.infos(0) {
            self.put(offset, &info.encode());
        }
    }

    fn map_offset(&self, lba: u32) -> u64 {
        self.arenas[0].start + self.arenas[0].info.geometry.map_entry_offset(Lba(lba))
    }

    fn map(&self, lba: u32) -> MapEntry {
        MapEntry(self.word(self.map_offset(lba)))
    }

    fn set_map(&mut self, lba: u32, entry: MapEntry) {
        self.put(self.map_offset(lba), &entry.0.to_le_bytes());
    }

    fn lane_offset(&self, lane: u32) -> u64 {
        self.arenas[0].start + self.arenas[0].info.geometry.flog_offset(LaneIndex(lane))
    }

    fn entry(&self, lane: u32, place: u64) -> [u32; 4] {
        [0, 4, 8, 12].map(|word| self.word(self.lane_offset(lane) + 16 * place + word))
    }

    fn set_entry(&mut self, lane: u32, place: u64, words: [u32; 4]) {
        let bytes = words.map(u32::to_le_bytes);
        self.put(self.lane_offset(lane) + 16 * place, bytes.as_flattened());
    }

    /// The last write of lane 3: its place, and what it says.
    fn last(&self) -> (u64, FlogEntry) {
        let entries = [0, 1].map(|place| self.entry(LANE, place));
        let newer = vhost_user_btt::btt::flog::newer(entries[0][3], entries[1][3]).unwrap();
        let place = newer as u64;
        let [lba, old_map, new_map, seq] = entries[place as usize];
        (place, FlogEntry { lba, old_map, new_map, seq })
    }

    /// Changes the last write of lane 3.
    fn change_last(&mut self, change: impl Fn(&mut FlogEntry)) {
        let (place, mut entry) = self.last();
        change(&mut entry);
        let FlogEntry { lba, old_map, new_map, seq } = entry;
        self.set_entry(LANE, place, [lba, old_map, new_map, seq]);
    }

    fn blocks(&self) -> u32 {
        self.arenas[0].info.geometry.internal_nlba
    }
}

/// The lane that is damaged.
const LANE: u32 = 3;

/// What a careful repair, and one by force, come to: the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub check: i32,
    pub careful: i32,
    pub forced: i32,
}

/// A kind of damage.
pub struct Damage {
    pub name: &'static str,
    /// To a file with two arenas; otherwise one.
    pub two_arenas: bool,
    pub ends: Ends,
    /// Does it.
    pub inflict: fn(&mut Image),
}

/// Nothing is wrong, and nothing to do.
const FINE: Ends = Ends { check: 0, careful: 0, forced: 0 };
/// Nothing is wrong; there is something to do by force.
const NOTED: Ends = Ends { check: 0, careful: 0, forced: 1 };
/// Nothing is wrong; there is something to do.
const PENDING: Ends = Ends { check: 0, careful: 1, forced: 1 };
/// It can be repaired.
const CERTAIN: Ends = Ends { check: 2, careful: 1, forced: 1 };
/// It can be repaired by force.
const FORCED: Ends = Ends { check: 2, careful: 2, forced: 1 };
/// It cannot be repaired.
const LOST: Ends = Ends { check: 2, careful: 2, forced: 2 };
/// There is nothing to be checked.
const REFUSED: Ends = Ends { check: 8, careful: 8, forced: 8 };

/// All kinds of damage to a BTT, by what is damaged.
pub fn sections() -> Vec<(&'static str, Vec<Damage>)> {
    vec![
        ("Nothing", vec![one("nothing", FINE, |_| {})]),
        ("Info blocks", info_blocks()),
        ("Later arenas", later_arenas()),
        ("Map", map()),
        ("Flog", flog()),
        ("File", file()),
    ]
}

fn one(name: &'static str, ends: Ends, inflict: fn(&mut Image)) -> Damage {
    Damage { name, two_arenas: false, ends, inflict }
}

fn two(name: &'static str, ends: Ends, inflict: fn(&mut Image)) -> Damage {
    Damage { name, two_arenas: true, ends, inflict }
}

fn info_blocks() -> Vec<Damage> {
    vec![
        one("first info block zeroed", CERTAIN, |image| image.wipe(image.infos(0)[0])),
        one("second info block zeroed", CERTAIN, |image| image.wipe(image.infos(0)[1])),
        one("both info blocks zeroed", LOST, |image| {
            for offset in image.infos(0) {
                image.wipe(offset);
            }
        }),
        one("wrong checksum in the first", CERTAIN, |image| {
            image.spoil(image.infos(0)[0]);
        }),
        one("wrong checksum in the second", CERTAIN, |image| {
            image.spoil(image.infos(0)[1]);
        }),
        one("wrong checksum in both", LOST, |image| {
            for offset in image.infos(0) {
                image.spoil(offset);
            }
        }),
        one("first torn: its first half is of another write", CERTAIN, |image| {
            let offset = image.infos(0)[0] as usize;
            image.bytes[offset + 16..offset + 32].fill(0x77);
        }),
        one("valid, and they differ: ERROR in the second", PENDING_ERROR, |image| {
            let offset = image.infos(0)[1];
            image.change_info(offset, |block| block[48] = 1);
        }),
        one("valid, and they differ: the uuid", CERTAIN, |image| {
            let offset = image.infos(0)[1];
            image.change_info(offset, |block| block[16] ^= 1);
        }),
        one("ERROR in both", NOTED, |image| image.change_infos(|info| info.error = true)),
        one("reserved bytes that are not zero", FORCED, |image| {
            for offset in image.infos(0) {
                image.change_info(offset, |block| block[200] = 1);
            }
        }),
        one("version 1.7", LOST, |image| {
            for offset in image.infos(0) {
                image.change_info(offset, |block| block[54] = 7);
            }
        }),
        one("more blocks than the arena has room for", LOST, |image| {
            image.change_infos(|info| {
                info.geometry.internal_nlba = u32::MAX;
                info.geometry.external_nlba = u32::MAX - info.geometry.nfree;
            });
        }),
        one("more lanes than blocks", LOST, |image| {
            image.change_infos(|info| info.geometry.nfree = u32::MAX);
        }),
        one("a map behind the end", LOST, |image| {
            image.change_infos(|info| info.geometry.mapoff = u64::MAX - 4095);
        }),
        one("nextoff leads back to the arena itself", LOST, |image| {
            image.change_infos(|info| info.geometry.nextoff = 4096);
        }),
        one("nextoff leads beyond the end", LOST, |image| {
            image.change_infos(|info| info.geometry.nextoff = 1 << 40);
        }),
        one("an info block of version 2.0 at byte 0, damaged", FORCED, |image| {
            let [first, _] = image.infos(0).map(|offset| offset as usize);
            image.bytes.copy_within(first..first + 4096, 0);
            image.bytes[100] ^= 1;
        }),
    ]
}

/// The copies differ, which is put right; the flag then stays, unless forced.
const PENDING_ERROR: Ends = Ends { check: 2, careful: 1, forced: 1 };

fn later_arenas() -> Vec<Damage> {
    vec![
        two("first info block of arena 1 zeroed", CERTAIN, |image| image.wipe(image.infos(1)[0])),
        two("both info blocks of arena 1 zeroed", FORCED, |image| {
            for offset in image.infos(1) {
                image.wipe(offset);
            }
        }),
        two("both, and its flog", LOST, |image| {
            for offset in image.infos(1) {
                image.wipe(offset);
            }
            let flog = image.arenas[1].start + image.arenas[1].info.geometry.logoff;
            image.wipe(flog);
        }),
        two("arena 1 is of another BTT", LOST, |image| {
            for offset in image.infos(1) {
                image.change_info(offset, |block| block[16] ^= 1);
            }
        }),
        two("cut off behind arena 0", LOST, |image| {
            let end = image.arenas[1].start;
            image.bytes.truncate(end as usize);
        }),
        two("nextoff of arena 1 leads back to arena 0", FORCED, |image| {
            let FoundArena { start, mut info, .. } = image.arenas[1];
            info.geometry.nextoff = start.wrapping_neg();
            for offset in image.infos(1) {
                image.put(offset, &info.encode());
            }
        }),
    ]
}

fn map() -> Vec<Damage> {
    vec![
        one("an entry names a block that does not exist", CERTAIN, |image| {
            image.set_map(20, MapEntry::data(Block(image.blocks())));
        }),
        one("two such entries", FORCED, |image| {
            image.set_map(20, MapEntry(u32::MAX));
            image.set_map(21, MapEntry::data(Block(image.blocks())));
        }),
        one("two sectors have one block", FORCED, |image| image.set_map(20, image.map(21))),
        one("three sectors have one block", FORCED, |image| {
            image.set_map(20, image.map(22));
            image.set_map(21, image.map(22));
        }),
        one("two sectors have each other's block", FINE, |image| {
            let [one, other] = [20, 21].map(|lba| image.map(lba));
            image.set_map(20, other);
            image.set_map(21, one);
        }),
        one("a sector has the free block of a lane", FORCED, |image| {
            let (_, last) = image.last();
            image.set_map(100, MapEntry::data(last.old_block()));
        }),
        one("a block belongs to nobody", FORCED, |image| {
            image.set_map(100, MapEntry::zero(Block(101)));
        }),
        one("a page of the map zeroed, and the flog knows it all", PENDING, |image| {
            image.wipe(image.map_offset(0));
        }),
        one("a sector is marked as lost (E)", FINE, |image| {
            let block = image.map(20).block(Lba(20));
            image.set_map(20, MapEntry::error(block));
        }),
        one("a sector is zero (Z), and has its block", FINE, |image| {
            let block = image.map(20).block(Lba(20));
            image.set_map(20, MapEntry::zero(block));
        }),
        one("Z and a block that does not exist", CERTAIN, |image| {
            image.set_map(20, MapEntry::zero(Block(image.blocks())));
        }),
        one("no flags, and a block", FINE, |image| image.set_map(100, MapEntry(7))),
    ]
}

fn flog() -> Vec<Damage> {
    vec![
        one("an interrupted write", PENDING, |image| {
            let (_, last) = image.last();
            let entry = MapEntry::data(last.old_block());
            image.set_map(last.lba, entry);
        }),
        one("sequence numbers 2 and 2", CERTAIN, |image| {
            (0..2).for_each(|place| {
                let [lba, old, new, _] = image.entry(LANE, place);
                image.set_entry(LANE, place, [lba, old, new, 2]);
            });
        }),
        one("sequence numbers 0 and 3", CERTAIN, |image| {
            let [lba, old, new, _] = image.entry(LANE, 1);
            image.set_entry(LANE, 0, [0; 4]);
            image.set_entry(LANE, 1, [lba, old, new, 3]);
        }),
        one("a lane zeroed", CERTAIN, |image| {
            (0..4).for_each(|place| image.set_entry(LANE, place, [0; 4]));
        }),
        one("all lanes zeroed", CERTAIN, |image| {
            (0..256).for_each(|lane| {
                (0..4).for_each(|place| image.set_entry(lane, place, [0; 4]));
            });
        }),
        one("all lanes 0xff", CERTAIN, |image| {
            (0..256).for_each(|lane| {
                (0..4).for_each(|place| image.set_entry(lane, place, [u32::MAX; 4]));
            });
        }),
        one("a lane zeroed, and an entry of the map out of range", FORCED, |image| {
            (0..4).for_each(|place| image.set_entry(LANE, place, [0; 4]));
            image.set_map(20, MapEntry::data(Block(image.blocks())));
        }),
        one("a lane names a sector that does not exist", CERTAIN, |image| {
            let sectors = image.arenas[0].info.geometry.external_nlba;
            image.change_last(|entry| entry.lba = sectors);
        }),
        one("a lane's free block does not exist", CERTAIN, |image| {
            let blocks = image.blocks();
            image.change_last(|entry| entry.old_map = blocks);
        }),
        one("two lanes have one free block", CERTAIN, |image| {
            let [_, other, ..] = image.entry(200, 0);
            image.change_last(|entry| entry.old_map = other);
        }),
        one("two lanes are pending for one sector", FORCED, |image| {
            let (_, last) = image.last();
            image.set_map(last.lba, MapEntry::data(last.old_block()));
            let [_, free, ..] = image.entry(200, 0);
            image.set_entry(200, 1, [last.lba, last.old_map, free, 2]);
        }),
        one("writes pending for a sector chase each other", FORCED, |image| {
            let (_, last) = image.last();
            let block = last.new_block().0;
            image.set_entry(200, 1, [last.lba, block, last.old_map, 2]);
        }),
        one("a used lane replaces a block by itself", CERTAIN, |image| {
            image.change_last(|entry| entry.new_map = entry.old_map);
        }),
        one("bytes where no entry belongs", CERTAIN, |image| {
            image.set_entry(LANE, 3, [0x5555_5555; 4]);
        }),
        one("a lane in the old layout among others", CERTAIN, |image| {
            let second = image.entry(LANE, 1);
            image.set_entry(LANE, 1, [0; 4]);
            image.set_entry(LANE, 2, second);
        }),
        one("all lanes in the old layout", FINE, |image| {
            (0..256).for_each(|lane| {
                let second = image.entry(lane, 1);
                image.set_entry(lane, 1, [0; 4]);
                image.set_entry(lane, 2, second);
            });
        }),
        one("half an entry: a write that was not committed", FINE, |image| {
            image.set_entry(200, 1, [7, 7, 0, 0]);
        }),
        one("E in an old_map", FINE, |image| {
            image.change_last(|entry| entry.old_map |= 1 << 30);
        }),
    ]
}

fn file() -> Vec<Damage> {
    vec![
        one("cut off by 4 KiB", LOST, |image| image.bytes.truncate(image.bytes.len() - 4096)),
        one("cut off in half", LOST, |image| image.bytes.truncate(image.bytes.len() / 2)),
        one("cut off within a page", LOST, |image| image.bytes.truncate(image.bytes.len() - 100)),
        one("cut off to nothing", REFUSED, |image| image.bytes.clear()),
        one("grown by 1 MiB", FINE, |image| {
            let size = image.bytes.len() + (1 << 20);
            image.bytes.resize(size, 0);
        }),
        one("grown by 1 MiB, first info block lost", LOST, |image| {
            image.wipe(image.infos(0)[0]);
            let size = image.bytes.len() + (1 << 20);
            image.bytes.resize(size, 0);
        }),
        one("zeroed", LOST, |image| image.bytes.fill(0)),
        one("noise", LOST, |image| {
            let mut random = vhost_user_btt::pmem::simulated::Random::new(1);
            for word in image.bytes.chunks_mut(8) {
                word.copy_from_slice(&random.any().to_le_bytes()[..word.len()]);
            }
        }),
    ]
}
