//! What the documents and the help texts refer to exists.

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
fn sections_that_help_texts_name_exist() {
    let help = |program| {
        let output = Command::new(program).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let named = help(env!("CARGO_BIN_EXE_vhost-user-btt"));
    let (before, _) = named.split_once("\" in the README").unwrap();
    let section = before.rsplit('"').next().unwrap();
    let headings = headings(&root().join("README.md"));
    assert!(headings.iter().any(|heading| heading == section), "{section:?}");
}
