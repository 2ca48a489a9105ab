//! Rooms import downwards only: which of the library's modules may name which, and that no other names
//! are in the source.
//!
//! The paths that begin with `crate`, `super` or `self` are read from the source text, those of `use` and
//! all others. Tests inside the library (files and modules behind `#[cfg(test)]`) may name everything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the rooms that it may import from.
type Room = (&'static str, &'static [&'static str]);

/// The rooms of the library, the lowest first.
const ROOMS: [Room; 14] = [
    ("amount", &[]),
    ("error_chain", &[]),
    ("mutants", &[]),
    ("pmem", &[]),
    ("sandbox", &["pmem"]),
    ("nvdimm", &["amount", "error_chain", "pmem"]),
    ("btt", &["pmem"]),
    ("dax", &["amount", "pmem"]),
    ("namespace", &["btt", "dax", "nvdimm", "pmem"]),
    ("virtio", &["btt", "pmem"]),
    (
        "vhost_user",
        &["btt", "dax", "error_chain", "namespace", "nvdimm", "pmem", "sandbox", "virtio"],
    ),
    ("keeper", &["error_chain", "sandbox", "vhost_user"]),
    ("powercut", &["btt", "pmem", "vhost_user", "virtio"]),
    (
        "cli",
        &[
            "amount",
            "btt",
            "dax",
            "error_chain",
            "keeper",
            "namespace",
            "nvdimm",
            "pmem",
            "powercut",
            "sandbox",
            "vhost_user",
            "virtio",
        ],
    ),
];

/// The rooms inside `btt`. The checker cannot name the engine.
const BTT: [Room; 5] = [
    ("mutant", &[]),
    ("format", &["mutant"]),
    ("engine", &["format", "mutant"]),
    ("lifecycle", &["engine", "format", "mutant"]),
    ("check", &["format", "mutant"]),
];

/// The rooms inside `dax`. The checker can name neither the engine nor the journal's ring.
const DAX: [Room; 6] = [
    ("mutant", &[]),
    ("format", &["mutant"]),
    ("journal", &["format", "mutant"]),
    ("engine", &["format", "journal", "mutant"]),
    ("check", &["format", "mutant"]),
    ("repair", &["check", "format", "journal", "mutant"]),
];

#[test]
fn rooms_import_downwards_only() {
    let sources = sources();
    let found = [("crate", &ROOMS[..]), ("crate::btt", &BTT), ("crate::dax", &DAX)]
        .into_iter()
        .flat_map(|(parent, rooms)| {
            sources.iter().flat_map(move |source| source.violations(parent, rooms))
        });
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_room_imports_what_is_listed_before_it() {
    for rooms in [&ROOMS[..], &BTT, &DAX] {
        for (number, (room, imports)) in rooms.iter().enumerate() {
            let lower: BTreeSet<&str> = rooms[..number].iter().map(|(lower, _)| *lower).collect();
            assert!(imports.iter().all(|import| lower.contains(import)), "{room}");
        }
    }
}

#[test]
fn every_module_is_a_room() {
    for (folder, rooms) in [("src", &ROOMS[..]), ("src/btt", &BTT), ("src/dax", &DAX)] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let module = name.trim_end_matches(".rs");
            let is_known = rooms.iter().any(|(room, _)| *room == module);
            let is_no_room = ["lib", "mod", "bin", "tests"].contains(&module);
            assert!(is_known || is_no_room, "{folder}/{name} is in no table of this test");
        }
    }
}

#[test]
fn imports_upwards_and_sideways_are_noticed() {
    let cases = [
        ("crate::pmem::mapping", "use crate::btt::Btt;", "crate", &ROOMS[..]),
        ("crate::btt::engine::write", "use crate::dax;", "crate", &ROOMS),
        ("crate::dax", "pub use super::nvdimm::{Claim, label};", "crate", &ROOMS),
        (
            "crate::nvdimm::label::writer",
            "fn f() { super::super::super::cli::run(); }",
            "crate",
            &ROOMS,
        ),
        ("crate::btt::check::map", "use crate::btt::engine::Arena;", "crate::btt", &BTT),
        ("crate::btt::check::map", "use crate::btt::{engine::Arena};", "crate::btt", &BTT),
        ("crate::btt::check::map", "use crate::btt::{self, format};", "crate::btt", &BTT),
        ("crate::btt::check::map", "use crate::btt::Btt;", "crate::btt", &BTT),
        ("crate::btt::check::map", "use crate::btt::*;", "crate::btt", &BTT),
        ("crate::btt::check", "use super::lifecycle::create as make;", "crate::btt", &BTT),
        ("crate::btt::format::map", "impl crate::btt::engine::T for U {}", "crate::btt", &BTT),
        ("crate::dax::check", "use super::journal::ring::Ring;", "crate::dax", &DAX),
        (
            "crate::dax::engine::load",
            "#[cfg(test)]\nmod tests { use crate::dax::check; }\nuse crate::dax::repair;",
            "crate::dax",
            &DAX,
        ),
    ];
    for (module, text, parent, rooms) in cases {
        let source = Source { module: module.into(), tokens: tokens(text) };
        assert_eq!(source.violations(parent, rooms).len(), 1, "{module}: {text}");
    }
    let harmless = [
        ("crate::btt::check::map", "// crate::btt::engine\nuse crate::btt::format::map;"),
        ("crate::btt::check::map", "const A: &str = \"crate::btt::engine\"; use super::arena;"),
        ("crate::btt::check::map", "#[cfg(test)] mod tests { use crate::btt::engine::Btt; }"),
        ("crate::btt", "pub use engine::Btt; pub use self::check::Report;"),
    ];
    for (module, text) in harmless {
        let source = Source { module: module.into(), tokens: tokens(text) };
        assert_eq!(source.violations("crate::btt", &BTT), [""; 0], "{module}: {text}");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a module, tests left out.
struct Source {
    /// As in a path: `crate::btt::engine`.
    module: String,
    tokens: Vec<String>,
}

/// All files of the library, but those of tests.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if name == "tests" || name.ends_with("_tests") || name == "bin" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let tokens = tokens(&fs::read_to_string(&path).unwrap());
                sources.push(Source { module: module_of(&path), tokens });
            }
        }
    }
    assert!(sources.len() > 200, "{} files", sources.len());
    sources
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut module = vec!["crate"];
    module.extend(inside.components().map(|part| part.as_os_str().to_str().unwrap()));
    module.retain(|part| !["lib", "mod"].contains(part));
    module.join("::")
}

