//! Sectors that say what they are.

use vhost_user_btt::pmem::simulated::Random;

/// Bytes of a description: magic, sector, version, checksum. One stands at either end of a sector,
/// and what is between them follows from it.
const DESCRIPTION: usize = 32;
const MAGIC: [u8; 8] = *b"sector :";

/// The version of a sector of zeroes.
pub const ZEROES: u64 = 0;

/// What a sector turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// One version of one sector, from end to end; [`ZEROES`] of any sector.
    Whole {
        sector: u64,
        version: u64,
    },
    Torn,
}

/// Fills a sector with its description.
pub fn describe(sector: u64, version: u64, into: &mut [u8]) {
    if version == ZEROES {
        return into.fill(0);
    }
    let mut random = Random::new(sector.rotate_left(32) ^ version);
    for word in into.chunks_mut(8) {
        word.copy_from_slice(&random.any().to_le_bytes()[..word.len()]);
    }
    let mut head = [MAGIC, sector.to_le_bytes(), version.to_le_bytes(), [0; 8]].concat();
    let body = DESCRIPTION..into.len() - DESCRIPTION;
    let check = checksum(&[&head, &into[body]]);
    head[24..].copy_from_slice(&check.to_le_bytes());
    into[..DESCRIPTION].copy_from_slice(&head);
    into.last_chunk_mut::<DESCRIPTION>().unwrap().copy_from_slice(&head);
}

/// Reads a sector's description, or that of a sector that expects to be `sector`, if it is zeroes.
pub fn read(sector: u64, data: &[u8]) -> Found {
    if data.iter().all(|byte| *byte == 0) {
        return Found::Whole { sector, version: ZEROES };
    }
    let word = |index: usize| u64::from_le_bytes(data[index * 8..][..8].try_into().unwrap());
    let (head, body) = data.split_at(DESCRIPTION);
    let (body, tail) = body.split_at(body.len() - DESCRIPTION);
    let check = checksum(&[&head[..24], &[0; 8], body]);
    if head == tail && head[..8] == MAGIC && word(3) == check {
        Found::Whole { sector: word(1), version: word(2) }
    } else {
        Found::Torn
    }
}

/// FNV-1a in words of eight bytes.
fn checksum(parts: &[&[u8]]) -> u64 {
    parts.iter().flat_map(|part| part.chunks(8)).fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    })
}
