//! Flogs and maps of any contents, in an arena that is otherwise whole: what the engine recovers,
//! what the checker says of it, and how it is repaired.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vhost_user_btt::btt::{LaneIndex, Lba, LbaSize, Version};
use vhost_user_btt_fuzz::{Action, HowToRepair, SECTORS, Word, tiny, verify, verify_repair};

#[derive(Debug, Arbitrary)]
struct Input {
    lanes: u8,
    /// The four places of each lane: sector, old and new block, sequence number.
    flog: Vec<[Option<[Word; 4]>; 4]>,
    map: Vec<Word>,
    actions: Vec<Action>,
    repair: Option<HowToRepair>,
}

fuzz_target!(|input: Input| {
    let lanes = u32::from(input.lanes) % 16 + 1;
    let lba_size = LbaSize::new(512).expect("one of the seven");
    let image = tiny(lba_size, Version::V2_0, lanes, 1);
    let mut contents = image.contents.clone();
    let (start, geometry) = image.arenas[0];
    let replace = |offset: u64, word: &Word, contents: &mut _| {
        let contents: &mut vhost_user_btt::pmem::simulated::Contents = contents;
        let load = |offset: u64| {
            let mut bytes = [0; 4];
            contents.read(offset, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let other = |distance: i8| load(offset.saturating_add_signed(4 * i64::from(distance)));
        let word = word.apply(load(offset), other);
        contents.write(offset, &word.to_le_bytes());
    };
    for (places, lane) in input.flog.iter().zip((0..lanes).map(LaneIndex)) {
        let lane = start + geometry.flog_offset(lane);
        for (entry, place) in places.iter().zip(0..) {
            let words = entry.iter().flatten().zip(0..);
            words.for_each(|(word, index)| {
                replace(lane + place * 16 + index * 4, word, &mut contents);
            });
        }
    }
    for (word, lba) in input.map.iter().zip((0..SECTORS).map(Lba)) {
        replace(start + geometry.map_entry_offset(lba), word, &mut contents);
    }
    verify(&contents, None, &input.actions);
    input.repair.into_iter().for_each(|how| verify_repair(&contents, None, how));
});
