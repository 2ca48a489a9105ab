//! The bytes of a medium: sparse, and cheap to copy and to compare.

use std::sync::Arc;

use super::super::PAGE;
use super::unfenced::Durable;

/// Pages that are copied together.
const GROUP_PAGES: usize = 64;
const GROUP: u64 = PAGE * GROUP_PAGES as u64;
/// Bytes that the fingerprint is made of.
const WORD: usize = 8;

type Page = [u8; PAGE as usize];

static ZEROES: Page = [0; PAGE as usize];

/// Pages next to each other; those that were never written are zeroes.
type Group = [Option<Arc<Page>>; GROUP_PAGES];

/// The bytes of a medium. A copy shares all pages until one of the two writes to them.
#[derive(Debug, Clone)]
pub struct Contents {
    size: u64,
    groups: Vec<Arc<Group>>,
}

impl Contents {
    /// `size` zero bytes.
    #[must_use]
    pub fn zeroes(size: u64) -> Contents {
        let empty: Arc<Group> = Arc::new([const { None }; GROUP_PAGES]);
        let groups = size.div_ceil(GROUP) as usize;
        Contents { size, groups: vec![empty; groups] }
    }

    /// The same, and `more` zero bytes behind them.
    #[must_use]
    pub fn grown(mut self, more: u64) -> Contents {
        let Contents { size, groups } = Contents::zeroes(self.size + more);
        let behind = groups.into_iter().skip(self.groups.len());
        self.groups.extend(behind);
        Contents { size, ..self }
    }

    /// Number of bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A hash of where and how these contents differ from those of `base`, which has the same size:
    /// two that differ from each other have, but for one case in 2⁶⁴, different ones.
    #[must_use]
    pub fn fingerprint(&self, base: &Contents) -> u64 {
        self.pages_apart(base).fold(0, |sum, page| {
            let [ours, theirs] = [self, base].map(|contents| contents.page(page));
            sum ^ digest(page, ours) ^ digest(page, theirs)
        })
    }

    /// Copies the bytes at `offset`, all inside, into `into`.
    pub fn read(&self, mut offset: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let (part, rest) = into.split_at_mut(to_page_end(offset).min(into.len()));
            match self.page(offset) {
                Some(page) => part.copy_from_slice(&page[in_page(offset)..][..part.len()]),
                None => part.fill(0),
            }
            offset += part.len() as u64;
            into = rest;
        }
    }

    /// Replaces the bytes at `offset`, all inside, with `from`.
    pub fn write(&mut self, mut offset: u64, mut from: &[u8]) {
        while !from.is_empty() {
            let (part, rest) = from.split_at(to_page_end(offset).min(from.len()));
            self.write_in_page(offset, part);
            offset += part.len() as u64;
            from = rest;
        }
    }

    /// Replaces `length` bytes at `offset`, all inside, with zeroes.
    pub fn zero(&mut self, mut offset: u64, length: u64) {
        let end = offset + length;
        while offset < end {
            let part = (to_page_end(offset) as u64).min(end - offset);
            if self.page(offset).is_some() {
                self.write_in_page(offset, &ZEROES[..part as usize]);
            }
            offset += part;
        }
    }

    /// Offset of the first page at or after `offset` that was ever written, or the size; `offset`
    /// itself if its page was.
    #[must_use]
    pub fn next_stored(&self, mut offset: u64) -> u64 {
        while offset < self.size {
            if self.page(offset).is_some() {
                return offset;
            }
            offset += to_page_end(offset) as u64;
        }
        self.size
    }

    /// Offsets of the pages that are not shared with `other`, which has the same size: all that can
    /// differ.
    pub fn pages_apart(&self, other: &Contents) -> impl Iterator<Item = u64> {
        let groups = (0..).step_by(GROUP as usize).zip(self.groups.iter().zip(&other.groups));
        groups.filter(|(_, (ours, theirs))| !Arc::ptr_eq(ours, theirs)).flat_map(
            |(start, (ours, theirs))| {
                let pages = (start..).step_by(PAGE as usize).zip(ours.iter().zip(theirs.iter()));
                pages
                    .filter(|(_, (ours, theirs))| !is_same(ours.as_ref(), theirs.as_ref()))
                    .map(|(page, _)| page)
            },
        )
    }

    fn page(&self, offset: u64) -> Option<&Page> {
        let group = &self.groups[(offset / GROUP) as usize];
        group[(offset % GROUP / PAGE) as usize].as_deref()
    }

    fn write_in_page(&mut self, offset: u64, from: &[u8]) {
        let group = Arc::make_mut(&mut self.groups[(offset / GROUP) as usize]);
        let page = group[(offset % GROUP / PAGE) as usize]
            .get_or_insert_with(|| Arc::new([0; PAGE as usize]));
        let page = Arc::make_mut(page);
        page[in_page(offset)..][..from.len()].copy_from_slice(from);
    }
}