impl Source {
    /// What this module names outside of its room in `parent`, and may not.
    fn violations(&self, parent: &str, rooms: &[Room]) -> Vec<String> {
        let Some(own) = child(&self.module, parent) else { return Vec::new() };
        let Some((_, allowed)) = rooms.iter().find(|(room, _)| *room == own) else {
            return vec![format!("{}: {own} is in no table of this test", self.module)];
        };
        let mut names = BTreeSet::new();
        for path in self.paths() {
            if path == parent {
                // All of the parent, and so all of its rooms.
                names.insert("*".to_owned());
            } else if let Some(name) = child(&path, parent) {
                names.insert(name.to_owned());
            }
        }
        // What the parent re-exports comes from one of its rooms, which is named instead.
        let is_allowed = |name: &String| name == own || allowed.contains(&name.as_str());
        let foreign = names.iter().filter(|name| !is_allowed(name));
        foreign.map(|name| format!("{} names {parent}::{name}", self.module)).collect()
    }

    /// All paths that begin with `crate`, `super` or `self`, absolute.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let begins = ["crate", "super", "self"].contains(&self.tokens[at].as_str())
                && self.tokens.get(at + 1).is_some_and(|next| next == "::")
                && (at == 0 || !["::", "$", "in"].contains(&self.tokens[at - 1].as_str()));
            if begins {
                let from: Vec<String> = self.module.split("::").map(str::to_owned).collect();
                at = self.tree(at, &from, &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }

    /// Follows the path, or the tree of paths, at token `at`, relative to `from`; returns where it ends.
    fn tree(&self, mut at: usize, from: &[String], paths: &mut Vec<String>) -> usize {
        let mut path = from.to_vec();
        loop {
            match self.tokens.get(at).map(String::as_str) {
                Some("crate") => path = vec!["crate".into()],
                Some("super") => drop(path.pop()),
                Some("self" | "*") => {}
                Some("{") => {
                    at += 1;
                    while self.tokens[at] != "}" {
                        at = self.tree(at, &path, paths);
                        // To the end of this branch, over `as name`.
                        while ![",", "}"].contains(&self.tokens[at].as_str()) {
                            at += 1;
                        }
                        at += usize::from(self.tokens[at] == ",");
                    }
                    return at + 1;
                }
                Some(name) => path.push(name.into()),
                None => break,
            }
            at += 1;
            if self.tokens.get(at).is_none_or(|next| next != "::") {
                break;
            }
            at += 1;
        }
        paths.push(path.join("::"));
        at
    }
}

/// The room of `parent` that `path` is in; `None`: in none, or it is the parent itself.
fn child<'p>(path: &'p str, parent: &str) -> Option<&'p str> {
    let inside = path.strip_prefix(parent)?.strip_prefix("::")?;
    inside.split("::").next()
}

/// Names, `::` and single characters of Rust, without comments, literals and what is behind
/// `#[cfg(test)]`.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal(rest);
        if let Some(length) = length {
            rest = &rest[length..];
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let (name, behind) = rest.split_at(end.unwrap_or(rest.len()));
            tokens.push(name.to_owned());
            rest = behind;
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(rest[..length].to_owned());
            }
            rest = &rest[length..];
        }
    }
    without_tests(&tokens)
}

/// Bytes of the comment, string or character at the start of `text`, if there is one.
fn literal(text: &str) -> Option<usize> {
    let end_of = |start: usize, end: &str| {
        text[start..].find(end).map_or(text.len(), |found| start + found + end.len())
    };
    if text.starts_with("//") {
        return Some(end_of(2, "\n"));
    }
    if text.starts_with("/*") {
        return Some(end_of(2, "*/"));
    }
    if text.starts_with("r#\"") {
        return Some(end_of(3, "\"#"));
    }
    if text.starts_with('"') {
        let mut characters = text.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => drop(characters.next()),
                '"' => return Some(at + 1),
                _ => {}
            }
        }
        return Some(text.len());
    }
    // A character, and no lifetime.
    let mut characters = text.char_indices().skip(1);
    if text.starts_with("'\\") {
        return Some(end_of(3, "'"));
    }
    let (Some((_, _)), Some((end, '\''))) = (characters.next(), characters.next()) else {
        return None;
    };
    text.starts_with('\'').then_some(end + 1)
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().take(TEST.len()).eq(TEST.iter()) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // To the end of the item: a semicolon, or its braces.
        let mut depth = 0;
        at += TEST.len();
        while at < tokens.len() {
            match tokens[at].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && [";", "}"].contains(&tokens[at].as_str());
            at += 1;
            if ends {
                break;
            }
        }
    }
    kept
}
