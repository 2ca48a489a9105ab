//! Which seeds a suite tries, what to do when one fails, and what is said in the end.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;

/// The seeds to try: as many as `CRASH_SEEDS` says, or `usually`, from `CRASH_SEED` on.
pub fn seeds(usually: u64) -> Range<u64> {
    let first = number("CRASH_SEED", 1);
    first..first + number("CRASH_SEEDS", usually)
}

/// The number that an environment variable holds, or `usually` if it is not set.
pub fn number(name: &str, usually: u64) -> u64 {
    std::env::var(name).map_or(usually, |value| {
        value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}"))
    })
}

/// Says, if the test fails while this lives, how to try its seed again.
pub struct Replay {
    pub seed: u64,
    /// The command, from `cargo` on.
    pub command: &'static str,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { seed, command } = self;
            eprintln!("to try it again: CRASH_SEED={seed} CRASH_SEEDS=1 {command}");
        }
    }
}

/// Prints a line of figures, and adds it to the file that `FIGURES` names.
pub fn figures(line: &str) {
    let line = format!("figures: {line}");
    println!("{line}");
    if let Some(path) = std::env::var_os("FIGURES") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
