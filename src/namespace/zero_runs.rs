//! Zeroes among bytes that are copied, for which the copy can have a hole.

/// Neighbouring blocks of a chunk that are all zeroes, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first byte.
    pub start: usize,
    /// The byte behind the last.
    pub end: usize,
    /// All bytes are zero.
    pub is_zero: bool,
}

/// Cuts a chunk into runs of whole blocks; the last may be shorter.
#[must_use]
pub fn zero_runs(chunk: &[u8], block: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, bytes) in chunk.chunks(block).enumerate() {
        let start = index * block;
        let end = start + bytes.len();
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        match runs.last_mut() {
            Some(last) if last.is_zero == is_zero => last.end = end,
            _ => runs.push(Run { start, end, is_zero }),
        }
    }
    runs
}
