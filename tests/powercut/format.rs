//! A reader of logs of dm-log-writes that shares nothing with the program: written from the format.

use std::path::Path;

pub const FLUSH: u64 = 1;
pub const FUA: u64 = 2;
pub const DISCARD: u64 = 4;
pub const MARK: u64 = 8;

/// An entry, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub sector: u64,
    pub sectors: u64,
    pub flags: u64,
    pub text: String,
    pub data: Vec<u8>,
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Reads a log, and is as strict as xfstests' replay-log.
pub fn read(path: &Path) -> (usize, Vec<Logged>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!((word(&bytes, 0), word(&bytes, 8)), (0x006a_7366_7773_6872, 1));
    let size = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
    let mut entries = Vec::new();
    let mut at = size;
    for _ in 0..word(&bytes, 16) {
        let head = &bytes[at..at + size];
        let [sector, sectors, flags, length] = [0, 8, 16, 24].map(|offset| word(head, offset));
        at += size;
        let text = if flags & MARK == 0 {
            assert!(flags != 0 || sectors != 0, "an entry of nothing");
            assert_eq!(head[32], 0, "text in an entry that is no mark");
            String::new()
        } else {
            assert!(sectors == 0 && length as usize <= size - 33);
            String::from_utf8(head[32..32 + length as usize].to_vec()).unwrap()
        };
        let stored = if flags & DISCARD == 0 { sectors as usize * size } else { 0 };
        let data = bytes[at..at + stored].to_vec();
        at += stored;
        entries.push(Logged { sector, sectors, flags, text, data });
    }
    (size, entries)
}

/// Does to `disk` what was logged.
pub fn replay(size: usize, entries: &[Logged], disk: &mut [u8]) {
    for entry in entries {
        let start = entry.sector as usize * size;
        let into = &mut disk[start..start + entry.sectors as usize * size];
        if entry.flags & DISCARD == 0 {
            into.copy_from_slice(&entry.data);
        } else {
            into.fill(0);
        }
    }
}
