//! Recovery as Linux and PMDK do it: one pass over the lanes, in their order.
//!
//! What is asked of each lane is from `btt_freelist_init` in `drivers/nvdimm/btt.c`: is the sector of its newest
//! entry mapped to the block that the entry replaces?

use vhost_user_btt::btt::map::MapEntry;
use vhost_user_btt::btt::{find, lanes};
use vhost_user_btt::pmem::PersistentMemory;
use vhost_user_btt::pmem::simulated::{Contents, Simulated};

/// The image, recovered.
pub fn recover(image: &Contents) -> Result<Contents, String> {
    let medium = Simulated::of(image.clone());
    let arenas = find(&medium, None).map_err(|error| error.to_string())?;
    for (number, arena) in arenas.iter().enumerate() {
        let (_, lanes) = lanes(&medium, number, arena).map_err(|error| error.to_string())?;
        for entry in lanes.iter().map(|lane| lane.newest) {
            let (lba, old, new) = (entry.lba(), entry.old_block(), entry.new_block());
            let offset = arena.start + arena.info.geometry.map_entry_offset(lba);
            let mapped = medium.load_u32(offset).map_err(|error| error.to_string())?;
            let mapped = MapEntry(mapped).block(lba);
            if old != new && mapped != new && mapped == old {
                let entry = MapEntry::data(new).0;
                medium.store_u32(offset, entry).map_err(|error| error.to_string())?;
            }
        }
    }
    Ok(medium.snapshot())
}
