//! Pieces of guest memory.

use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion,
    GuestRegionCollection, MemoryRegionAddress, VolatileArrayRef,
};

use crate::pmem::{GuestRegion, GuestRegionError, GuestSlice, SliceLog};

/// Guest memory, mapped.
pub type GuestRam = GuestRegionCollection<GuestRegion>;

/// Guest memory of zeroes in this process, at each of `ranges`, which are in order and do not overlap.
///
/// # Errors
///
/// There is not enough memory.
///
/// # Panics
///
/// The ranges are not in order, or overlap.
pub fn anonymous_ram(ranges: &[(GuestAddress, usize)]) -> Result<GuestRam, GuestRegionError> {
    let region = |(start, size): &(GuestAddress, usize)| GuestRegion::anonymous(*start, *size);
    let regions: Vec<GuestRegion> = ranges.iter().map(region).collect::<Result<_, _>>()?;
    Ok(GuestRam::from_regions(regions).expect("the ranges are in order"))
}

/// An address range that a descriptor names; not checked to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub address: GuestAddress,
    /// Number of bytes.
    pub length: u32,
}

/// An address range that is not guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes at guest address {address:#x} are not guest memory")]
pub struct BadAddress {
    /// First byte.
    pub address: u64,
    /// Number of bytes.
    pub length: usize,
}

/// Bytes that lie in several spans, taken from front to back.
#[derive(Debug, Clone, Copy)]
pub struct Spans<'a> {
    spans: &'a [Span],
    place: Place,
}

/// What is left of spans, which it does not borrow: [`Spans::at`] is the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first span that is not all taken.
    first: usize,
    /// Bytes of it that are taken already; fewer than it has, unless there is none.
    taken: u32,
    /// Bytes that are left.
    left: u64,
}

impl<'a> Spans<'a> {
    /// All bytes of `spans`.
    #[must_use]
    pub fn new(spans: &'a [Span]) -> Spans<'a> {
        Spans::of_length(spans, spans.iter().map(|span| u64::from(span.length)).sum())
    }

    /// All bytes of `spans`, which are `length` together.
    #[must_use]
    pub(super) fn of_length(spans: &'a [Span], length: u64) -> Spans<'a> {
        let mut new = Spans { spans, place: Place { first: 0, taken: 0, left: length } };
        new.skip_empty();
        new
    }

    /// What is left of `spans` by `place`, which is one in them.
    #[must_use]
    pub fn at(spans: &'a [Span], place: Place) -> Spans<'a> {
        Spans { spans, place }
    }

    /// What is left.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    fn first(&self) -> Option<&'a Span> {
        self.spans.get(self.place.first)
    }

    /// Number of bytes that are left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.place.left
    }

    /// Returns whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.place.left == 0
    }

    /// Without the last `count` bytes, of which there are at least as many.
    #[must_use]
    pub fn without_last(self, count: u64) -> Spans<'a> {
        Spans { place: Place { left: self.place.left - count, ..self.place }, ..self }
    }

    /// The bytes at the front that lie together in host memory: at least one, if any are left.
    #[inline]
    pub fn front<'m>(&self, memory: &'m GuestRam) -> Result<GuestSlice<'m>, BadAddress> {
        let Some(span) = self.first() else {
            return Err(BadAddress { address: 0, length: 0 });
        };
        let Place { taken, left, .. } = self.place;
        let length = u64::from(span.length - taken).min(left) as usize;
        let bad = BadAddress { address: span.address.raw_value(), length };
        let address = span.address.checked_add(taken.into()).ok_or(bad)?;
        front(memory, address, length).filter(|slice| !slice.is_empty()).ok_or(bad)
    }

    /// Takes `count` bytes off the front; there are at least as many.
    pub fn advance(&mut self, mut count: u64) {
        self.place.left -= count;
        while let Some(span) = self.first() {
            let here = u64::from(span.length - self.place.taken);
            if count < here {
                self.place.taken += count as u32;
                return;
            }
            count -= here;
            self.place.first += 1;
            self.place.taken = 0;
        }
    }

    /// Takes an object off the front; there are at least as many bytes. Each of its fields is loaded on
    /// its own, so wide ones come sooner.
    #[inline]
    pub fn object<T: ByteValued>(&mut self, memory: &GuestRam) -> Result<T, BadAddress> {
        if let Some(place) = self.whole::<T>(memory) {
            self.advance(size_of::<T>() as u64);
            return Ok(place.load(0));
        }
        self.object_in_pieces(memory)
    }

    /// The object at the front, if it lies in one span and together in host memory, as most do.
    #[inline]
    fn whole<'m, T: ByteValued>(
        &self,
        memory: &'m GuestRam,
    ) -> Option<VolatileArrayRef<'m, T, SliceLog<'m>>> {
        let (span, taken) = (self.first()?, self.place.taken);
        let is_in_span = (span.length - taken) as usize >= size_of::<T>();
        let address = span.address.checked_add(taken.into()).filter(|_| is_in_span)?;
        together(memory, address, 1)
    }

    #[cold]
    fn object_in_pieces<T: ByteValued>(&mut self, memory: &GuestRam) -> Result<T, BadAddress> {
        let mut object = T::zeroed();
        self.gather(memory, object.as_mut_slice())?;
        Ok(object)
    }

    /// Takes as many bytes as `into` has off the front, and copies them there; there are at least
    /// as many.
    pub fn gather(&mut self, memory: &GuestRam, into: &mut [u8]) -> Result<(), BadAddress> {
        let mut done = 0;
        while done < into.len() {
            let copied = self.front(memory)?.copy_to(&mut into[done..]);
            self.advance(copied as u64);
            done += copied;
        }
        Ok(())
    }

    /// Takes as many bytes as `from` has off the front, and fills them with it; there are at least
    /// as many.
    pub fn scatter(&mut self, memory: &GuestRam, from: &[u8]) -> Result<(), BadAddress> {
        let mut done = 0;
        while done < from.len() {
            let front = self.front(memory)?;
            let count = front.len().min(from.len() - done);
            front.copy_from(&from[done..done + count]);
            self.advance(count as u64);
            done += count;
        }
        Ok(())
    }

    fn skip_empty(&mut self) {
        self.advance(0);
    }
}

