//! `dax check`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::super::{Error, PROBLEMS_LEFT, REPAIRED, to_json};
use super::RegionArgs;
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::dax::check::{Finding, Report, check};
use crate::dax::{PAGE_SIZE, Repaired, region_error, repair};
use crate::nvdimm::ClaimKind;

/// Check that a namespace in dax mode is whole: superblocks, journal, owners, devices, and every page
/// somebody's once
///
/// By code of its own, not by that which serves it. Without --repair nothing is written. A change that
/// a crash interrupted is no problem: it is completed when the namespace is next opened.
///
/// --repair mends what loses nothing: a superblock from the other one, checksums of pages whose contents
/// are in order. --force also drops what cannot be kept: records, devices and chains that are damaged,
/// of two that have the same page one; their pages are free then. If it is cut off, by a power failure
/// or otherwise, repeat it.
///
/// Exit status: 0 clean, 1 repaired, 2 problems (left), 8 could not be checked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Check {
    #[command(flatten)]
    region: RegionArgs,

    /// Repair what can be repaired without losing anything
    #[arg(short = 'R', long)]
    repair: bool,

    /// Also repair what means dropping something
    #[arg(short, long, requires = "repair")]
    force: bool,

    /// Print JSON: an object
    #[arg(short, long)]
    json: bool,
}

/// The result, for machines.
#[derive(Debug, Serialize)]
struct Checked {
    file: std::path::PathBuf,
    dev: String,
    verdict: &'static str,
    /// Stores of a change that was cut off, made when the namespace is next opened.
    pending_stores: usize,
    owners: usize,
    devices: usize,
    used_size: u64,
    free_size: u64,
    /// What is wrong, or left after a repair.
    findings: Vec<ListedFinding>,
    repaired: Vec<ListedFinding>,
}

#[derive(Debug, Serialize)]
struct ListedFinding {
    /// Byte in the namespace.
    offset: u64,
    message: String,
    fix: String,
    loses: bool,
}

impl Check {
    pub(super) fn run(&self) -> Result<ExitCode, Error> {
        let kind = if self.repair { ClaimKind::Exclusive } else { ClaimKind::Shared };
        let (claim, medium) = self.region.options().map(kind)?;
        let progress = Progress::new("checking", None);
        let Repaired { mended, left } = if self.repair {
            repair(&medium, self.force)
                .map_err(|source| region_error(claim.path(), claim.namespace(), source))?
        } else {
            Repaired { mended: Vec::new(), left: check(&medium) }
        };
        drop(progress);
        let dev = claim.namespace().device_name();
        if self.json {
            say!("{}", to_json(&self.describe(dev, &mended, &left))?);
        } else {
            self.print(&dev, &mended, &left);
        }
        Ok(match (left.is_clean(), mended.is_empty()) {
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::from(REPAIRED),
            (false, _) => ExitCode::from(PROBLEMS_LEFT),
        })
    }

    fn describe(&self, dev: String, mended: &[Finding], left: &Report) -> Checked {
        Checked {
            file: self.region.file.clone(),
            dev,
            verdict: verdict(left),
            pending_stores: left.pending,
            owners: left.owners,
            devices: left.devices,
            used_size: left.used_pages * PAGE_SIZE,
            free_size: left.free_pages * PAGE_SIZE,
            findings: left.findings.iter().map(ListedFinding::from).collect(),
            repaired: mended.iter().map(ListedFinding::from).collect(),
        }
    }

    fn print(&self, dev: &str, mended: &[Finding], left: &Report) {
        for finding in mended {
            say!("repaired: {finding}");
        }
        for finding in &left.findings {
            say!("problem: {finding}");
        }
        let file = self.region.file.display();
        say!(
            "{file}: {dev}: {}; {} owners, {} devices, {} in use, {} free",
            verdict(left),
            left.owners,
            left.devices,
            Size(left.used_pages * PAGE_SIZE),
            Size(left.free_pages * PAGE_SIZE)
        );
        if left.pending > 0 {
            say!("an interrupted change is completed when the namespace is next opened");
        }
        if let Some(advice) = self.advice(left) {
            say!("{advice}");
        }
    }

    /// What can be done about what is left.
    fn advice(&self, left: &Report) -> Option<&'static str> {
        let any = |is: fn(&Finding) -> bool| left.findings.iter().any(is);
        if any(|finding| finding.fix.is_possible() && !finding.fix.loses()) && !self.repair {
            Some("nothing was written; --repair mends what loses nothing")
        } else if any(|finding| finding.fix.loses()) && !self.force {
            Some(
                "--repair --force drops what is damaged; export first what can still be read, with \
                 'nvdimmctl export --force-raw'",
            )
        } else if any(|finding| !finding.fix.is_possible()) {
            Some(
                "what cannot be repaired stays as it is: 'nvdimmctl export --force-raw' rescues the \
                 bytes",
            )
        } else {
            None
        }
    }
}

impl From<&Finding> for ListedFinding {
    fn from(finding: &Finding) -> ListedFinding {
        ListedFinding {
            offset: finding.offset,
            message: finding.fault.to_string(),
            fix: finding.fix.to_string(),
            loses: finding.fix.loses(),
        }
    }
}

fn verdict(report: &Report) -> &'static str {
    if report.is_clean() { "clean" } else { "problems" }
}
