//! `dax check`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::super::{Error, PROBLEMS_LEFT, REPAIRED, backup, refuse_unread, say_json};
use super::RegionArgs;
use crate::cli::escape::{shell_path, shell_word};
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::dax::check::{Finding, Report, check};
use crate::dax::{PAGE_SIZE, Repaired, preview_repair, repair};
use crate::namespace::NamespaceError;
use crate::nvdimm::{Claim, ClaimKind};
use crate::pmem::Mapping;

/// Check a namespace in dax mode: superblocks, journal, owners, devices, and that each page has one owner
///
/// The check is independent of the code that serves the namespace. Without --repair it writes nothing. A
/// change that a crash interrupted is no problem: it is completed when the namespace is next opened.
///
/// --repair repairs what can be repaired without loss: a superblock from the other one, or checksums of
/// pages whose contents are in order. --force also drops what cannot be kept: damaged records, devices
/// and chains, and one of two owners of the same page; their pages are free afterwards. Before it changes
/// a byte, it saves all that it will change to a new file; --undo puts that back. If a repair is
/// interrupted, by a power failure or otherwise, repeat it.
///
/// Exit status: 0 clean, 1 repaired, 2 problems (left), 8 could not be checked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Check {
    #[command(flatten)]
    region: RegionArgs,

    /// Repair what can be repaired without loss
    #[arg(short = 'R', long)]
    repair: bool,

    /// Also repair where something has to be dropped
    #[arg(short, long, requires = "repair")]
    force: bool,

    /// File in which to save what the repair changes; it must not exist yet [default: FILE.before-repair, or
    /// FILE.before-repair.2 and so on; for a device, in the current folder]
    #[arg(long, value_name = "NEW-FILE", requires = "repair")]
    backup: Option<PathBuf>,

    /// Put back what an earlier repair changed, from its backup, and do nothing else; refused if the region
    /// was changed since
    #[arg(long, value_name = "BACKUP", conflicts_with_all = ["repair", "json"])]
    undo: Option<PathBuf>,

    /// Print JSON: an object
    #[arg(short, long)]
    json: bool,
}

/// The result, for machines.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(serialize_with = "super::super::path_to_json")]
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
    /// Where the bytes are that the repair changed.
    #[serde(serialize_with = "super::super::some_path_to_json")]
    backup: Option<PathBuf>,
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
        let writes = self.repair || self.undo.is_some();
        let kind = if writes { ClaimKind::Exclusive } else { ClaimKind::Shared };
        let (claim, medium) = self.region.options().map_region(kind)?;
        if let Some(path) = &self.undo {
            let bytes = backup::undo(path, &claim, &medium)?;
            say!("{}: {bytes} bytes are again as they were", self.region.file.display());
            return Ok(ExitCode::SUCCESS);
        }
        let progress = Progress::new("checking", None);
        let found = check(&medium);
        if !self.force {
            refuse_unread(&claim, &medium)?;
        }
        let (Repaired { mended, left }, backup) = if self.repair {
            self.repair(&claim, &medium)?
        } else {
            (Repaired { mended: Vec::new(), left: found }, None)
        };
        drop(progress);
        let dev = claim.namespace().device_name();
        if self.json {
            say_json(&self.describe(dev, &mended, &left, backup))?;
        } else {
            self.print(&dev, &mended, &left, backup.as_deref());
        }
        Ok(match (left.is_clean(), mended.is_empty()) {
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::from(REPAIRED),
            (false, _) => ExitCode::from(PROBLEMS_LEFT),
        })
    }

    /// Saves what the repair will change, and repairs. Returns what was done, and where that is saved.
    fn repair(
        &self,
        claim: &Claim,
        medium: &Mapping,
    ) -> Result<(Repaired, Option<PathBuf>), Error> {
        let fails = |source| NamespaceError::region(claim.path(), claim.namespace(), source);
        let saved = preview_repair(medium, self.force).map_err(fails)?;
        let backup = match &saved[..] {
            [] => None,
            saved => Some(backup::save(self.backup.as_deref(), claim, saved)?),
        };
        Ok((repair(medium, self.force).map_err(fails)?, backup))
    }

    fn describe(
        &self,
        dev: String,
        mended: &[Finding],
        left: &Report,
        backup: Option<PathBuf>,
    ) -> Checked {
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
            backup,
        }
    }

    fn print(&self, dev: &str, mended: &[Finding], left: &Report, backup: Option<&Path>) {
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
        if let Some(backup) = backup {
            let namespace = match &self.region.namespace {
                Some(name) => format!(" --namespace {}", shell_word(name)),
                None => String::new(),
            };
            let (path, saved) = (shell_path(&self.region.file), shell_path(backup));
            let undo = format!("nvdimmctl dax check {path}{namespace} --undo {saved}");
            say!("what was there before is in {}; to put it back: {undo}", backup.display());
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
