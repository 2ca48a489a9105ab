//! Damage of each kind, to the small image.

use super::*;

/// Some damage, and what becomes of it.
pub(super) struct Damage {
    pub name: &'static str,
    /// Done to the image.
    pub inflict: fn(&Image),
    /// What a repair comes to, carefully and by force.
    pub verdicts: [Verdict; 2],
    /// The sectors that are lost by force, or found.
    pub changed: &'static [u32],
}

const CLEAN: [Verdict; 2] = [Verdict::Clean, Verdict::Clean];
const FORCED: [Verdict; 2] = [Verdict::Problems, Verdict::Clean];

pub(super) fn all() -> Vec<Damage> {
    [to_info_blocks(), to_pending_writes(), to_the_map(), to_the_flog()]
        .into_iter()
        .flatten()
        .collect()
}

fn damage(
    name: &'static str,
    verdicts: [Verdict; 2],
    changed: &'static [u32],
    inflict: fn(&Image),
) -> Damage {
    Damage { name, inflict, verdicts, changed }
}

fn to_info_blocks() -> Vec<Damage> {
    vec![
        damage("nothing", CLEAN, &[], |_| {}),
        damage("no primary", CLEAN, &[], |image| {
            image.medium.zero(image.primary_offset(), PAGE).unwrap();
        }),
        damage("no backup", CLEAN, &[], |image| {
            image.medium.zero(image.backup_offset(), PAGE).unwrap();
        }),
        damage("ERROR in the backup alone", CLEAN, &[], |image| {
            image.change_info(image.backup_offset(), |info| info.error = true);
        }),
        damage("ERROR", CLEAN, &[], |image| image.change_infos(|info| info.error = true)),
        damage("another parent", FORCED, &[], |image| {
            image.change_infos(|info| info.parent_uuid = Uuid::from_u128(9));
        }),
    ]
}

fn to_pending_writes() -> Vec<Damage> {
    vec![
        damage("a pending write", CLEAN, &[], |image| image.set_map(2, MapEntry(0))),
        damage("pending writes one behind another", CLEAN, &[], |image| {
            image.set_map(0, MapEntry(0));
            image.set_entry(1, 0, [0, 60, 61, 3]);
            image.set_entry(1, 1, [1, 1, 61, 2]);
            image.set_map(1, MapEntry(0));
        }),
        damage("two pending for a sector", FORCED, &[], |image| {
            image.set_map(0, MapEntry(0));
            image.set_map(1, MapEntry(0));
            image.set_entry(1, 1, [0, 0, 61, 2]);
        }),
        damage("writes that chase each other", FORCED, &[0], |image| {
            image.set_entry(1, 0, [0, 60, 0, 3]);
            image.set_entry(1, 1, [1, 1, 61, 2]);
            image.set_map(0, MapEntry::data(Block(60)));
        }),
    ]
}

fn to_the_map() -> Vec<Damage> {
    vec![
        damage("an entry beyond the last block", CLEAN, &[], |image| {
            image.set_map(9, MapEntry::data(Block(SECTORS + LANES)));
        }),
        damage("two entries beyond the last block", FORCED, &[9, 10], |image| {
            image.set_map(9, MapEntry::data(Block(SECTORS + LANES)));
            image.set_map(10, MapEntry::data(Block(0x3fff_ffff)));
        }),
        damage("a block of two sectors", FORCED, &[4, 9], |image| {
            image.set_map(9, MapEntry::data(Block(4)));
        }),
        damage("a block of four sectors", FORCED, &[4, 9, 10, 11], |image| {
            (9..12).for_each(|lba| image.set_map(lba, MapEntry::data(Block(4))));
        }),
        damage("two sectors that have each other's block", CLEAN, &[], |image| {
            image.set_map(9, MapEntry::data(Block(10)));
            image.set_map(10, MapEntry::data(Block(9)));
        }),
        damage("a block of a sector and a lane", FORCED, &[9], |image| {
            image.set_map(9, MapEntry::data(Block(2)));
        }),
    ]
}

fn to_the_flog() -> Vec<Damage> {
    vec![
        damage("a block of two lanes", CLEAN, &[], |image| {
            image.set_entry(3, 1, [3, 2, 63, 2]);
        }),
        damage("an illegal pair", CLEAN, &[], |image| image.set_entry(2, 0, [2, 62, 62, 2])),
        damage("a flog of zeroes", CLEAN, &[], |image| {
            image.medium.zero(image.lane_offset(0), 256).unwrap();
        }),
        damage("an illegal pair and an entry beyond", FORCED, &[9], |image| {
            image.set_entry(2, 0, [2, 62, 62, 2]);
            image.set_map(9, MapEntry::data(Block(SECTORS + LANES)));
        }),
        damage("everything at once", FORCED, &[4, 9, 10, 11], |image| {
            image.medium.zero(image.primary_offset(), PAGE).unwrap();
            image.set_map(2, MapEntry(0));
            image.set_entry(3, 0, [2, 62, 62, 2]);
            image.set_entry(1, 3, [1, 1, 1, 1]);
            image.set_map(4, MapEntry::data(Block(SECTORS + LANES)));
            image.set_map(9, MapEntry::data(Block(10)));
            image.set_map(11, MapEntry::zero(Block(1)));
        }),
        damage("a lane that names no sector", CLEAN, &[], |image| {
            image.set_entry(2, 1, [SECTORS, 2, 62, 2]);
        }),
        damage("a lane that names no block", CLEAN, &[], |image| {
            image.set_entry(2, 1, [2, SECTORS + LANES, 62, 2]);
        }),
        damage("a damaged lane with a sector's block", CLEAN, &[], |image| {
            image.set_entry(2, 1, [SECTORS, 4, 62, 2]);
        }),
        damage("a lane that replaces a block by itself", CLEAN, &[], |image| {
            image.set_entry(2, 0, [2, 2, 2, 3]);
        }),
        damage("an entry in the fourth place", CLEAN, &[], |image| {
            image.set_entry(1, 3, [7, 7, 7, 1]);
        }),
        damage("half an entry of noise", CLEAN, &[], |image| {
            image.set_entry(1, 0, [7, 7, 7, 1]);
            image.set_entry(1, 0, [0, 61, 61, 1]);
            image.set_entry(1, 2, [7, 7, 7, 0]);
        }),
        damage("a lane in the old layout", CLEAN, &[], |image| {
            image.set_entry(3, 1, [0; 4]);
            image.set_entry(3, 2, [3, 3, 63, 2]);
        }),
        damage("E in an old_map", CLEAN, &[], |image| {
            image.set_entry(3, 1, [3, MapEntry::error(Block(3)).0, 63, 2]);
        }),
        damage("a block without flags", CLEAN, &[], |image| image.set_map(9, MapEntry(33))),
    ]
}