/// Address of the last byte of `spans`; `None`: they are empty, or it does not exist.
pub(super) fn last_byte(spans: &[Span]) -> Option<GuestAddress> {
    let last = spans.iter().rev().find(|span| span.length > 0)?;
    last.address.checked_add(u64::from(last.length) - 1)
}

/// Those of `length` bytes at `address` that are in the region of the first; `None`: that one is not guest
/// memory.
///
/// What [`GuestMemoryBackend::get_slices`] yields first; its iterator costs more than all else here.
fn front(memory: &GuestRam, address: GuestAddress, length: usize) -> Option<GuestSlice<'_>> {
    let (region, start) = region(memory, address)?;
    let here = (region.len() - start.raw_value()).min(length as u64);
    region.get_slice(start, here as usize).ok()
}

/// The region of `address`, and its place there. A search through all regions costs more than a look at the
/// first one, which many guests have no other beside.
#[inline]
fn region(memory: &GuestRam, address: GuestAddress) -> Option<(&GuestRegion, MemoryRegionAddress)> {
    let first = memory.iter().next()?;
    match address.checked_offset_from(first.start_addr()) {
        Some(offset) if offset < first.len() => Some((first, MemoryRegionAddress(offset))),
        _ => memory.to_region_addr(address),
    }
}

/// Stores `object` to guest memory.
pub fn store<T: ByteValued>(
    memory: &GuestRam,
    address: GuestAddress,
    object: T,
) -> Result<(), BadAddress> {
    if let Some(place) = together(memory, address, 1) {
        place.store(0, object);
        return Ok(());
    }
    // Across two regions, or outside of all.
    let bad = BadAddress { address: address.raw_value(), length: size_of::<T>() };
    memory.write_obj(object, address).map_err(|_| bad)
}

