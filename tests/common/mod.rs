//! What several test targets need.

#![allow(dead_code, reason = "no target needs all of it")]

pub mod daemon;
pub mod driver;
pub mod fixture;
pub mod frontend;
