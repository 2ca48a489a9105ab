//! What the documents and the help texts refer to exists, and the options in the documents are those of the programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the project.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the documents that are checked.
fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/benchmark", "qemu"];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Returns the headings of a document.
fn headings(document: &Path) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim().to_owned()).collect()
}

/// Returns the anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// Returns what a program prints for `--help` after `arguments`.
fn help(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the long options that a help text lists.
fn options_of(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    lines.filter_map(long_option).collect()
}

/// Returns the long options in the first column of a document's tables.
fn options_in(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `-"));
    let cells = rows.map(|row| format!("-{}", row.split(" | ").next().unwrap()));
    cells.filter_map(|cell| long_option(&cell)).collect()
}

/// Returns the first long option in `text`, without its value.
fn long_option(text: &str) -> Option<String> {
    let name = &text[text.find("--")? + 2..];
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(name.len());
    (end > 0).then(|| name[..end].to_owned())
}

/// Returns the subcommands that a help text lists.
fn commands_of(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // Lines that continue a description are indented further.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// Returns the section of a document under `heading`, up to the next heading of any level.
fn section<'a>(document: &'a str, heading: &str) -> Option<&'a str> {
    let (_, after) = document.split_once(&format!("\n### {heading}\n"))?;
    Some(after.split("\n#").next().unwrap())
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            let is_there = || headings(&target).iter().any(|heading| anchor(heading) == section);
            assert!(section.is_empty() || is_there(), "{}: {link}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "the links were not found");
}

#[test]
fn files_that_documents_name_exist() {
    let mut checked = 0;
    for document in documents() {
        // A changelog names files of its time.
        if document.ends_with("CHANGELOG.md") {
            continue;
        }
        let text = fs::read_to_string(&document).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "docs/", "scripts/", "qemu/", "benches/", "fuzz/"]
                .iter()
                .any(|folder| name.starts_with(folder));
            if !is_path || name.contains([' ', '{', '*', '\n']) {
                continue;
            }
            assert!(root().join(name).exists(), "{}: {name}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "the names of files were not found");
}

#[test]
fn sections_that_help_texts_name_exist() {
    let named = help(env!("CARGO_BIN_EXE_vhost-user-btt"), &[]);
    let named = named.split_whitespace().collect::<Vec<_>>().join(" ");
    let (before, _) = named.split_once("\" in the README").unwrap();
    let section = before.rsplit('"').next().unwrap();
    let headings = headings(&root().join("README.md"));
    assert!(headings.iter().any(|heading| heading == section), "{section:?}");
}

#[test]
fn the_readme_is_short() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(text.lines().count() <= 200, "what does not fit belongs in docs/");
}

#[test]
fn the_daemons_options_are_documented() {
    let document = fs::read_to_string(root().join("docs/vhost-user-btt.md")).unwrap();
    let options = options_of(&help(env!("CARGO_BIN_EXE_vhost-user-btt"), &[]));
    assert!(options.len() > 10, "the options were not found");
    let documented = options_in(&document);
    let missing: Vec<_> = options.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/vhost-user-btt.md: {missing:?} are missing");
    let unknown: Vec<_> = documented.difference(&options).collect();
    assert!(unknown.is_empty(), "docs/vhost-user-btt.md: there are no {unknown:?}");
}

#[test]
fn the_tools_commands_and_options_are_documented() {
    let document = fs::read_to_string(root().join("docs/nvdimmctl.md")).unwrap();
    let tool = env!("CARGO_BIN_EXE_nvdimmctl");
    // What holds for all commands stands before the first of them.
    let common = options_in(document.split("\n## ").next().unwrap());
    let commands = commands_of(&help(tool, &[]));
    let (groups, single): (Vec<_>, Vec<_>) = commands.into_iter().partition(|name| name == "dax");
    let below = |group: &String| {
        let commands = commands_of(&help(tool, &[group]));
        commands.into_iter().map(|command| vec![group.clone(), command]).collect::<Vec<_>>()
    };
    let single = single.into_iter().map(|command| vec![command]);
    let commands: Vec<Vec<String>> = single.chain(groups.iter().flat_map(below)).collect();
    assert!(commands.len() > 15, "the commands were not found");
    for command in commands {
        let name = command.join(" ");
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let options = options_of(&help(tool, &words));
        let section = section(&document, &name)
            .unwrap_or_else(|| panic!("docs/nvdimmctl.md does not describe {name}"));
        let documented = options_in(section);
        let missing: Vec<_> =
            options.difference(&documented).filter(|option| !common.contains(*option)).collect();
        assert!(missing.is_empty(), "docs/nvdimmctl.md, {name}: {missing:?} are missing");
        let unknown: Vec<_> = documented.difference(&options).collect();
        assert!(unknown.is_empty(), "docs/nvdimmctl.md, {name}: there are no {unknown:?}");
    }
}

#[test]
fn the_options_of_powercut_are_documented() {
    let read = |name: &str| fs::read_to_string(root().join("docs").join(name)).unwrap();
    let documents = ["powercut.md", "fault-injection.md", "vhost-user-btt.md"].map(read).concat();
    let program = env!("CARGO_BIN_EXE_powercut");
    let commands = commands_of(&help(program, &[]));
    assert!(!commands.is_empty(), "the commands were not found");
    for command in commands {
        let options = options_of(&help(program, &[&command]));
        let is_missing = |option: &&String| !documents.contains(&format!("--{option}"));
        let missing: Vec<_> = options.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "powercut {command}: no document describes {missing:?}");
    }
}
