//! Reading long stretches of a medium around what cannot be read.

use std::ops::ControlFlow;

use crate::pmem::{CACHE_LINE, PAGE, PersistentMemory};

/// Bytes that are read at a time; after a failure, and after another, in smaller ones. Poison is a
/// matter of cache lines, or of a file system's blocks.
const GRAINS: [usize; 3] = [1 << 20, PAGE as usize, CACHE_LINE as usize];

/// How many cache lines may fail before whole pages are given up: what is missing beyond 256 KiB is
/// not worth a fault for each line.
const FAILING_LINES: u32 = 4096;

/// A piece of what was to be read.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// It was read.
    Bytes(&'a mut [u8]),
    /// So many bytes are zero, as was known without reading them.
    Zeroes(u64),
    /// So many bytes could not be read.
    Unreadable(u64),
}

/// Reads `length` bytes at `offset`, a page's start, and hands them out in order, in pieces of one or
/// more whole cache lines, but for the end.
pub(super) fn for_each_piece<M: PersistentMemory>(
    medium: &M,
    offset: u64,
    length: u64,
    each: impl FnMut(Piece<'_>) -> ControlFlow<()>,
) {
    let mut reader = Reader { medium, failing_lines: FAILING_LINES, each };
    let mut buffer = vec![0; length.min(GRAINS[0] as u64) as usize];
    let mut done = 0;
    while done < length {
        let rest = length - done;
        let zeroes = medium.next_stored(offset + done) - (offset + done);
        let zeroes = rest.min(zeroes - zeroes % CACHE_LINE);
        let (size, flow) = if zeroes > 0 {
            (zeroes, (reader.each)(Piece::Zeroes(zeroes)))
        } else {
            let size = rest.min(buffer.len() as u64);
            let into = &mut buffer[..size as usize];
            (size, reader.read(offset + done, into, &GRAINS))
        };
        if flow.is_break() {
            return;
        }
        done += size;
    }
}

struct Reader<'m, M, F> {
    medium: &'m M,
    /// How many more lines may fail.
    failing_lines: u32,
    each: F,
}

impl<M: PersistentMemory, F: FnMut(Piece<'_>) -> ControlFlow<()>> Reader<'_, M, F> {
    /// Reads in pieces of the first of `grains`, and those that fail in pieces of the next.
    fn read(&mut self, offset: u64, into: &mut [u8], grains: &[usize]) -> ControlFlow<()> {
        let [grain, finer @ ..] = grains else {
            return (self.each)(Piece::Unreadable(into.len() as u64));
        };
        for (piece, number) in into.chunks_mut(*grain).zip(0u64..) {
            let offset = offset + number * *grain as u64;
            if self.medium.read_bytes(offset, piece).is_ok() {
                (self.each)(Piece::Bytes(piece))?;
            } else {
                let finer = self.worthwhile(finer);
                self.read(offset, piece, finer)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The grains for what failed: none, once too many of the finest failed.
    fn worthwhile<'g>(&mut self, finer: &'g [usize]) -> &'g [usize] {
        match finer {
            [] => {
                self.failing_lines = self.failing_lines.saturating_sub(1);
                finer
            }
            [_] if self.failing_lines == 0 => &[],
            _ => finer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::pmem::simulated::Simulated;
    use crate::pmem::{DurabilityRequest, Mapping, Protection};

    /// What comes of reading: the bytes, `None` where they could not be read.
    fn read(medium: &Simulated, offset: u64, length: u64) -> Vec<Option<u8>> {
        let mut bytes = Vec::new();
        for_each_piece(medium, offset, length, |piece| {
            match piece {
                Piece::Bytes(read) => bytes.extend(read.iter().copied().map(Some)),
                Piece::Zeroes(length) => bytes.extend((0..length).map(|_| Some(0))),
                Piece::Unreadable(length) => bytes.extend((0..length).map(|_| None)),
            }
            ControlFlow::Continue(())
        });
        bytes
    }

    #[test]
    fn everything_is_read_in_order() {
        let contents: Vec<u8> = (0u32..3 << 20).map(|i| (i / 4096 % 251) as u8).collect();
        let medium = Simulated::with_contents(&contents);
        let length = (2 << 20) + 100;
        let expected: Vec<_> = contents[4096..4096 + length].iter().copied().map(Some).collect();
        assert_eq!(read(&medium, 4096, length as u64), expected);
        assert_eq!(read(&medium, 4096, 0), []);
    }

    #[test]
    fn only_the_lines_that_fail_are_missing() {
        let medium = Simulated::new(2 << 20);
        medium.poison(0..1);
        medium.poison((1 << 20) + 64..(1 << 20) + 200);
        let bytes = read(&medium, 0, 2 << 20);
        assert_eq!(bytes.len(), 2 << 20);
        let missing: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i].is_none()).collect();
        let expected: Vec<usize> = (0..64).chain((1 << 20) + 64..(1 << 20) + 256).collect();
        assert_eq!(missing, expected);
    }

    #[test]
    fn a_medium_that_fails_throughout_is_given_up_page_by_page() {
        let medium = Simulated::new(4 << 20);
        medium.poison(0..4 << 20);
        let mut pieces = Vec::new();
        for_each_piece(&medium, 0, 4 << 20, |piece| {
            let Piece::Unreadable(length) = piece else { panic!() };
            pieces.push(length);
            ControlFlow::Continue(())
        });
        assert_eq!(pieces.iter().sum::<u64>(), 4 << 20);
        assert_eq!(pieces.iter().filter(|&&length| length == 64).count(), 4096);
        assert_eq!(pieces.iter().filter(|&&length| length == 4096).count(), 960);
    }

    #[test]
    fn holes_are_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 8192], 5 << 20).unwrap();
        let (protection, request) = (Protection::ReadOnly, DurabilityRequest::Auto);
        let medium = Mapping::new(file, 0..8 << 20, protection, request).unwrap();
        let (mut read, mut zeroes) = (0, 0);
        for_each_piece(&medium, 4096, (7 << 20) - 4, |piece| {
            match piece {
                Piece::Bytes(bytes) => read += bytes.len() as u64,
                Piece::Zeroes(length) => zeroes += length,
                Piece::Unreadable(_) => panic!(),
            }
            ControlFlow::Continue(())
        });
        assert_eq!(read + zeroes, (7 << 20) - 4);
        // A file system without holes, or with large blocks, reads more.
        assert!(read >= 8192);
        assert!(zeroes == 0 || read <= 3 << 20, "{read}");
    }

    #[test]
    fn reading_stops_when_told() {
        let mut pieces = 0;
        for_each_piece(&Simulated::new(8 << 20), 0, 8 << 20, |_| {
            pieces += 1;
            ControlFlow::Break(())
        });
        assert_eq!(pieces, 1);
    }
}
