//! Sectors of a vhost-user disk that is served in the same guest.

use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::eventfd::EventFd;
use vhost_user_btt::pmem::simulated::Random;

use super::common::ledger::Ledger;
use super::common::load::{Load, Shape};
use super::common::sectors::{Found, read};
use super::say;

/// Sectors under load: few, so that they are overwritten all the time.
const SECTORS: usize = 128;

/// A sector has one write in flight at a time: its versions become durable in their order.
fn shape(sector_size: u64) -> Shape {
    Shape {
        sector_size: sector_size as usize,
        queues: 2,
        zeroes: false,
        overlap: false,
        reads: true,
    }
}

/// Writes sectors of versions from `version` on for ever, and says `acknowledged SECTOR:VERSION...`.
pub fn write(socket: &Path, sector_size: u64, version: u64, seed: u64) {
    let mut ledger = Ledger::new(0, SECTORS);
    ledger.begin_with(version);
    let mut load = Load::connect(socket, shape(sector_size), &mut ledger);
    load.adopt_all();
    load.on_acknowledged = Box::new(|tickets| {
        let words: Vec<String> =
            tickets.iter().map(|ticket| format!("{}:{}", ticket.sector, ticket.version)).collect();
        say(&format!("acknowledged {}", words.join(" ")));
    });
    let never = EventFd::new().unwrap();
    load.run_until(never.as_fd(), &mut Random::new(seed));
}

/// Says of each sector what it is: `sector NUMBER VERSION`, or `torn NUMBER`.
pub fn find(socket: &Path, sector_size: u64) {
    let mut ledger = Ledger::new(0, SECTORS);
    let mut load = Load::connect(socket, shape(sector_size), &mut ledger);
    load.read_all(&mut |sector, data| match read(sector, data) {
        Found::Whole { sector: of, version } if of == sector => {
            say(&format!("sector {sector} {version}"));
        }
        Found::Whole { sector: of, .. } => say(&format!("foreign {sector} {of}")),
        Found::Torn => say(&format!("torn {sector}")),
    });
}
