//! Damage to labels: what the programs say and do.

use std::fmt::Write as _;
use std::fs;
use std::panic;
use std::path::Path;

use serde_json::Value;

use crate::daemon::nvdimmctl_ok;
use crate::label_kinds::{LabelDamage, Labelled, sections};
use crate::{check, done, found, open, path_argument, run, run_listening};

const HEAD: &str = "\
# Labels

Here the file has labels of version 1.2, and the namespaces `first` and `second` of 16 MiB each, followed by 16 free MiB. The daemon, the
check and the repair are asked for `second`. Where `create-namespace` refuses, `init-labels --force` succeeds.

";

/// What happens to a file with damaged labels.
struct Outcome {
    name: &'static str,
    list: String,
    open: String,
    check: String,
    forced: String,
    create: String,
    mended: String,
}

fn template(folder: &Path) -> Labelled {
    let path = folder.join("template");
    let file = path_argument(&path);
    nvdimmctl_ok(&["create", file, "--size", "48M", "--label-size", "128K"]);
    for (name, number) in [("first", "1"), ("second", "2")] {
        let uuid = format!("{}-0000-0000-0000-000000000000", number.repeat(8));
        let options = ["--name", name, "--uuid", &uuid, "--size", "16M"];
        nvdimmctl_ok(&[&["create-namespace", file][..], &options].concat());
    }
    Labelled::read(&path)
}

/// The namespaces that there are, and what is complained of.
fn list(file: &Path) -> String {
    let (code, json, mut said) = run_listening(file, &["list", "--json"]);
    if code != 0 {
        return said.pop().unwrap_or_default();
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    let listed = |namespace: &Value| {
        let name = namespace["name"].as_str().or(namespace["dev"].as_str()).unwrap_or("?");
        let mode = namespace["mode"].as_str().unwrap();
        match namespace["problem"].as_str() {
            Some(problem) => format!("{name} ({mode}: {problem})"),
            None => format!("{name} ({mode})"),
        }
    };
    let listed: Vec<String> = json.as_array().unwrap().iter().map(listed).collect();
    let listed = if listed.is_empty() { "nothing".into() } else { listed.join(", ") };
    if said.is_empty() { listed } else { format!("{listed}; warns: {}", said.join("; ")) }
}

/// Mends the labels: what comes of it, and what is there then.
fn mend(file: &Path, before: &[u8]) -> String {
    let (checked, ..) = run(file, &["check-labels", "--json"]);
    assert!(fs::read(file).unwrap() == before, "looking changes nothing");
    let (code, json, complaint) = run(file, &["check-labels", "--repair", "--json"]);
    if code == 8 {
        assert!(checked == 8 && fs::read(file).unwrap() == before, "{checked}");
        return complaint;
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    let count = |what: &str| json[what].as_array().unwrap().len();
    let (lost, found) = (count("lost"), count("found"));
    let changed = fs::read(file).unwrap() != before;
    assert_eq!((code == 1 || checked == 0, code == 2), (lost + found == 0, lost + found > 0));
    assert_eq!(count("repaired") > 0, changed, "what is not said to be repaired is not changed");
    match (code, changed) {
        (0, _) => "**clean** nothing".into(),
        (1, _) => format!("**clean** {}", list(file)),
        (_, changed) => {
            let done = if changed { list(file) } else { "nothing".into() };
            format!("**problems** {done}; {lost} lost, {found} found")
        }
    }
}

/// Makes a further namespace: what comes of it.
fn create(file: &Path, before: &[u8]) -> String {
    let options = ["create-namespace", "--name", "third", "--size", "16M"];
    let (code, _, complaint) = run(file, &options);
    if code == 0 {
        return format!("made: {}", list(file));
    }
    assert!(fs::read(file).unwrap() == before, "what is refused changes nothing");
    let (code, _, message) = run(file, &["init-labels", "--label-size", "128K", "--force"]);
    assert_eq!(code, 0, "init-labels: {message}");
    assert_eq!(list(file), "nothing");
    complaint
}

fn try_out(folder: &Path, template: &Labelled, damage: &LabelDamage) -> Outcome {
    let mut image = template.clone();
    (damage.inflict)(&mut image);
    let file = folder.join("damaged");
    image.write(&file);
    let second = ["--namespace", "second"];
    let list = list(&file);
    let open = open(&file, &second);
    let (_, checked) = check(&file, &second);
    assert!(fs::read(&file).unwrap() == image.bytes, "{}: looking changes nothing", damage.name);
    let backup = folder.join("backup");
    let repair = ["--repair", "--force", "--backup", path_argument(&backup)];
    let (_, repaired) = check(&file, &[&second[..], &repair].concat());
    if backup.exists() {
        let undo = ["--undo", path_argument(&backup)];
        nvdimmctl_ok(&[&["check-namespace", path_argument(&file)], &second[..], &undo].concat());
    }
    assert!(fs::read(&file).unwrap() == image.bytes, "{}: all is put back", damage.name);
    let mended = mend(&file, &image.bytes);
    image.write(&file);
    let create = create(&file, &image.bytes);
    Outcome {
        name: damage.name,
        list,
        open,
        check: found(&checked),
        forced: done(&repaired),
        create,
        mended,
    }
}

/// The tables, as text.
pub fn tables(failed: &mut Vec<&'static str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let template = template(folder.path());
    let mut text = HEAD.to_owned();
    for (title, all) in sections() {
        write!(text, "## {title}\n\n").unwrap();
        text.push_str(
            "| damage | `list` | the daemon | `check-namespace` | `--repair --force` | `create-namespace` | `check-labels --repair` |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|\n");
        for damage in all {
            let tried = panic::catch_unwind(|| {
                let folder = tempfile::tempdir().unwrap();
                try_out(folder.path(), &template, &damage)
            });
            let Ok(Outcome { name, list, open, check, forced, create, mended }) = tried else {
                failed.push(damage.name);
                continue;
            };
            writeln!(
                text,
                "| {name} | {list} | {open} | {check} | {forced} | {create} | {mended} |"
            )
            .unwrap();
        }
        text.push('\n');
    }
    text
}
