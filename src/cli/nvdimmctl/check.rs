//! `check-namespace`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::listing::Listing;
use super::{CLEAN, Error, PROBLEMS_LEFT, REPAIRED, backup};
use crate::btt::Version;
use crate::btt::check::repair::{Plan, Repair, RepairOptions, advice};
use crate::btt::check::{self, CheckOptions, PendingWrite, Report, Severity, Verdict};
use crate::cli::escape::{shell_path, shell_word};
use crate::cli::name::{ALL, NamespaceArgs, PositionalNamespace};
use crate::cli::one_line;
use crate::cli::output::{remark, say};
use crate::cli::progress::Progress;
use crate::namespace::MappedNamespace;
use crate::nvdimm::{ClaimKind, NvdimmFile};
use crate::pmem::{DurabilityRequest, MediaError};

/// Check that a namespace is whole: info blocks, flog, map, and every block owned exactly once
///
/// 'all' stands for every namespace in sector mode, each checked by itself; the worst exit status counts.
///
/// The check is independent of the engine that serves the namespace. Without --repair it writes nothing,
/// and says what a repair would do, and what problems would be left. Writes that a crash interrupted are
/// no problem: they are completed when the namespace is next served, or by --repair.
///
/// --repair does what is certain: it restores one info block from the other, completes interrupted
/// writes, and gives lanes and map entries that name no block the blocks that have no owner. Before it
/// changes a byte, it saves all that it will change to a new file; --undo puts that back. If a repair is
/// interrupted, by a power failure or otherwise, repeat it.
///
/// --force also decides what is in doubt: sectors that share a block are marked as lost until they are
/// written (export them first, while they can be read); the info blocks of a later arena are computed;
/// the error flag is cleared; remains of other BTTs are removed. See docs/damage.md.
///
/// Exit status: 0 clean, 1 repaired, 2 problems (left), 8 could not be checked.
#[derive(Debug, Clone, Args)]
#[command(verbatim_doc_comment)]
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line, each by itself")]
pub(super) struct CheckNamespace {
    /// The NVDIMM file
    file: PathBuf,

    #[command(flatten)]
    positional: PositionalNamespace,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Repair what is certain
    #[arg(short = 'R', long)]
    repair: bool,

    /// Also rewrite the flog in the standard layout (bytes 0 and 16 of each lane), unless problems are left
    #[arg(short = 'L', long, requires = "repair")]
    rewrite_log: bool,

    /// Also repair where sectors have to be given up; without --repair, say what that would do
    #[arg(short, long)]
    force: bool,

    /// File in which to save what the repair changes; it must not exist yet [default: FILE.before-repair, or
    /// FILE.before-repair.2 and so on; for a device, in the current folder]
    #[arg(long, value_name = "NEW-FILE", requires = "repair")]
    backup: Option<PathBuf>,

    /// Put back what an earlier repair changed, from its backup, and do nothing else; refused if the
    /// namespace was written to there since
    #[arg(long, value_name = "BACKUP", conflicts_with_all = ["repair", "force", "json"])]
    undo: Option<PathBuf>,

    /// List at most this many findings of a kind; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    most: usize,

    /// Print JSON: an object; with 'all', an array of objects
    #[arg(short, long)]
    json: bool,
}

/// The result, for machines.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(serialize_with = "super::path_to_json")]
    file: PathBuf,
    dev: String,
    verdict: &'static str,
    arenas: usize,
    pending_writes: u64,
    /// How many findings of which kind there are.
    counts: Vec<Count>,
    findings: Vec<Listed>,
    /// True if the repairs were made; false if this is what they would be.
    repaired: bool,
    /// Where the bytes are that they changed.
    #[serde(serialize_with = "super::some_path_to_json")]
    backup: Option<PathBuf>,
    /// How many repairs there are; as many as findings of a kind are listed.
    repair_count: usize,
    repairs: Vec<ListedRepair>,
    /// What is wrong after the repairs, or would be.
    verdict_after: &'static str,
    left: Vec<Left>,
}

