//! What Linux makes of a disk that the power failed on, when it opens it (`btt_freelist_init` of
//! `drivers/nvdimm/btt.c`): one pass through the lanes, in their order.

use vhost_user_btt::btt::map::MapEntry;
use vhost_user_btt::btt::{find, lanes};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, Simulated};

/// The image after that pass. A write is completed if the map still names the block that its entry says
/// is replaced.
pub fn recovered(image: &Contents) -> Result<Contents, String> {
    let medium = Simulated::of(image.clone());
    let arenas = find(&medium, None).map_err(|error| error.to_string())?;
    for (number, arena) in arenas.iter().enumerate() {
        let (_, lanes) = lanes(&medium, number, arena).map_err(|error| error.to_string())?;
        for newest in lanes.iter().map(|lane| lane.newest) {
            if newest.old_block() == newest.new_block() {
                continue;
            }
            let offset = arena.start + arena.info.geometry.map_entry_offset(newest.lba());
            let entry = medium.load_u32(offset).map_err(|error| error.to_string())?;
            if MapEntry(entry).block(newest.lba()) == newest.old_block() {
                let completed = MapEntry::data(newest.new_block());
                medium.store_u32(offset, completed.0).map_err(|error| error.to_string())?;
            }
        }
    }
    Ok(medium.snapshot())
}
