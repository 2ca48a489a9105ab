//! What the fuzz targets have in common: images of BTTs, damage to them, and what has to be true of
//! an image whatever was done to it.
//!
//! A target is given bytes by libFuzzer, and reads them as a description of what to try (`Arbitrary`):
//! so nearly every input is something that comes past the first check, the signature or the sum of a
//! structure.

mod damage;
mod image;
mod repair;
mod verify;

pub use damage::{Damage, Place, Word, repair_sum};
pub use image::{Image, SECTORS, originals, tiny};
pub use repair::{HowToRepair, verify_repair};
pub use verify::{Action, verify};
