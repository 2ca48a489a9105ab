//! Whole images with damage anywhere, and what is done to them afterwards.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vhost_user_btt::btt::Version;
use vhost_user_btt_fuzz::{Action, Damage, originals, verify};

#[derive(Debug, Arbitrary)]
struct Input {
    original: u8,
    version: Option<bool>,
    damages: Vec<Damage>,
    actions: Vec<Action>,
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
});
