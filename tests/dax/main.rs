//! Namespaces in dax mode and their devices, as an administrator makes and destroys them.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod devices;
mod export;
mod namespaces;
mod setup;