impl Durable for Contents {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        Contents::write(self, offset, bytes);
    }

    fn zero(&mut self, offset: u64, length: u64) {
        Contents::zero(self, offset, length);
    }
}

impl PartialEq for Contents {
    fn eq(&self, other: &Contents) -> bool {
        self.size == other.size
            && self.pages_apart(other).all(|page| {
                let [ours, theirs] =
                    [self, other].map(|contents| contents.page(page).unwrap_or(&ZEROES));
                ours == theirs
            })
    }
}

impl Eq for Contents {}

impl From<&[u8]> for Contents {
    fn from(bytes: &[u8]) -> Contents {
        let mut contents = Contents::zeroes(bytes.len() as u64);
        for (page, bytes) in (0..).step_by(PAGE as usize).zip(bytes.chunks(PAGE as usize)) {
            if *bytes != ZEROES[..bytes.len()] {
                contents.write(page, bytes);
            }
        }
        contents
    }
}

fn is_same(ours: Option<&Arc<Page>>, theirs: Option<&Arc<Page>>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
        _ => false,
    }
}

fn in_page(offset: u64) -> usize {
    (offset % PAGE) as usize
}

fn to_page_end(offset: u64) -> usize {
    (PAGE - offset % PAGE) as usize
}

/// What a page adds to the fingerprint: a sum over its words without order, of which a zero word is no
/// part, so that it is the same for a page of zeroes and for one that was never written.
fn digest(start: u64, page: Option<&Page>) -> u64 {
    let Some(page) = page else {
        return 0;
    };
    let (words, _) = page.as_chunks::<WORD>();
    let words = (start..).step_by(WORD).zip(words.iter().map(|word| u64::from_le_bytes(*word)));
    words.filter(|(_, word)| *word != 0).fold(0, |sum, (offset, word)| sum ^ mix(offset, word))
}

/// A hash of a word and its place (the finaliser of `MurmurHash3`, twice).
fn mix(offset: u64, word: u64) -> u64 {
    scramble(scramble(offset.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ word)
}

fn scramble(mut value: u64) -> u64 {
    value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_its_bytes_when_the_original_is_written() {
        let mut contents = Contents::zeroes(3 * GROUP);
        contents.write(GROUP - 2, b"abcd");
        let copy = contents.clone();
        contents.write(GROUP - 1, b"xy");
        let mut bytes = [0; 6];
        copy.read(GROUP - 3, &mut bytes);
        assert_eq!(&bytes, b"\0abcd\0");
        contents.read(GROUP - 3, &mut bytes);
        assert_eq!(&bytes, b"\0axyd\0");
        let apart: Vec<u64> = contents.pages_apart(&copy).collect();
        assert_eq!(apart, [GROUP - PAGE, GROUP]);
    }

    #[test]
    fn the_fingerprint_follows_the_bytes_and_not_their_history() {
        let mut one = Contents::zeroes(GROUP);
        let mut other = Contents::zeroes(GROUP);
        one.write(5, b"something");
        one.write(PAGE - 1, b"ab");
        let base = other.clone();
        assert_ne!(one, other);
        assert_ne!(one.fingerprint(&base), 0);
        other.write(PAGE, b"b");
        other.write(PAGE - 1, b"a");
        other.write(5, b"something");
        assert_eq!(one, other);
        assert_eq!(one.fingerprint(&base), other.fingerprint(&base));
        one.zero(0, 2 * PAGE);
        assert_eq!(one.fingerprint(&base), 0);
        assert_eq!(one, Contents::zeroes(GROUP));
        other.write(6, b"O");
        assert_eq!(other, Contents::from(&bytes(&other)[..]));
    }

    #[test]
    fn pages_never_written_are_known_to_be_zero() {
        let mut contents = Contents::zeroes(2 * GROUP);
        contents.write(GROUP + 5, b"x");
        assert_eq!(contents.next_stored(0), GROUP);
        assert_eq!(contents.next_stored(GROUP + 7), GROUP + 7);
        assert_eq!(contents.next_stored(GROUP + PAGE), 2 * GROUP);
    }

    #[test]
    fn what_comes_behind_is_zero() {
        let mut contents = Contents::zeroes(GROUP - PAGE);
        contents.write(GROUP - PAGE - 1, b"x");
        for more in [0, PAGE, GROUP + PAGE] {
            let grown = contents.clone().grown(more);
            let mut expected = bytes(&contents);
            expected.resize((GROUP - PAGE + more) as usize, 0);
            assert_eq!(bytes(&grown), expected);
        }
    }

    fn bytes(contents: &Contents) -> Vec<u8> {
        let mut bytes = vec![0; contents.size() as usize];
        contents.read(0, &mut bytes);
        bytes
    }
}
