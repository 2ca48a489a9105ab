//! What each program says and does about each kind of damage, compared with the kept table
//! `tests/damage/table.md`. `docs/damage.md` explains it to users.
//!
//! `UPDATE_TABLE=1 cargo test --test damage` writes the table anew.

#[path = "../common/daemon.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod daemon;
#[path = "../common/damage.rs"]
mod damage;
mod label_kinds;
mod labels;
#[path = "../common/patience.rs"]
mod patience;
#[path = "../common/shim.rs"]
mod shim;
#[path = "../common/syncs.rs"]
#[allow(dead_code, reason = "no sync fails here")]
mod syncs;

use std::fmt::Write as _;
use std::fs;
use std::panic;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{Daemon, nvdimmctl, nvdimmctl_ok};
use damage::{Damage, Image};
use serde_json::Value;
use uuid::Uuid;
use vhost_user_btt::btt::{CreateOptions, LbaSize, Version, create};
use vhost_user_btt::namespace::NamespaceOptions;
use vhost_user_btt::nvdimm::{ClaimKind, LabelSize, Selection};
use vhost_user_btt::pmem::DurabilityRequest;

const ARENA: u64 = 17 << 20;
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/damage/table.md");

/// What happens to a damaged file.
struct Outcome {
    name: &'static str,
    list: String,
    open: String,
    check: String,
    careful: String,
    forced: String,
}

/// A file with a BTT of so many arenas, the first of which has sectors that were written.
fn template(folder: &Path, arenas: u64) -> Image {
    let path = folder.join("template");
    fs::File::create(&path).unwrap().set_len(4096 + arenas * ARENA).unwrap();
    let namespace = NamespaceOptions {
        path: path.clone(),
        file: None,
        selection: Selection::Only,
        label_size: LabelSize::None,
        version: None,
        durability: DurabilityRequest::Auto,
    };
    let options = CreateOptions {
        lba_size: LbaSize::new(4096).unwrap(),
        version: Version::V1_1,
        uuid: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        parent_uuid: Uuid::nil(),
        arena_size: ARENA,
    };
    let mapped = namespace.map(ClaimKind::Exclusive).unwrap();
    create(&mapped.medium, &options, |_, _| {}).unwrap();
    drop(mapped);
    let raw = folder.join("raw");
    let sectors: Vec<u8> = (0..40 * 4096u32).map(|i| (i / 4096) as u8 + 1).collect();
    fs::write(&raw, sectors).unwrap();
    nvdimmctl_ok(&[Path::new("import"), &path, &raw]);
    Image::read(&path)
}

