//! `check-namespace`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Error;
use crate::btt::check::{self, CheckOptions, PendingWrite, Report, Severity, Verdict};
use crate::cli::name::NamespaceArgs;
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::nvdimm::ClaimKind;
use crate::pmem::DurabilityRequest;

/// Exit status: problems were found, and are still there.
const PROBLEMS_LEFT: u8 = 2;

/// Check that a namespace is whole: info blocks, flog, map, and every block owned exactly once
///
/// By code of its own, not by the engine that serves the namespace. Nothing is written. Writes that a
/// crash interrupted are no problem: they are completed when the namespace is next served.
///
/// Exit status: 0 clean, 2 problems, 8 could not be checked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CheckNamespace {
    /// The NVDIMM file
    file: PathBuf,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// List at most so many findings of a kind; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    most: usize,

    /// Print JSON: an object
    #[arg(short, long)]
    json: bool,
}

/// The result, for machines.
#[derive(Debug, Serialize)]
struct Checked {
    file: PathBuf,
    dev: String,
    verdict: &'static str,
    arenas: usize,
    pending_writes: u64,
    /// How many findings of which kind there are.
    counts: Vec<Count>,
    findings: Vec<Listed>,
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

impl CheckNamespace {
    pub(super) fn run(&self) -> Result<ExitCode, Error> {
        let options = self.namespace.options(&self.file, DurabilityRequest::PageCache);
        let mapped = options.map(ClaimKind::Shared)?;
        mapped.refuse_raw()?;
        let namespace = mapped.claim.namespace();
        let check_options = CheckOptions {
            version: mapped.version,
            namespace: namespace.uuid,
            most_findings: self.most,
        };
        let progress = Progress::new("checking", None);
        let report = check::check(&mapped.medium, &check_options, &mut |done, total| {
            progress.set(done, total);
        });
        drop(progress);
        let device = namespace.device_name();
        if self.json {
            say!("{}", super::to_json(&self.describe(device, &report))?);
        } else {
            self.print(&device, &report);
        }
        Ok(match report.verdict() {
            Verdict::Clean => ExitCode::SUCCESS,
            Verdict::Problems => ExitCode::from(PROBLEMS_LEFT),
        })
    }

    fn describe(&self, dev: String, report: &Report) -> Checked {
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
        Checked {
            file: self.file.clone(),
            dev,
            verdict: verdict(report),
            arenas: report.arenas.len(),
            pending_writes: report.pending_count(),
            counts: report.findings.counts().map(count).collect(),
            findings: report.findings.iter().map(listed).collect(),
        }
    }

    fn print(&self, device: &str, report: &Report) {
        for finding in report.findings.iter() {
            let kind = finding.fault.kind();
            let invariant =
                kind.invariant().map(|invariant| format!(" [{invariant:?}]")).unwrap_or_default();
            say!("{}: {finding}{invariant}", severity(kind.severity()));
        }
        for (kind, count) in report.findings.counts() {
            let listed = report.findings.iter().filter(|f| f.fault.kind() == kind).count() as u64;
            if count > listed {
                say!("and {} more of kind {}", count - listed, kind.name());
            }
        }
        for PendingWrite { arena, lane, lba, old, new } in &report.pending {
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
    }
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
