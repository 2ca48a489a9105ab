//! Whole images with damage anywhere: what is done to them afterwards, and their repair.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vhost_user_btt::btt::Version;
use vhost_user_btt_fuzz::{Action, Damage, HowToRepair, originals, verify, verify_repair};

#[derive(Debug, Arbitrary)]
struct Input {
    original: u8,
    version: Option<bool>,
    damages: Vec<Damage>,
    actions: Vec<Action>,
    repair: Option<HowToRepair>,
}

fuzz_target!(|input: Input| {
    let originals = originals();
    let image = &originals[usize::from(input.original) % originals.len()];
    let mut contents = image.contents.clone();
    for damage in input.damages.iter().take(64) {
        damage.apply(image, &mut contents);
    }
    let version = input.version.map(|old| if old { Version::V1_1 } else { Version::V2_0 });
    verify(&contents, version, &input.actions);
    input.repair.into_iter().for_each(|how| verify_repair(&contents, version, how));
});
