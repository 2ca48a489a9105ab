//! The image that every model begins with: an arena of a few dozen sectors, all of them written.

use uuid::Uuid;
use vhost_user_btt::btt::flog::FlogEntry;
use vhost_user_btt::btt::map::MapEntry;
use vhost_user_btt::btt::{
    Block, Geometry, INFO_SIZE, InfoBlock, LaneIndex, Lba, LbaSize, Version,
};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::Simulated;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Sectors of the disk: the map entries of 0 to 15 share a lock, those of 16 to 31 share another.
pub const SECTORS: u32 = 32;

/// The word that a sector consists of before anybody has written it.
pub fn initial(sector: u32) -> u64 {
    0x1000 + u64::from(sector)
}

/// A sector that consists of one word.
pub fn sector(word: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes.as_chunks_mut().0.fill(word.to_le_bytes());
    bytes
}

/// The layout of the arena, which is smaller than any that is created.
pub fn geometry(lanes: u32) -> Geometry {
    let lba_size = LbaSize::new(SECTOR as u32).unwrap();
    let internal_nlba = SECTORS + lanes;
    let mapoff = (INFO_SIZE + u64::from(internal_nlba) * SECTOR as u64).next_multiple_of(INFO_SIZE);
    Geometry {
        lba_size,
        internal_lbasize: lba_size.internal(),
        external_nlba: SECTORS,
        internal_nlba,
        nfree: lanes,
        nextoff: 0,
        dataoff: INFO_SIZE,
        mapoff,
        logoff: mapoff + INFO_SIZE,
        info2off: mapoff + 2 * INFO_SIZE,
    }
}

/// The bytes of a disk with `lanes` lanes.
pub fn image(lanes: u32) -> Vec<u8> {
    let geometry = geometry(lanes);
    let medium = Simulated::new(geometry.size());
    for number in 0..SECTORS {
        let (lba, block) = (Lba(number), Block(number));
        medium.store_u32(geometry.map_entry_offset(lba), MapEntry::data(block).0).unwrap();
        medium.write_bytes(geometry.block_offset(block), &sector(initial(number))).unwrap();
    }
    for lane in (0..lanes).map(LaneIndex) {
        let [place, commit] = FlogEntry::initial(lane, SECTORS).halves();
        medium.store_u64(geometry.flog_offset(lane), place).unwrap();
        medium.store_u64(geometry.flog_offset(lane) + 8, commit).unwrap();
    }
    let (uuid, parent_uuid) = (Uuid::max(), Uuid::nil());
    let info = InfoBlock { uuid, parent_uuid, error: false, version: Version::V2_0, geometry };
    info.write(&medium, geometry.info2off).unwrap();
    info.write(&medium, 0).unwrap();
    medium.contents()
}
