//! `check-labels`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::{Error, PROBLEMS_LEFT, REPAIRED};
use crate::cli::name::LabelSizeArg;
use crate::cli::output::say;
use crate::namespace::{self, Orphan, restore_label};
use crate::nvdimm::{self, ClaimKind, LabelEditor, LabelSize, LostLabel, NvdimmFile};

/// Check the labels of a file, and look for namespaces that have lost theirs
///
/// A label that is damaged, or contradicts another one, is ignored, and so is its namespace. The contents
/// of the namespace are still there, and a BTT or a DAX region says which namespace it belongs to; plain
/// bytes (raw mode) do not. Without options nothing is written.
///
/// --repair does what is certain: it rewrites an unusable index block, and it rewrites a lost label if
/// its uuid is that of a namespace that was found.
///
/// --restore makes a label for a namespace that was found. Note that it may have been destroyed, if the
/// destruction was interrupted. --drop gives up a lost label: its bytes are free afterwards.
///
/// Exit status: 0 clean, 1 repaired, 2 problems (left), 8 could not be checked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CheckLabels {
    /// The NVDIMM file
    file: PathBuf,

    /// Size of the label storage area at the end of the file [default: detected]
    #[arg(long, value_name = "SIZE")]
    label_size: Option<LabelSizeArg>,

    /// Repair what is certain
    #[arg(short = 'R', long)]
    repair: bool,

    /// Make a label for this namespace, which was found without one; repeatable
    #[arg(long, value_name = "UUID")]
    restore: Vec<Uuid>,

    /// Give up the lost label in this slot; repeatable
    #[arg(long, value_name = "SLOT")]
    drop: Vec<u32>,

    /// Print JSON: an object
    #[arg(short, long)]
    json: bool,
}

/// The result, for machines.
#[derive(Debug, PartialEq, Serialize)]
struct Checked {
    #[serde(serialize_with = "super::path_to_json")]
    file: PathBuf,
    verdict: &'static str,
    namespaces: usize,
    /// What is wrong with an index block.
    #[serde(skip_serializing_if = "Option::is_none")]
    index_block: Option<String>,
    lost: Vec<Lost>,
    found: Vec<Found>,
    repaired: Vec<String>,
}

/// A label that does not count.
#[derive(Debug, PartialEq, Serialize)]
struct Lost {
    slot: u32,
    problem: String,
    /// True if it is whole in itself, so that its bytes are not free.
    is_whole: bool,
    /// What it says, or seems to.
    uuid: String,
    name: String,
    start: u64,
    raw_size: u64,
    /// What is there, if the label is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    holds: Option<Found>,
}

/// What tells which namespace it is of.
#[derive(Debug, PartialEq, Serialize)]
struct Found {
    /// Of the namespace.
    uuid: String,
    start: u64,
    raw_size: u64,
    holds: String,
}

/// How long to wait for a change of the labels to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(10);

impl CheckLabels {
    pub(super) fn run(&self) -> Result<ExitCode, Error> {
        let label_size = self.label_size.map(LabelSizeArg::get).unwrap_or_default();
        let changes = self.repair || !self.restore.is_empty() || !self.drop.is_empty();
        let checked = if changes { self.change(label_size)? } else { self.look(label_size)? };
        if self.json {
            super::say_json(&checked)?;
        } else {
            checked.print();
        }
        Ok(match (checked.is_clean(), checked.repaired.is_empty()) {
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::from(REPAIRED),
            (false, _) => ExitCode::from(PROBLEMS_LEFT),
        })
    }

