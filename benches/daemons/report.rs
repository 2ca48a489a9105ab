//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cell::Cell;
use crate::client::Sample;
use crate::peer::Kind;

/// The medians of a cell on one daemon.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub cell: Cell,
    pub daemon: Kind,
    /// Requests per second: median, least and most of all rounds.
    pub rate: f64,
    pub rate_least: f64,
    pub rate_most: f64,
    /// Latencies in microseconds: medians of the rounds' percentiles.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Microseconds of the daemon's CPU time per request.
    pub cpu: f64,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub cpu_model: String,
    pub kernel: String,
    pub storage_daemon: String,
    pub rounds: u32,
    pub milliseconds: u64,
    pub mebibytes: u64,
    /// Load of the machine when the run began: processes that wait for a CPU besides this one.
    pub load: f64,
    /// What the kernel says of huge pages of tmpfs.
    pub shmem_huge_pages: String,
    pub measured: Vec<Measured>,
}

impl Measured {
    pub fn new(cell: Cell, daemon: Kind, samples: &[Sample]) -> Measured {
        let over = |figure: &dyn Fn(&Sample) -> f64| {
            let mut figures: Vec<f64> = samples.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let median = |figures: Vec<f64>| figures[figures.len() / 2];
        let percentile = |per_mille: usize| {
            median(over(&|sample| {
                let last = sample.latencies.len() - 1;
                f64::from(sample.latencies[last * per_mille / 1000]) / 1000.0
            }))
        };
        let rates = over(&|sample| sample.requests as f64 / sample.elapsed.as_secs_f64());
        Measured {
            cell,
            daemon,
            rate_least: rates[0],
            rate_most: rates[rates.len() - 1],
            rate: median(rates),
            p50: percentile(500),
            p99: percentile(990),
            p999: percentile(999),
            cpu: median(over(&|sample| sample.cpu.as_secs_f64() * 1e6 / sample.requests as f64)),
        }
    }
}

impl Report {
    pub fn new(rounds: u32, milliseconds: u64, mebibytes: u64) -> Report {
        let version = std::process::Command::new("qemu-storage-daemon").arg("--version").output();
        let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        Report {
            cpu_model: cpu_model(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| String::new(), |text| first_line(&text)),
            storage_daemon: version.map_or_else(
                |_| String::new(),
                |it| first_line(&String::from_utf8_lossy(&it.stdout)),
            ),
            rounds,
            milliseconds,
            mebibytes,
            load: load(),
            shmem_huge_pages: chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            measured: Vec::new(),
        }
    }

    pub fn add(&mut self, measured: Measured) {
        self.measured.push(measured);
    }

    /// Cells that were measured, in order.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        let first = |measured: &&Measured| measured.daemon == Kind::reference(measured.cell.medium);
        self.measured.iter().filter(first).map(|measured| measured.cell)
    }

    /// What was measured of a cell on a daemon.
    pub fn of(&self, cell: Cell, daemon: &Kind) -> Option<&Measured> {
        self.measured.iter().find(|it| it.cell == cell && it.daemon == *daemon)
    }

    /// The rate of a cell on a daemon, in terms of qemu-storage-daemon's.
    pub fn rate_ratio(&self, cell: Cell, daemon: &Kind) -> Option<f64> {
        Some(self.of(cell, daemon)?.rate / self.of(cell, &Kind::reference(cell.medium))?.rate)
    }

    /// Name of the file of the results: those of each model of CPU have their own.
    pub fn file_name(&self) -> String {
        let model = self.cpu_model.split_once(" × ").map_or(&*self.cpu_model, |(_, model)| model);
        let words = model.split(|letter: char| !letter.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        format!("results-{}.json", words.join("-").to_lowercase())
    }

    /// Where these figures come from.
    pub fn origin(&self) -> String {
        let Report { cpu_model, kernel, storage_daemon, rounds, milliseconds, mebibytes, .. } =
            self;
        let (load, pages) = (self.load, &self.shmem_huge_pages);
        format!(
            "{cpu_model}, Linux {kernel}, {storage_daemon}; disks of {mebibytes} MiB on tmpfs (pages of 2 MiB: \
             {pages}, and as the daemon asks for them); medians of {rounds} rounds of {milliseconds} ms; load \
             of the machine before: {load:.1}"
        )
    }

    /// All cells as a table in Markdown.
    pub fn table(&self) -> String {
        let mut table = format!("{}\n\n", self.origin());
        table.push_str(
            "| cell | daemon | thousand requests/s (least–most) | × QSD | p50 µs | p99 µs | p99.9 µs | CPU µs/request |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for cell in self.cells() {
            for measured in self.measured.iter().filter(|measured| measured.cell == cell) {
                let ratio = self.rate_ratio(cell, &measured.daemon).unwrap_or(f64::NAN);
                let thousand = |rate: f64| rate / 1000.0;
                let _ = writeln!(
                    table,
                    "| {cell} | {} | {:.1} ({:.1}–{:.1}) | {ratio:.2} | {:.1} | {:.1} | {:.1} | {:.2} |",
                    measured.daemon,
                    thousand(measured.rate),
                    thousand(measured.rate_least),
                    thousand(measured.rate_most),
                    measured.p50,
                    measured.p99,
                    measured.p999,
                    measured.cpu,
                );
            }
        }
        table
    }
}

/// The load of the machine, of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// The choice that is in brackets in a file of the kernel.
fn chosen(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let chosen = text.split('[').nth(1).and_then(|rest| rest.split(']').next());
    chosen.unwrap_or("unknown").to_owned()
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{count} × {}", model.unwrap_or("an unknown CPU"))
}
