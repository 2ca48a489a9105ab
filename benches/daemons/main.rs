//! This daemon and qemu-storage-daemon, measured in the same run with the same user-space driver.
//!
//! Every cell of the matrix (`cell`) is measured on all daemons in turn, several times over, and the
//! medians are compared: a machine that slows down for a while slows all of them. `scripts/bench`
//! builds what is needed and runs this.

#![allow(
    clippy::cast_precision_loss,
    reason = "figures to be looked at: 2⁵³ is more than any of them"
)]

mod cell;
mod client;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/common/driver.rs"]
mod driver;
mod goals;
#[path = "../../tests/common/patience.rs"]
mod patience;
mod peer;
mod plot;
mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell::{Cell, Group, Medium, Order};
use clap::Parser;
use client::Sample;
use indicatif::{ProgressBar, ProgressStyle};
use peer::{Kind, Peer};
use report::{Measured, Report};

/// Most MiB of a disk that is not in memory.
const MOST_ON_DISK: u64 = 128;

/// Compares this daemon with qemu-storage-daemon.
#[derive(Parser)]
struct Options {
    /// Rounds: in each, every daemon is measured once; medians are over all rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Milliseconds of one measurement
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(10..))]
    milliseconds: u64,

    /// MiB of each disk; all of it is written before anything is measured
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..))]
    mebibytes: u64,

    /// Only cells whose name contains this, like "randwrite 4096" or "depth 32, 1 queue, polling"
    #[arg(long, default_value = "")]
    only: String,

    /// Let this daemon wait for as long at an empty ring (its --poll-us), instead of its default
    #[arg(long)]
    poll_us: Option<u32>,

    /// Where the disks are; a tmpfs, or the medium is measured instead of the daemons
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,

    /// Where the disks are whose writes have to be durable: a file system on a disk
    #[arg(long, default_value = "target/bench-disks")]
    disk_folder: PathBuf,

    /// Measure another daemon beside these, which listens at SOCKET with as many queues and such sectors as the
    /// cells that are asked for; the contents of its disk are lost
    #[arg(long, value_name = "NAME=SOCKET", value_parser = peer::given)]
    peer: Vec<Kind>,

    /// Write table.md, the plots, and results-CPU.json, named after the model of the CPU, here
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Which daemons serve the disks of a group.
    fn kinds(&self, group: Group) -> Vec<Kind> {
        let mut kinds = Kind::all(group.medium);
        kinds.extend(self.peer.iter().cloned());
        kinds
    }
}

fn main() {
    let options = Options::parse();
    let cells: Vec<Cell> =
        Cell::all().into_iter().filter(|cell| cell.to_string().contains(&options.only)).collect();
    if cells.is_empty() {
        eprintln!("no cell has a name that contains {:?}", options.only);
        std::process::exit(2);
    }
    let kinds = |cell: &Cell| options.kinds(cell.group()).len() as u64;
    let runs = cells.iter().map(kinds).sum::<u64>() * u64::from(options.rounds);
    let style = "{bar:30} {pos}/{len}  {msg}  (another {eta})";
    let style = ProgressStyle::with_template(style).expect("the template is right");
    let progress = ProgressBar::new(runs).with_style(style);
    let mut report = Report::new(options.rounds, options.milliseconds, options.mebibytes);
    for group in Group::ALL {
        let cells: Vec<Cell> = cells.iter().copied().filter(|cell| cell.group() == group).collect();
        if !cells.is_empty() {
            measure_group(&options, group, &cells, &progress, &mut report);
        }
    }
    progress.finish_and_clear();
    save(&report, &options.output).expect("results can be written");
    println!("{}", report.table());
    println!("{}", goals::table(&report));
    println!("Results, table and plots are in {}.", options.output.display());
}

/// Measures `cells`, whose disks are alike, on all daemons in turn.
fn measure_group(
    options: &Options,
    group: Group,
    cells: &[Cell],
    progress: &ProgressBar,
    report: &mut Report,
) {
    let (folder, mebibytes) = match group.medium {
        Medium::Memory => (&options.folder, options.mebibytes),
        // Each write is synced, also those that fill the disk.
        Medium::Disk => (&options.disk_folder, options.mebibytes.min(MOST_ON_DISK)),
    };
    std::fs::create_dir_all(folder).expect("a folder for the disks");
    let folder = tempfile::tempdir_in(folder).expect("a folder for the disks");
    let kinds = options.kinds(group);
    let mut peers: Vec<Peer> = kinds
        .iter()
        .map(|kind| {
            progress.set_message(format!("filling {kind}"));
            Peer::start(kind, group, mebibytes << 20, options.poll_us, folder.path())
        })
        .collect();
    let mut order = Order::Fresh;
    for cell in cells {
        if cell.order >= Order::Aged && order == Order::Fresh {
            progress.set_message("ageing the disks");
            for peer in &mut peers {
                client::age(peer, group);
            }
            order = Order::Aged;
        }
        if cell.order == Order::Defragmented && order == Order::Aged {
            progress.set_message("putting the disks in order");
            peers.iter_mut().for_each(Peer::defragment);
            order = Order::Defragmented;
        }
        progress.set_message(cell.to_string());
        let mut samples: Vec<Vec<Sample>> = peers.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (peer, samples) in peers.iter_mut().zip(&mut samples) {
                let duration = Duration::from_millis(options.milliseconds);
                samples.push(client::measure(peer, *cell, duration));
                progress.inc(1);
            }
        }
        for (kind, samples) in kinds.iter().zip(samples) {
            report.add(Measured::new(*cell, kind.clone(), &samples));
        }
    }
}

/// Writes results, table and plots into `folder`.
fn save(report: &Report, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(report.file_name()), serde_json::to_string_pretty(report)? + "\n")?;
    let (goals, cells) = (goals::table(report), report.table());
    std::fs::write(
        folder.join("table.md"),
        format!("# Benchmark\n\n{goals}\n## All cells\n\n{cells}"),
    )?;
    plot::save(report, folder)
}
