//! Each ERROR and WARN message of the daemon has its entry in docs/troubleshooting.md.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of the sources that are not part of the daemon, or only of its tests.
const ELSEWHERE: [&str; 5] = ["nvdimmctl", "powercut", "simulated", "cache_model", "tests"];
/// Files whose errors end the daemon with an ERROR line.
const FATAL: [&str; 2] = ["src/vhost_user/error.rs", "src/sandbox/mod.rs"];
/// What a message says has to be found by at least so many characters in a row.
const SHORTEST: usize = 6;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if ELSEWHERE.contains(&name) {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The string literal that begins within `text`, in its first `within` bytes, as one line.
fn literal(text: &str, within: usize) -> Option<String> {
    let begin = text.find('"').filter(|begin| *begin < within)? + 1;
    let mut literal = String::new();
    let mut characters = text[begin..].chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(literal),
            '\\' if characters.next_if_eq(&'\n').is_some() => {
                while characters.next_if(|next| next.is_whitespace()).is_some() {}
            }
            '\\' => literal.extend(characters.next()),
            _ => literal.push(character),
        }
    }
    None
}

/// The longest part of a message without a placeholder; `None`: it has none that is worth looking for.
fn constant_part(message: &str) -> Option<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for character in message.chars() {
        match (character, depth) {
            ('{', _) => depth += 1,
            ('}', _) => {
                depth -= 1;
                parts.push(String::new());
            }
            (_, 0) => parts.last_mut()?.push(character),
            _ => {}
        }
    }
    let trimmed = parts.iter().map(|part| part.trim_matches(|c: char| " :;,".contains(c)));
    let longest = trimmed.max_by_key(|part| part.len())?;
    (longest.len() >= SHORTEST).then(|| longest.to_owned())
}

/// The messages after each of `markers` in a source.
fn messages(source: &str, markers: &[&str]) -> Vec<String> {
    let places = markers.iter().flat_map(|marker| source.match_indices(marker));
    // Not compile_error!.
    let places = places.filter(|(at, _)| !source[..*at].ends_with('_'));
    places.filter_map(|(at, marker)| literal(&source[at + marker.len()..], 120)).collect()
}

#[test]
fn every_error_and_warning_of_the_daemon_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut count = 0;
    let mut missing = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let source = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut found = messages(source, &["warn!(", "error!(", "Level::Warn,", "Level::Error,"]);
        if FATAL.iter().any(|fatal| path.ends_with(fatal)) {
            found.extend(messages(source, &["#[error("]));
        }
        for part in found.iter().filter_map(|message| constant_part(message)) {
            count += 1;
            if !guide.contains(&part) {
                missing.push(format!("{}: {part:?}", path.display()));
            }
        }
    }
    assert!(count > 60, "only {count} messages were found");
    assert!(missing.is_empty(), "not in docs/troubleshooting.md:\n{}", missing.join("\n"));
}
