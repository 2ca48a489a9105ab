//! What several test targets need.

#![allow(dead_code, reason = "no target needs all of it")]

pub mod fixture;
