//! `powercut` on raw images: what a failure leaves, what is recorded, and which states of a recording fail a check.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod exhaustive;
mod failures;
mod foreign;
mod format;
mod known_bugs;
mod recording;
mod setup;
