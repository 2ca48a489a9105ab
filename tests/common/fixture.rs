//! NVDIMM files written by Linux, and what Linux read from them (`tests/fixtures/README.md`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// An entry of `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Fixture {
    pub file: String,
    pub bytes: u64,
    pub label_bytes: u64,
    pub label_version: Option<String>,
    pub btt_version: String,
    pub first_arena_offset: u64,
    pub external_lbasize: u32,
    pub internal_lbasize: u32,
    pub external_nlba: u32,
    pub internal_nlba: u32,
    pub sector_size: u32,
    pub sectors: u64,
    pub contents_sha256: String,
    pub pending_log_entry: Option<PendingLogEntry>,
}

/// A write that Linux was in the middle of.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct PendingLogEntry {
    pub lba: u32,
    pub new: u32,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// All fixtures.
pub fn all() -> Vec<Fixture> {
    let manifest = std::fs::read(folder().join("manifest.json")).unwrap();
    serde_json::from_slice(&manifest).unwrap()
}

impl Fixture {
    /// Unpacks the file, sparsely, into `folder`.
    pub fn unpack(&self, into: &Path) -> PathBuf {
        const PAGE: usize = 4096;
        let packed = File::open(folder().join(&self.file)).unwrap();
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).unwrap();
        let path = into.join(self.file.trim_end_matches(".zst"));
        let mut file = File::create_new(&path).unwrap();
        let mut bytes = Vec::with_capacity(self.bytes as usize);
        decoder.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, self.bytes, "{}", self.file);
        file.set_len(self.bytes).unwrap();
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                file.seek(SeekFrom::Start((index * PAGE) as u64)).unwrap();
                file.write_all(page).unwrap();
            }
        }
        path
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}
