//! Images to be damaged: small, since what is small is tried often.

use std::sync::{Arc, LazyLock};

use uuid::Uuid;
use vhost_user_btt::btt::flog::FlogEntry;
use vhost_user_btt::btt::map::MapEntry;
use vhost_user_btt::btt::{
    ARENA_MAX_SIZE, ARENA_MIN_SIZE, Block, Btt, CreateOptions, FLOG_PAIR_SIZE, Geometry, INFO_SIZE,
    InfoBlock, LaneIndex, Lba, LbaSize, NeverWritten, OpenOptions, Version, create, find,
};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, Simulated};
use vm_memory::VolatileSlice;

/// Sectors of an arena of [`tiny`].
pub const SECTORS: u32 = 40;

/// An image of a BTT.
#[derive(Debug, Clone)]
pub struct Image {
    /// All bytes.
    pub contents: Contents,
    /// Where its arenas start, and their layouts.
    pub arenas: Vec<(u64, Geometry)>,
}

/// An image of arenas with [`SECTORS`] sectors each, which were never written.
#[must_use]
pub fn tiny(lba_size: LbaSize, version: Version, lanes: u32, arenas: u64) -> Image {
    let medium = Simulated::new(version.first_arena() + arenas * ARENA_MIN_SIZE);
    let internal_nlba = SECTORS + lanes;
    let data = u64::from(internal_nlba) * u64::from(lba_size.internal());
    let mapoff = (INFO_SIZE + data).next_multiple_of(INFO_SIZE);
    let log = (u64::from(lanes) * FLOG_PAIR_SIZE).next_multiple_of(INFO_SIZE);
    let places = (0..arenas).map(|number| {
        let geometry = Geometry {
            lba_size,
            internal_lbasize: lba_size.internal(),
            external_nlba: SECTORS,
            internal_nlba,
            nfree: lanes,
            nextoff: if number + 1 < arenas { ARENA_MIN_SIZE } else { 0 },
            dataoff: INFO_SIZE,
            mapoff,
            logoff: mapoff + INFO_SIZE,
            info2off: mapoff + INFO_SIZE + log,
        };
        (version.first_arena() + number * ARENA_MIN_SIZE, geometry)
    });
    let places: Vec<(u64, Geometry)> = places.collect();
    for (start, geometry) in &places {
        for lane in (0..lanes).map(LaneIndex) {
            let [place, commit] = FlogEntry::initial(lane, SECTORS).halves();
            let offset = start + geometry.flog_offset(lane);
            medium.store_u64(offset, place).expect("inside the medium");
            medium.store_u64(offset + 8, commit).expect("inside the medium");
        }
        let (uuid, parent_uuid) = (Uuid::max(), Uuid::nil());
        let info = InfoBlock { uuid, parent_uuid, error: false, version, geometry: *geometry };
        info.write(&medium, start + geometry.info2off).expect("inside the medium");
        info.write(&medium, *start).expect("inside the medium");
    }
    Image { contents: medium.snapshot(), arenas: places }
}

/// Images of either version, with one arena and with two, small ones and such as everybody makes;
/// fresh and used, one of them with writes to be completed, and one with a flog of the old layout.
#[must_use]
pub fn originals() -> &'static [Image] {
    static ORIGINALS: LazyLock<Vec<Image>> = LazyLock::new(|| {
        let of = |bytes, version, lanes, arenas| {
            tiny(LbaSize::new(bytes).expect("one of the seven"), version, lanes, arenas)
        };
        let used = of(512, Version::V2_0, 4, 1).used();
        vec![
            of(512, Version::V2_0, 1, 1),
            used.pending(),
            used.with_old_flog(),
            used,
            of(4096, Version::V1_1, 3, 1).used(),
            of(4104, Version::V1_1, 2, 2).used(),
            of(520, Version::V2_0, 6, 3).used().pending(),
            created().used(),
        ]
    });
    &ORIGINALS
}

/// As everybody makes them, with 256 lanes.
fn created() -> Image {
    let medium = Simulated::new(ARENA_MIN_SIZE + INFO_SIZE);
    let options = CreateOptions {
        lba_size: LbaSize::new(4096).expect("one of the seven"),
        version: Version::V1_1,
        uuid: Uuid::from_u128(1),
        parent_uuid: Uuid::from_u128(2),
        arena_size: ARENA_MAX_SIZE,
    };
    create(&medium, &options, |_, _| {}).expect("the medium is large enough");
    Image::of(&medium)
}

impl Image {
    fn of(medium: &Simulated) -> Image {
        let found = find(medium, None).expect("it was just made");
        let arenas = found.iter().map(|arena| (arena.start, arena.info.geometry)).collect();
        Image { contents: medium.snapshot(), arenas }
    }

    /// After some writes and trims in each arena, and with a sector that cannot be read.
    fn used(&self) -> Image {
        let medium = Arc::new(Simulated::of(self.contents.clone()));
        for (number, (start, geometry)) in self.arenas.iter().enumerate() {
            self.write(&medium, number, 0..60);
            let lost = start + geometry.map_entry_offset(Lba(5));
            let entry = MapEntry(medium.load_u32(lost).expect("inside the medium"));
            let block = entry.block(Lba(5));
            medium.store_u32(lost, MapEntry::error(block).0).expect("inside the medium");
        }
        Image { contents: medium.snapshot(), arenas: self.arenas.clone() }
    }

    /// Writes and trims sectors of an arena, each `step` in another place.
    fn write(&self, medium: &Arc<Simulated>, arena: usize, steps: std::ops::Range<u32>) {
        let options =
            OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 0 };
        let (btt, mut queues) = Btt::open(Arc::clone(medium), &options).expect("it is intact");
        let before = self.arenas[..arena].iter();
        let first: u64 = before.map(|(_, geometry)| u64::from(geometry.external_nlba)).sum();
        let mut bytes = vec![0; btt.sector_size() as usize];
        let mut batch = queues[0].batch();
        for step in steps {
            bytes.fill(step as u8);
            let sector = first + u64::from(step * step % SECTORS);
            let written = batch.write(sector, &VolatileSlice::from(&mut bytes[..]), 0);
            written.expect("the sector exists");
        }
        batch.trim(first + 30, 3, NeverWritten::Zero, 0).expect("the sectors exist");
    }

    /// Without the map entries of the last writes.
    fn pending(&self) -> Image {
        let medium = Arc::new(Simulated::of(self.contents.clone()));
        for number in 0..self.arenas.len() {
            self.write(&medium, number, 7..9);
        }
        for (start, geometry) in &self.arenas {
            let map = start + geometry.mapoff;
            let mut entries = vec![0; SECTORS as usize * size_of::<u32>()];
            self.contents.read(map, &mut entries);
            medium.write_bytes(map, &entries).expect("inside the medium");
        }
        Image { contents: medium.snapshot(), arenas: self.arenas.clone() }
    }

    /// With the second entries of its lanes where Linux before 4.15 had them.
    fn with_old_flog(&self) -> Image {
        let mut contents = self.contents.clone();
        for (start, geometry) in &self.arenas {
            for lane in (0..geometry.nfree).map(LaneIndex) {
                let second = start + geometry.flog_offset(lane) + 16;
                let mut entry = [0; 16];
                contents.read(second, &mut entry);
                contents.write(second + 16, &entry);
                contents.zero(second, 16);
            }
        }
        Image { contents, arenas: self.arenas.clone() }
    }

    /// Offset of a block's bytes.
    #[must_use]
    pub fn block_offset(&self, arena: usize, block: Block) -> u64 {
        let (start, geometry) = self.arenas[arena];
        start + geometry.block_offset(block)
    }
}