#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the names are those of the JSON")]
struct Count {
    kind: &'static str,
    invariant: Option<String>,
    severity: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Listed {
    arena: Option<usize>,
    kind: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct ListedRepair {
    arena: Option<usize>,
    message: String,
}

/// Findings of a kind that are left, and what can be done about them.
#[derive(Debug, Serialize)]
struct Left {
    kind: &'static str,
    count: u64,
    advice: &'static str,
}

impl CheckNamespace {
    /// Takes a namespace that was given without an option for one that was given with it.
    pub(super) fn place_namespace(&mut self) {
        self.positional.move_into(&mut self.namespace);
    }

    pub(super) fn run(&self) -> Result<ExitCode, Error> {
        let mut reports = Vec::new();
        let each = self.each()?;
        let status = match &each {
            Some(each) => check_each(each, &mut reports),
            None => self.check(&mut reports),
        };
        match reports.as_slice() {
            reports if self.json && each.is_some() => super::say_json(&reports)?,
            [report] => super::say_json(report)?,
            _ => {}
        }
        status.map(ExitCode::from)
    }

    fn is_all(&self) -> bool {
        self.namespace.namespace.as_deref() == Some(ALL)
    }

    /// The commands that check one namespace each, if all are to be checked; those of other modes than sector are
    /// left out.
    fn each(&self) -> Result<Option<Vec<CheckNamespace>>, Error> {
        if !self.is_all() {
            return Ok(None);
        }
        let file = NvdimmFile::open(&self.file, ClaimKind::Shared, self.namespace.label_size())?;
        if file.namespaces().iter().any(|namespace| namespace.goes_by(ALL)) {
            return Ok(None);
        }
        if self.undo.is_some() || self.backup.is_some() {
            return Err(Error::Usage("--undo and --backup are for one namespace, not for 'all'"));
        }
        let mut each = Vec::new();
        for namespace in file.namespaces() {
            let mut one = self.clone();
            one.namespace.namespace = Some(namespace.device_name());
            if Listing::describe(&file, namespace, None)?.mode == "sector" {
                each.push(one);
            }
        }
        Ok(Some(each))
    }

    /// Checks one namespace, and returns the exit status. With `--json`, adds the result to `reports`.
    fn check(&self, reports: &mut Vec<Checked>) -> Result<u8, Error> {
        // Slow and sure: a repair has to be durable step by step, whatever the file is on.
        let options = self.namespace.options(&self.file, DurabilityRequest::Strict);
        let writes = self.repair || self.undo.is_some();
        let kind = if writes { ClaimKind::Exclusive } else { ClaimKind::Shared };
        let mapped = options.map(kind)?;
        mapped.refuse_other_modes()?;
        if let Some(path) = &self.undo {
            let bytes = backup::undo(path, &mapped.claim, &mapped.medium)?;
            say!("{}: {bytes} bytes are again as they were", self.file.display());
            return Ok(CLEAN);
        }
        let plan = self.plan(&mapped, mapped.version);
        if !self.force {
            super::refuse_unread(&mapped.claim, &mapped.medium)?;
        }
        let backup = self.carry_out(&plan, &mapped)?;
        let device = mapped.claim.namespace().device_name();
        if self.json {
            reports.push(self.describe(device, &plan, backup));
        } else {
            self.print(&device, &plan, backup);
        }
        let left = if self.repair { plan.after.verdict() } else { plan.before.verdict() };
        Ok(match left {
            Verdict::Clean if self.repair && !plan.repairs.is_empty() => REPAIRED,
            Verdict::Clean => CLEAN,
            Verdict::Problems => PROBLEMS_LEFT,
        })
    }

    fn plan(&self, mapped: &MappedNamespace, version: Option<Version>) -> Plan {
        let namespace = mapped.claim.namespace().uuid;
        let check = CheckOptions { version, namespace, most_findings: self.most };
        let options = RepairOptions { check, force: self.force, rewrite_log: self.rewrite_log };
        let progress = Progress::new("checking", None);
        Plan::make(&mapped.medium, &options, &mut |done, total| progress.set(done, total))
    }

    /// Repairs, if asked to, and returns where the backup is.
    fn carry_out(&self, plan: &Plan, mapped: &MappedNamespace) -> Result<Option<PathBuf>, Error> {
        if !self.repair || plan.repairs.is_empty() {
            return Ok(None);
        }
        let path = backup::save(self.backup.as_deref(), &mapped.claim, &plan.save(&mapped.medium))?;
        let progress = Progress::new("repairing", None);
        plan.carry_out(&mapped.medium, &mut |done, total| progress.set(done, total))
            .map_err(|source| self.media_error(source))?;
        Ok(Some(path))
    }

    fn media_error(&self, source: MediaError) -> Error {
        Error::Sectors { path: self.file.clone(), source: source.into() }
    }

    fn describe(&self, dev: String, plan: &Plan, backup: Option<PathBuf>) -> Checked {
        let report = &plan.before;
        let count = |(kind, count): (check::Kind, u64)| Count {
            kind: kind.name(),
            invariant: kind.invariant().map(|invariant| format!("{invariant:?}")),
            severity: severity(kind.severity()),
            count,
        };
        let listed = |finding: &check::Finding| Listed {
            arena: finding.arena,
            kind: finding.fault.kind().name(),
            message: finding.to_string(),
        };
        let repair = |repair: &Repair| ListedRepair {
            arena: repair.arena,
            message: repair.remedy.to_string(),
        };
        Checked {
            file: self.file.clone(),
            dev,
            verdict: verdict(report),
            arenas: report.arenas.len(),
            pending_writes: report.pending_count(),
            counts: report.findings.counts().map(count).collect(),
            findings: self.listed(report).map(listed).collect(),
            repaired: self.repair && !plan.repairs.is_empty(),
            backup,
            repair_count: plan.repairs.len(),
            repairs: plan.repairs.iter().take(self.most).map(repair).collect(),
            verdict_after: verdict(&plan.after),
            left: self.left(plan),
        }
    }

    /// The findings that are listed: as many of each kind as was asked for.
    fn listed<'r>(&self, report: &'r Report) -> impl Iterator<Item = &'r check::Finding> {
        let most = self.most;
        let mut counts = [0; check::Kind::ALL.len()];
        report.findings.iter().filter(move |finding| {
            let count = &mut counts[finding.fault.kind() as usize];
            *count += 1;
            *count <= most
        })
    }

