//! The power fails while a guest stores to its persistent memory, or to a window of its disk: what it has
//! flushed is there, and of the rest any words of eight bytes.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vhost_user_btt::pmem::simulated::Random;

use crate::common::daemon::nvdimmctl_ok;
use crate::common::frontend::{OK, T_FLUSH};
use crate::common::seeds::{Replay, figures, seeds};
use crate::setup::{Guest, M, Place, send, text};

const REPLAY: &str = "cargo test --test windows lost_stores";
/// Pages of the device that are stored to, from its start on and evenly: of both extents.
const PAGES: u64 = 128;
const PAGE: usize = 4096;
/// Bytes from one page to the next.
const DISTANCE: u64 = 8 * M / PAGES;
/// Stores of a guest, each of a page or of a part of one.
const STORES: u64 = 300;

/// What the guest shows its memory as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pmem,
    Window,
}

/// What was left of words that were stored to and not flushed, and of all others.
#[derive(Debug, Default, Clone, Copy)]
struct Left {
    kept: u64,
    lost: u64,
    /// Neither what was flushed last, nor what was stored last.
    wrong: u64,
}

/// The words of a page.
type Words = [u64; PAGE / 8];

/// What the guest has stored, and what of that it has flushed, page by page.
struct Model {
    stored: Vec<Words>,
    flushed: Vec<Words>,
}

impl Model {
    fn new() -> Model {
        let zeroes = vec![[0; PAGE / 8]; PAGES as usize];
        Model { stored: zeroes.clone(), flushed: zeroes }
    }

    /// Stores `value` somewhere, as the guest does.
    fn store(&mut self, guest: &Guest, random: &mut Random, value: u64) {
        let page = random.within(0..PAGES);
        let (first, last) = (random.within(0..512), random.within(0..512));
        let words = first.min(last) as usize..=first.max(last) as usize;
        let bytes = value.to_le_bytes().repeat(words.clone().count());
        guest.regions.write(0, page * DISTANCE + 8 * *words.start() as u64, &bytes);
        self.stored[page as usize][words].fill(value);
    }

    /// What became of it, by what is in the file.
    fn judge(&self, place: &Place) -> Left {
        let mut left = Left::default();
        let pages = (0..).step_by(DISTANCE as usize).zip(self.stored.iter().zip(&self.flushed));
        for (offset, (stored, flushed)) in pages {
            let found = place.in_file("data", offset, PAGE);
            let found = found.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            for (found, (stored, flushed)) in found.zip(stored.iter().zip(flushed)) {
                match (found == *stored, found == *flushed) {
                    (true, true) => {}
                    (true, false) => left.kept += 1,
                    (false, true) => left.lost += 1,
                    (false, false) => left.wrong += 1,
                }
            }
        }
        left
    }
}

fn flush(guest: &mut Guest, kind: Kind) {
    match kind {
        Kind::Pmem => assert_eq!(send(&mut guest.driver, 0), (0, 4)),
        Kind::Window => assert_eq!(guest.driver.request(0, T_FLUSH, 0, &[], 0).0, OK),
    }
}

/// Lets the power fail under a guest; `more` follows the seed in the option.
fn fail_under_stores(seed: u64, more: &str) -> Left {
    let kind = [Kind::Pmem, Kind::Window][seed as usize % 2];
    let (place, mut random) = (Place::new(), Random::new(seed));
    let failure = format!("seed={seed}{more}");
    let mut daemon = match kind {
        Kind::Pmem => {
            let socket = format!("--pmem=socket={},device=data", place.socket("data").display());
            place.begin_failing("data", &failure, &[socket])
        }
        Kind::Window => {
            let socket = format!("--socket-path={}", place.socket("disk").display());
            let arguments = [socket, "--namespace=disk".into(), "--window=data".into()];
            place.begin_failing("disk", &failure, &arguments)
        }
    };
    daemon.wait_for_log("serving");
    let mut model = Model::new();
    let mut guest = Guest::start(&daemon);
    let flushes = random.within(1..20);
    for value in 1..=STORES {
        if value == STORES / 2 {
            // Another frontend finds what the first has left, and that is as durable as before.
            drop(guest);
            guest = Guest::start(&daemon);
        }
        guest.regions.wait_for(0, &[(0, 4 * M), (4 * M, 4 * M)]);
        model.store(&guest, &mut random, value);
        if random.one_in(flushes) {
            flush(&mut guest, kind);
            model.flushed.clone_from(&model.stored);
        }
    }
    kill(Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGUSR1).unwrap();
    daemon.wait();
    assert!(daemon.log().contains("power failure: "), "{}", daemon.log());
    drop(guest);
    nvdimmctl_ok(&["dax", "check", text(&place.file)]);
    model.judge(&place)
}

#[test]
fn what_a_guest_has_flushed_survives_a_power_failure_and_other_stores_may_be_lost() {
    let (begun, seeds) = (Instant::now(), seeds(8));
    let count = seeds.end - seeds.start;
    // By kind.
    let (mut kept, mut lost) = ([0; 2], [0; 2]);
    for seed in seeds {
        let _replay = Replay { seed, command: REPLAY };
        let left = fail_under_stores(seed, "");
        assert_eq!(left.wrong, 0, "{left:?}");
        kept[seed as usize % 2] += left.kept;
        lost[seed as usize % 2] += left.lost;
    }
    let is_looked_at = kept.iter().chain(&lost).all(|words| *words > 0);
    assert!(count < 8 || is_looked_at, "{kept:?} words were kept, {lost:?} lost");
    let (kept, lost): (u64, u64) = (kept.iter().sum(), lost.iter().sum());
    let seconds = begun.elapsed().as_secs();
    figures(&format!(
        "power-fail-windows seeds={count} words-lost={lost} words-kept={kept} violations=0 \
         seconds={seconds}"
    ));
}

/// The control experiment: the daemon answers flushes, and nothing is durable by them.
#[test]
fn flushes_that_make_nothing_durable_are_noticed() {
    let wrong = |seed| fail_under_stores(seed, ",lose-flushes").wrong;
    assert!((1..20).any(|seed| wrong(seed) > 0), "no flushed word was lost");
}
