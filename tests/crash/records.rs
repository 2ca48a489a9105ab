//! The records of groups on a medium, as docs/atomic.md describes them: read here a second time, by other code
//! than the engine's.

use vhost_user_btt::btt::{FoundArena, find, lanes, mutant};
use vhost_user_btt::pmem::simulated::{Contents, Simulated};
use vhost_user_btt::pmem::{PersistentMemory, fletcher64};

const RECORD: usize = 64;
const MAGIC: &[u8; 8] = b"BTTgroup";

/// An image without its records of groups, for an implementation that does not look there.
pub struct Records {
    pub image: Contents,
    records: Vec<(u64, Vec<u8>)>,
}

/// Takes all that lies between blocks and maps out of an image.
pub fn take(image: &Contents) -> Records {
    let medium = Simulated::of(image.clone());
    let arenas = find(&medium, None).unwrap();
    let records = arenas.iter().map(|arena| {
        let (offset, bytes) = slack(&medium, arena);
        medium.write_bytes(offset, &vec![0; bytes.len()]).unwrap();
        (offset, bytes)
    });
    let records = records.collect();
    Records { image: medium.snapshot(), records }
}

impl Records {
    /// The image that the other implementation has left, with the records in it.
    pub fn put_back(&self, left: &Contents) -> Contents {
        let medium = Simulated::of(left.clone());
        for (offset, bytes) in &self.records {
            medium.write_bytes(*offset, bytes).unwrap();
        }
        medium.snapshot()
    }
}

fn slack(medium: &Simulated, arena: &FoundArena) -> (u64, Vec<u8>) {
    let geometry = arena.info.geometry;
    let offset = arena.start + geometry.mapoff - geometry.slack();
    let mut bytes = vec![0; geometry.slack() as usize];
    medium.read_bytes(offset, &mut bytes).unwrap();
    (offset, bytes)
}

/// Checks that no record has outlived its round: of the lanes that it names, none has an entry that is newer.
pub fn check(image: &Contents) -> Result<(), String> {
    mutant::activate(None);
    let medium = Simulated::of(image.clone());
    let arenas = find(&medium, None).map_err(|error| error.to_string())?;
    for (number, arena) in arenas.iter().enumerate() {
        let (offset, bytes) = slack(&medium, arena);
        let to_line = offset.next_multiple_of(RECORD as u64) - offset;
        let uuid = arena.info.uuid;
        let records = bytes.get(to_line as usize..).unwrap_or_default().chunks_exact(RECORD);
        let members: Vec<(u32, u32)> =
            records.flat_map(|line| members(line, uuid.as_bytes(), arena)).collect();
        if members.is_empty() {
            continue;
        }
        let (_, lanes) = lanes(&medium, number, arena).map_err(|error| error.to_string())?;
        for (lane, sequence) in members {
            let newest = lanes[lane as usize].newest.seq;
            if newest != sequence && newest % 3 + 1 != sequence {
                return Err(format!("lane {lane} has gone on, and is in a record still"));
            }
        }
    }
    Ok(())
}

/// The lanes that a line names, each with the number of its entry; none, if it is no record of this BTT.
fn members(line: &[u8], uuid: &[u8; 16], arena: &FoundArena) -> Vec<(u32, u32)> {
    let magic: [u8; 8] = std::array::from_fn(|at| MAGIC[at] ^ uuid[at]);
    let word = |at: usize| u64::from_le_bytes(line[8 * at..][..8].try_into().unwrap());
    let short = |at: usize| u32::from(u16::from_le_bytes([line[at], line[at + 1]]));
    if line[..8] != magic || word(7) != fletcher64(&line[..56]) {
        return Vec::new();
    }
    let (stride, set, first, count) = (short(12), short(14), short(16), short(18));
    let of_set = (arena.info.geometry.nfree - set).div_ceil(stride);
    let sequences = u128::from(word(4)) | u128::from(word(5)) << 64;
    let member = |offset: u32| {
        let member_lane = set + (first + offset) % of_set * stride;
        (member_lane, (sequences >> (2 * offset)) as u32 & 3)
    };
    (0..count).map(member).filter(|(_, sequence)| *sequence != 0).collect()
}