    /// What is left after the repair, or would be.
    fn left(&self, plan: &Plan) -> Vec<Left> {
        let counts = plan.after.findings.counts();
        let left = counts.filter_map(|(kind, count)| {
            let advice = advice(kind, self.force)?;
            Some(Left { kind: kind.name(), count, advice })
        });
        left.collect()
    }

    fn print(&self, device: &str, plan: &Plan, backup: Option<PathBuf>) {
        let report = &plan.before;
        for finding in self.listed(report) {
            let kind = finding.fault.kind();
            let invariant =
                kind.invariant().map(|invariant| format!(" [{invariant:?}]")).unwrap_or_default();
            say!("{}: {finding}{invariant}", severity(kind.severity()));
        }
        let most = self.most as u64;
        for (kind, count) in report.findings.counts().filter(|(_, count)| *count > most) {
            say!("and {} more of kind {}", count - most, kind.name());
        }
        for PendingWrite { arena, lane, lba, old, new } in report.pending.iter().take(self.most) {
            say!(
                "pending: arena {arena}, {lane}: {lba} goes from {old} to {new} when it is next \
                 served"
            );
        }
        say!(
            "{}: {device}: {}; {} arenas, {} interrupted writes to complete",
            self.file.display(),
            verdict(report),
            report.arenas.len(),
            report.pending_count()
        );
        self.print_repairs(plan, backup);
    }

    fn print_repairs(&self, plan: &Plan, backup: Option<PathBuf>) {
        let what = if self.repair { "repaired" } else { "would be repaired" };
        for repair in plan.repairs.iter().take(self.most) {
            say!("{what}: {repair}");
        }
        if plan.repairs.len() > self.most {
            say!("and {} more {what}", plan.repairs.len() - self.most);
        }
        for Left { kind, count, advice } in self.left(plan) {
            say!("left: {count} of kind {kind}: {advice}");
        }
        let (file, repairs) = (self.file.display(), plan.repairs.len());
        if let Some(backup) = backup {
            let namespace = match &self.namespace.namespace {
                Some(name) => format!(" --namespace {}", shell_word(name)),
                None => String::new(),
            };
            let (path, saved) = (shell_path(&self.file), shell_path(&backup));
            let undo = format!("nvdimmctl check-namespace {path}{namespace} --undo {saved}");
            say!("{file}: {repairs} repairs made; {}", verdict(&plan.after));
            say!("what was there before is in {}; to put it back: {undo}", backup.display());
        } else if !self.repair && repairs > 0 {
            say!(
                "{file}: nothing was written; --repair would make {repairs} repairs, and leave it {}",
                verdict(&plan.after)
            );
        }
    }
}

/// Checks several namespaces one after another, and returns the worst exit status. One that cannot be checked
/// does not keep the others from it; the last such error is for the caller.
fn check_each(each: &[CheckNamespace], reports: &mut Vec<Checked>) -> Result<u8, Error> {
    let (mut worst, mut failed) = (CLEAN, None);
    for one in each {
        match one.check(reports) {
            Ok(status) => worst = worst.max(status),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    remark!("nvdimmctl: {}", one_line(&earlier));
                }
            }
        }
    }
    failed.map_or(Ok(worst), Err)
}

fn verdict(report: &Report) -> &'static str {
    match report.verdict() {
        Verdict::Clean => "clean",
        Verdict::Problems => "problems",
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Degraded => "degraded",
        Severity::Damage => "damage",
    }
}