    /// Checks the labels, and looks again as long as another process may be changing them: a namespace that is
    /// being made has no label yet.
    fn look(&self, label_size: LabelSize) -> Result<Checked, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut unlocked_look = None;
        loop {
            let file = NvdimmFile::open_quietly(&self.file, ClaimKind::Shared, label_size)?;
            let checked = Checked::of(&file, Vec::new())?;
            let is_locked = file.labels_are_locked()?;
            let is_certain = !is_locked && unlocked_look.as_ref() == Some(&checked);
            if checked.is_clean() || is_certain || Instant::now() >= deadline {
                return Ok(checked);
            }
            unlocked_look = (!is_locked).then_some(checked);
            thread::sleep(PAUSE);
        }
    }

    /// Does what is asked for. Returns what was done and how the labels are then; they stay locked until that
    /// is known.
    fn change(&self, label_size: LabelSize) -> Result<Checked, Error> {
        let mut editor = namespace::edit_labels(&self.file, label_size)?;
        let mut done = Vec::new();
        for slot in &self.drop {
            editor.drop_lost(*slot)?;
            done.push(format!("label slot {slot} is free"));
        }
        for orphan in self.to_restore(editor.file())? {
            let namespace = restore_label(&mut editor, &orphan)?;
            let name = namespace.device_name();
            done.push(format!("{name}, uuid {}, has a label again", orphan.uuid));
        }
        done.extend(self.mend_index(&mut editor)?);
        Checked::of(editor.file(), done)
    }

    fn to_restore(&self, file: &NvdimmFile) -> Result<Vec<Orphan>, Error> {
        let mut found = Orphan::find_all(file)?;
        if let Some(uuid) = self.restore.iter().find(|uuid| !found.iter().any(|o| o.uuid == **uuid))
        {
            return Err(Error::NoOrphan { path: self.file.clone(), uuid: *uuid });
        }
        let is_certain = |orphan: &Orphan| self.repair && orphan.lost_label(file).is_some();
        found.retain(|orphan| self.restore.contains(&orphan.uuid) || is_certain(orphan));
        Ok(found)
    }

    fn mend_index(&self, editor: &mut LabelEditor) -> Result<Option<String>, Error> {
        let unusable = editor.file().labels().and_then(|area| area.unusable);
        let Some((number, _)) = unusable.filter(|_| self.repair) else { return Ok(None) };
        editor.mend_index()?;
        Ok(Some(format!("label index block {number} is restored from the other one")))
    }
}

impl Checked {
    fn of(file: &NvdimmFile, repaired: Vec<String>) -> Result<Checked, Error> {
        let area = file.labels();
        let area = area.ok_or_else(|| nvdimm::Error::LabelLess { path: file.path().into() })?;
        let index_block =
            area.unusable.map(|(number, fault)| format!("label index block {number}: {fault}"));
        let lost: Result<_, nvdimm::Error> =
            file.lost().iter().map(|lost| Lost::describe(file, lost)).collect();
        let found = Orphan::find_all(file)?.iter().map(Found::from).collect();
        let mut checked = Checked {
            file: file.path().into(),
            verdict: "clean",
            namespaces: file.namespaces().len(),
            index_block,
            lost: lost?,
            found,
            repaired,
        };
        if !checked.is_clean() {
            checked.verdict = "problems";
        }
        Ok(checked)
    }

    fn is_clean(&self) -> bool {
        self.index_block.is_none() && self.lost.is_empty() && self.found.is_empty()
    }

    fn print(&self) {
        let file = self.file.display();
        for done in &self.repaired {
            say!("repaired: {done}");
        }
        if let Some(problem) = &self.index_block {
            say!("problem: {problem}; --repair, or the next change of labels, rewrites it");
        }
        for lost in &self.lost {
            lost.print();
        }
        for Found { uuid, start, raw_size, holds } in &self.found {
            say!(
                "found: bytes {start:#x} to {:#x} have no label, and hold {holds} of namespace {uuid}; \
                 --restore {uuid} makes one",
                start + raw_size
            );
        }
        say!(
            "{file}: {}; {} namespaces, {} labels lost, {} namespaces without one found",
            self.verdict,
            self.namespaces,
            self.lost.len(),
            self.found.len()
        );
    }
}

impl Lost {
    fn describe(file: &NvdimmFile, lost: &LostLabel) -> Result<Lost, nvdimm::Error> {
        let holds = match lost.range() {
            Some(range) => Orphan::at(file, &range)?,
            None => None,
        };
        Ok(Lost {
            slot: lost.slot,
            problem: lost.fault.to_string(),
            is_whole: lost.is_whole,
            uuid: lost.label.uuid.to_string(),
            name: lost.label.name.to_string(),
            start: lost.label.dpa,
            raw_size: lost.label.rawsize,
            holds: holds.as_ref().map(Found::from),
        })
    }

    fn print(&self) {
        let Lost { slot, problem, uuid, name, .. } = self;
        let says = if self.is_whole { "says" } else { "seems to say" };
        say!(
            "problem: label slot {slot}: {problem}; it {says}: namespace {uuid} {name:?}, {} bytes from \
             byte {:#x} on; --drop {slot} gives it up",
            self.raw_size,
            self.start
        );
        if let Some(Found { uuid, holds, .. }) = &self.holds {
            say!("  there is {holds} of namespace {uuid}");
        }
    }
}

impl From<&Orphan> for Found {
    fn from(orphan: &Orphan) -> Found {
        Found {
            uuid: orphan.uuid.to_string(),
            start: orphan.range.start,
            raw_size: orphan.range.end - orphan.range.start,
            holds: orphan.holds.to_string(),
        }
    }
}
