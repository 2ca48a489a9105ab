//! A cpio archive in the format "newc": Documentation/driver-api/early-userspace/buffer-format.rst of Linux.

use std::collections::BTreeSet;
use std::path::Path;

/// Kinds of files, as in the mode of stat(2).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows. All files belong to root; folders come before what is in them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    names: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder, with those that it is in, unless it is there.
    pub fn folder(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        if self.names.insert(path.into()) {
            self.entry(path, FOLDER | 0o755, &[]);
        }
    }

    /// Adds a file with this mode, unless there is one with that name.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.leaf(path, FILE | mode, content);
    }

    /// Adds a symbolic link to `target`, unless there is a file with that name.
    pub fn link(&mut self, path: &str, target: &str) {
        self.leaf(path, LINK | 0o777, target.as_bytes());
    }

    fn leaf(&mut self, path: &str, mode: u32, content: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        if self.names.insert(path.into()) {
            self.entry(path, mode, content);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == FOLDER { 2 } else { 1 };
        let (size, name) = (content.len() as u32, path.len() as u32 + 1);
        // The inode, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive, whole.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }
}

/// The name of a file in an archive that has it where the host has it.
pub(super) fn name_of(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_header_of_hexadecimal_fields_and_is_aligned() {
        let mut archive = Archive::default();
        archive.file("a/b", 0o755, b"text");
        archive.file("a/b", 0o755, b"another");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        // 110 bytes of header, "a" and a zero byte: a multiple of 4.
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        assert_eq!(&text[110..118], "a\x00070701");
        assert_eq!(text.matches("070701").count(), 3);
        assert_eq!(&text[112 + 110..112 + 120], "a/b\0\0\0text");
        assert!(text.contains(TRAILER) && bytes.len().is_multiple_of(512));
    }
}