/// `length` objects at `address`, if they lie together in host memory.
pub(super) fn together<T: ByteValued>(
    memory: &GuestRam,
    address: GuestAddress,
    length: usize,
) -> Option<VolatileArrayRef<'_, T, SliceLog<'_>>> {
    let (region, start) = region(memory, address)?;
    region.array(start.raw_value(), length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two regions that touch, and one apart.
    fn memory() -> GuestRam {
        let ranges = [(0, 0x1000), (0x1000, 0x1000), (0x10000, 0x1000)];
        let ranges = ranges.map(|(start, size)| (GuestAddress(start), size));
        anonymous_ram(&ranges).unwrap()
    }

    fn span(address: u64, length: u32) -> Span {
        Span { address: GuestAddress(address), length }
    }

    #[test]
    fn bytes_are_gathered_and_scattered_across_spans_and_regions() {
        let memory = memory();
        let bytes: Vec<u8> = (0..100).collect();
        let spans = [span(0xff0, 0), span(0xff0, 40), span(0x10000, 0), span(0x10000, 60)];
        Spans::new(&spans).scatter(&memory, &bytes).unwrap();
        let mut found = vec![0; 100];
        let mut taken = Spans::new(&spans);
        taken.gather(&memory, &mut found[..1]).unwrap();
        taken.gather(&memory, &mut found[1..50]).unwrap();
        taken.gather(&memory, &mut found[50..]).unwrap();
        assert!(taken.is_empty());
        assert_eq!(found, bytes);
        let mut direct = [0; 24];
        memory.read_slice(&mut direct, GuestAddress(0x1000)).unwrap();
        assert_eq!(direct, bytes[16..40]);
    }

    #[test]
    fn the_front_ends_with_its_region() {
        let memory = memory();
        let spans = [span(0xff0, 40)];
        let mut taken = Spans::new(&spans);
        assert_eq!(taken.front(&memory).unwrap().len(), 16);
        taken.advance(16);
        assert_eq!(taken.front(&memory).unwrap().len(), 24);
        let shorter = taken.without_last(20);
        assert_eq!((shorter.len(), shorter.front(&memory).unwrap().len()), (4, 4));
    }

    #[test]
    fn addresses_outside_memory_are_refused() {
        let memory = memory();
        for bad in [span(0x2000, 1), span(u64::MAX, 16), span(0x10ff0, 32)] {
            let mut bytes = vec![0; bad.length as usize];
            let spans = [bad];
            assert!(Spans::new(&spans).gather(&memory, &mut bytes).is_err(), "{bad:?}");
            assert!(Spans::new(&spans).scatter(&memory, &bytes).is_err(), "{bad:?}");
        }
        assert!(store(&memory, GuestAddress(0x2000), 0u8).is_err());
    }

    #[test]
    fn the_last_byte_is_found_behind_empty_spans() {
        assert_eq!(last_byte(&[span(5, 3), span(9, 0)]), Some(GuestAddress(7)));
        assert_eq!(last_byte(&[span(5, 0)]), None);
        assert_eq!(last_byte(&[span(u64::MAX, 2)]), None);
    }

    /// Spans inside the memory, some of them empty, and some across its first two regions.
    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let inside = prop_oneof![
            (0..0x1f00u64, 0..0x100u32),
            (0xf80..0x1000u64, 0..0x100u32),
            (0x10000..0x10f00u64, 0..0x100u32),
        ];
        prop::collection::vec(inside.prop_map(|(address, length)| span(address, length)), 0..12)
    }

    /// The addresses of all bytes of spans.
    fn addresses(spans: &[Span]) -> Vec<u64> {
        let bytes = |span: &Span| span.address.0..span.address.0 + u64::from(span.length);
        spans.iter().flat_map(bytes).collect()
    }

    proptest! {
        #[test]
        fn spans_are_the_bytes_that_they_name(spans in spans(), steps in prop::collection::vec(0..300u64, 0..20)) {
            let memory = memory();
            let mut rest = Spans::new(&spans);
            let mut expected = addresses(&spans);
            prop_assert_eq!(last_byte(&spans).map(|last| last.0), expected.last().copied());
            for step in steps {
                prop_assert_eq!((rest.len(), rest.is_empty()), (expected.len() as u64, expected.is_empty()));
                if let Some(first) = expected.first() {
                    let front = rest.front(&memory).unwrap();
                    prop_assert!(!front.is_empty() && front.len() <= expected.len());
                    let start = memory.get_host_address(GuestAddress(*first)).unwrap();
                    prop_assert_eq!(front.ptr_guard().as_ptr(), start.cast_const());
                } else {
                    prop_assert!(rest.front(&memory).is_err());
                }
                let step = step.min(rest.len());
                rest.advance(step);
                expected.drain(..step as usize);
            }
        }

        #[test]
        fn what_is_scattered_is_gathered(
            spans in spans(),
            pieces in prop::collection::vec(0..200usize, 0..20),
            kept in 0..1000u64,
        ) {
            let memory = memory();
            let all = Spans::new(&spans);
            let mut to = all.without_last(all.len().saturating_sub(kept));
            let named = &addresses(&spans)[..to.len() as usize];
            let mut plain = std::collections::HashMap::new();
            let mut place = 0;
            for (piece, byte) in pieces.iter().zip(1u8..) {
                let piece = (*piece).min(to.len() as usize);
                to.scatter(&memory, &vec![byte; piece]).unwrap();
                plain.extend(named[place..place + piece].iter().map(|address| (*address, byte)));
                place += piece;
            }
            let mut from = all.without_last(all.len() - named.len() as u64);
            if from.len() >= 16 {
                let (mut first, mut gathered) = (from, [0; 16]);
                first.gather(&memory, &mut gathered).unwrap();
                let mut rest = from;
                prop_assert_eq!(rest.object::<[u8; 16]>(&memory).unwrap(), gathered);
                prop_assert_eq!(rest.place(), first.place());
            }
            let mut found = vec![0xee; named.len()];
            from.gather(&memory, &mut found).unwrap();
            let expected: Vec<u8> = named.iter().map(|at| plain.get(at).copied().unwrap_or(0)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn spans_of_any_address_are_refused_or_inside(address: u64, length: u32, skipped: u32) {
            let memory = memory();
            let spans = [span(address, length)];
            let mut rest = Spans::new(&spans);
            rest.advance(u64::from(skipped % length.max(1)).min(rest.len()));
            if let Ok(front) = rest.front(&memory) {
                prop_assert!(address < 0x11000 && front.len() <= length as usize);
            }
        }
    }
}
