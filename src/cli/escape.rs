//! Text of foreign origin on its way to a terminal.
//!
//! Labels, names of files and of devices, command-line arguments and the messages that quote them may contain any
//! character. Control characters among them would move the cursor, change the title of the window or
//! start a new line that looks like one of the program's own; formatting characters of Unicode reorder
//! or hide text.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;

/// Text on one line, with every character that is not printed as itself written as `\u{1b}`, or as
/// `\n`, `\r` or `\t`.
pub(super) struct OneLine<'a>(pub(super) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_unprintable(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Returns the text as [`OneLine`] shows it.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unprintable) {
        Cow::Owned(OneLine(text).to_string())
    } else {
        Cow::Borrowed(text)
    }
}

/// Returns lines of text, with everything but their ends as [`OneLine`] shows it.
pub(super) fn lines(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// Returns a JSON text with every character that is not printed as itself written as `\u001b`. In JSON,
/// such characters occur in strings alone, where both forms mean the same (RFC 8259, section 7).
pub(super) fn json(text: &str) -> Cow<'_, str> {
    let is_whitespace = |character: char| character == '\n';
    if !text.chars().any(|character| is_unprintable(character) && !is_whitespace(character)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unprintable(character) && !is_whitespace(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether a character is not printed as itself, at its own place: control characters, separators of
/// lines, and the formatting characters that are invisible or change the direction of others.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Returns a word of a command line as a POSIX shell, or bash where the word contains control characters or bytes
/// that are not UTF-8, reads it back.
pub(super) fn shell_word(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._,=/+:@%".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.as_bytes().iter().all(is_plain) => text.to_owned(),
        Some(text) if !text.chars().any(is_unprintable) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            let bytes = word.as_bytes().iter();
            let escaped = bytes.fold(String::new(), |mut escaped, byte| {
                let _ = match byte {
                    b'\'' | b'\\' => write!(escaped, "\\{}", char::from(*byte)),
                    b' '..=b'~' => write!(escaped, "{}", char::from(*byte)),
                    _ => write!(escaped, "\\x{byte:02x}"),
                };
                escaped
            });
            format!("$'{escaped}'")
        }
    }
}

/// Returns the path of a file as an argument of a command: as [`shell_word`], and never like an option.
pub(super) fn shell_path(path: impl AsRef<OsStr>) -> String {
    let path = path.as_ref();
    if path.as_bytes().starts_with(b"-") {
        let mut relative = std::ffi::OsString::from("./");
        relative.push(path);
        return shell_word(relative);
    }
    shell_word(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_and_ends_of_lines_are_shown_as_text() {
        for (text, shown) in [
            ("plain, Größe, 磁盘", "plain, Größe, 磁盘"),
            ("a\x1b[31mb\nc\r\t", r"a\u{1b}[31mb\nc\r\t"),
            ("\x7f\u{9b}1m\u{85}", r"\u{7f}\u{9b}1m\u{85}"),
            ("gpj\u{202e}exe.\u{2066}\u{2028}", r"gpj\u{202e}exe.\u{2066}\u{2028}"),
            ("e\u{301}", "e\u{301}"),
        ] {
            assert_eq!(one_line(text), shown);
        }
        assert_eq!(lines("a\x07\nb\r\n"), "a\\u{7}\nb\\r\n");
    }

    #[test]
    fn words_survive_a_shell() {
        for (word, quoted) in [
            ("disk.nvdimm", "disk.nvdimm"),
            ("", "''"),
            ("my disk", "'my disk'"),
            ("it's", r"'it'\''s'"),
            ("$HOME;`id`", "'$HOME;`id`'"),
            ("a\x1b'\\", r"$'a\x1b\'\\'"),
        ] {
            assert_eq!(shell_word(word), quoted);
        }
        assert_eq!(shell_word(OsStr::from_bytes(b"\xff")), r"$'\xff'");
        assert_eq!(shell_path("--force"), "./--force");
    }

    proptest! {
        #[test]
        fn json_says_the_same_without_control_characters(text in ".*|(?s).*") {
            let printed = serde_json::to_string_pretty(&[&text]).unwrap();
            let escaped = json(&printed);
            prop_assert!(escaped.chars().all(|c| c == '\n' || !is_unprintable(c)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [text]);
        }

        #[test]
        fn a_shell_reads_back_what_was_quoted(word in "[^\0]*") {
            let line = format!("printf %s {}", shell_word(&word));
            let output = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
            prop_assert_eq!(output.stdout, word.as_bytes());
        }
    }
}