fn path_argument(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs nvdimmctl on `file`: its exit status, its output, and its complaints without their beginning.
fn run(file: &Path, arguments: &[&str]) -> (i32, String, String) {
    let (code, stdout, mut said) = run_listening(file, arguments);
    (code, stdout, said.pop().unwrap_or_default())
}

/// As [`run`], with all its complaints.
fn run_listening(file: &Path, arguments: &[&str]) -> (i32, String, Vec<String>) {
    let arguments = [&[arguments[0], path_argument(file)], &arguments[1..]].concat();
    let output = nvdimmctl(&arguments);
    let code = output.status.code().expect("nvdimmctl ends by itself");
    assert!([0, 1, 2, 8].contains(&code), "{arguments:?} ends with {code}");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (code, stdout, stderr.lines().map(|line| plain(file, line)).collect())
}

/// A message without what differs from run to run, and without its beginning.
fn plain(file: &Path, message: &str) -> String {
    let message = message.rsplit_once("] ").map_or(message, |(_, message)| message);
    let message = message.replace(&format!("{}: ", file.display()), "");
    message.trim_start_matches("nvdimmctl: ").replace("namespace0.0: ", "")
}

fn list(file: &Path) -> String {
    let (code, json, complaint) = run(file, &["list", "--json"]);
    if code != 0 {
        return complaint;
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    let mode = json[0]["mode"].as_str().unwrap();
    match json[0]["problem"].as_str() {
        Some(problem) => format!("{mode}: {problem}"),
        None => mode.into(),
    }
}

/// Starts the daemon; what it says.
fn open(file: &Path, options: &[&str]) -> String {
    let socket = file.with_extension("sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-btt"));
    command.arg("--read-only").arg("--socket-path").arg(&socket).arg("--blk-file").arg(file);
    command.args(options);
    let mut daemon = Daemon::spawn(command, socket);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !daemon.log().contains("serving") && !daemon.has_ended() {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    let is_serving = daemon.log().contains("serving");
    let warnings = |log: &str| {
        let is_of_damage = |line: &&str| line.contains("WARN ] arena") || line.contains("label");
        let lines = log.lines().filter(is_of_damage);
        lines.map(|line| plain(file, line)).collect::<Vec<_>>().join("; ")
    };
    if is_serving {
        let (status, log) = daemon.terminate();
        assert!(status.success(), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        let warnings = warnings(&log);
        let warnings =
            if warnings.is_empty() { String::new() } else { format!("; warns: {warnings}") };
        return format!("serves{warnings}");
    }
    let status = daemon.wait();
    let log = daemon.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = plain(file, log.lines().last().unwrap());
    format!("refuses: {}", last.trim_start_matches("vhost-user-btt: "))
}

/// Checks, or repairs: the exit status, and the JSON.
fn check(file: &Path, arguments: &[&str]) -> (i32, Result<Value, String>) {
    let arguments = [&["check-namespace", "--json"], arguments].concat();
    let (code, json, complaint) = run(file, &arguments);
    match code {
        8 => (code, Err(complaint)),
        _ => (code, Ok(serde_json::from_str(&json).unwrap())),
    }
}

/// What a check found.
fn found(checked: &Result<Value, String>) -> String {
    let json = match checked {
        Ok(json) => json,
        Err(complaint) => return complaint.clone(),
    };
    let mut found: Vec<String> = json["counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| match &count["count"] {
            Value::Number(one) if one.as_u64() == Some(1) => count["kind"].as_str().unwrap().into(),
            many => format!("{} {}", many, count["kind"].as_str().unwrap()),
        })
        .collect();
    if json["pending_writes"] != 0 {
        found.push("1 pending".into());
    }
    format!("**{}** {}", json["verdict"].as_str().unwrap(), found.join(", "))
}

/// What a repair did.
fn done(checked: &Result<Value, String>) -> String {
    let Ok(json) = checked else { return "could not be checked".into() };
    let repairs = json["repairs"].as_array().unwrap();
    let message = |repair: &Value| repair["message"].as_str().unwrap().to_owned();
    let done = match (repairs.as_slice(), json["repair_count"].as_u64().unwrap()) {
        ([], _) => "nothing".into(),
        ([first, ..], count) if count > 3 => {
            format!("{}; and {} more like it", message(first), count - 1)
        }
        (repairs, _) => repairs.iter().map(message).collect::<Vec<_>>().join("; "),
    };
    format!("**{}** {done}", json["verdict_after"].as_str().unwrap())
}

/// All sectors, as far as they can be read: `None` if they cannot be had at all.
fn export(file: &Path) -> Option<Vec<u8>> {
    let (code, ..) = run(file, &["export", path_argument(&file.with_extension("raw"))]);
    let raw = fs::read(file.with_extension("raw"));
    let _ = fs::remove_file(file.with_extension("raw"));
    (code == 0).then(|| raw.unwrap())
}

fn try_out(folder: &Path, template: &Image, damage: &Damage) -> Outcome {
    let mut image = template.clone();
    (damage.inflict)(&mut image);
    let file = folder.join("damaged");
    image.write(&file);
    let (name, ends) = (damage.name, damage.ends);

    let list = list(&file);
    let open = open(&file, &[]);
    let exported = export(&file);
    let (code, checked) = check(&file, &[]);
    assert_eq!(code, ends.check, "{name}: {checked:?}");
    assert!(fs::read(&file).unwrap() == image.bytes, "{name}: looking changes nothing");

    let mut outcomes = [String::new(), String::new()];
    let ways = [(&["--repair"][..], ends.careful), (&["--repair", "--force"], ends.forced)];
    for (outcome, (how, end)) in outcomes.iter_mut().zip(ways) {
        let (_, dry) = check(&file, &how[1..]);
        let backup = folder.join("backup");
        let arguments = [how, &["--backup", path_argument(&backup)]].concat();
        let (code, repaired) = check(&file, &arguments);
        assert_eq!(code, end, "{name} {how:?}: {repaired:#?}");
        *outcome = done(&repaired);
        assert_eq!(done(&dry), *outcome, "{name} {how:?}: a dry run says what will be done");
        if end < 2 {
            let (code, again) = check(&file, how);
            assert_eq!(code, 0, "{name} {how:?}: {again:#?}");
            assert!(self::open(&file, &[]).starts_with("serves"), "{name} {how:?}");
        }
        if how.len() == 1 && exported.is_some() {
            assert!(export(&file) == exported, "{name}: nothing that could be read has changed");
        }
        if backup.exists() {
            nvdimmctl_ok(&[Path::new("check-namespace"), &file, Path::new("--undo"), &backup]);
            fs::remove_file(&backup).unwrap();
        }
        assert!(fs::read(&file).unwrap() == image.bytes, "{name} {how:?}: all is put back");
    }
    let [careful, forced] = outcomes;
    Outcome { name, list, open, check: found(&checked), careful, forced }
}

const HEAD: &str = "\
# Damage and its consequences

Generated: `tests/damage` inflicts each kind of damage on a file of its own, runs the programs, and compares what they say and do with
this table (`UPDATE_TABLE=1 cargo test --test damage` writes it anew). [docs/damage.md](../../docs/damage.md) is the page for readers.

In the first tables the file has a label-less namespace of 4096-byte sectors, of which the first 40 were written; the daemon is started
with `--read-only`. The words in the column of `check-namespace` are the kinds of finding that its JSON counts. **clean** and **problems**
in the last two columns are the verdict after the repair.

";

fn document(sections: &[(&str, Vec<Outcome>)]) -> String {
    let mut text = HEAD.to_owned();
    for (title, outcomes) in sections {
        write!(text, "## {title}\n\n").unwrap();
        text.push_str(
            "| damage | `list` | the daemon | `check-namespace` | `--repair` | `--repair --force` |\n",
        );
        text.push_str("|---|---|---|---|---|---|\n");
        for Outcome { name, list, open, check, careful, forced } in outcomes {
            let forced = if forced == careful { "the same" } else { forced };
            writeln!(text, "| {name} | {list} | {open} | {check} | {careful} | {forced} |")
                .unwrap();
        }
        text.push('\n');
    }
    text
}

/// The tables of damage to a BTT.
fn btt_tables(failed: &mut Vec<&'static str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let templates = [1, 2].map(|arenas| template(folder.path(), arenas));
    let mut outcomes: Vec<(&str, Vec<Outcome>)> = Vec::new();
    for (title, all) in damage::sections() {
        outcomes.push((title, Vec::new()));
        for damage in all {
            let template = &templates[usize::from(damage.two_arenas)];
            // So that all that fails is said at once.
            let tried = panic::catch_unwind(|| {
                let folder = tempfile::tempdir().unwrap();
                try_out(folder.path(), template, &damage)
            });
            match tried {
                Ok(outcome) => outcomes.last_mut().unwrap().1.push(outcome),
                Err(_) => failed.push(damage.name),
            }
        }
    }
    document(&outcomes)
}

#[test]
fn every_kind_of_damage_is_dealt_with_as_documented() {
    let mut failed = Vec::new();
    let text = btt_tables(&mut failed) + &labels::tables(&mut failed);
    assert_eq!(failed, [""; 0]);
    let text = text.trim_end().to_owned() + "\n";
    if std::env::var_os("UPDATE_TABLE").is_some() {
        fs::write(DOCUMENT, &text).unwrap();
    }
    let documented = fs::read_to_string(DOCUMENT).unwrap_or_default();
    for (is, should) in text.lines().zip(documented.lines()) {
        assert_eq!(
            is, should,
            "tests/damage/table.md is not up to date; see the head of tests/damage/main.rs"
        );
    }
    assert_eq!(text.len(), documented.len(), "tests/damage/table.md is not up to date");
}
