//! The space between namespaces.

use std::ops::Range;

/// What Linux wants start and size of a namespace, and the size of an NVDIMM, to be multiples of, in
/// bytes (the kernel's `default_align` of a region, `MEMREMAP_COMPAT_ALIGN_MAX`).
pub const LINUX_ALIGNMENT: u64 = 16 << 20;

/// The parts of `0..size` that none of `used` covers, by address.
pub(super) fn free_extents(size: u64, mut used: Vec<Range<u64>>) -> Vec<Range<u64>> {
    used.sort_by_key(|range| range.start);
    let mut extents = Vec::new();
    let mut start = 0;
    for range in used {
        if start < range.start {
            extents.push(start..range.start);
        }
        start = range.end.max(start);
    }
    if start < size {
        extents.push(start..size);
    }
    extents
}

/// The part of `extent` that starts and ends on multiples of `alignment`; maybe none.
fn aligned(extent: &Range<u64>, alignment: u64) -> Range<u64> {
    let start = extent.start.checked_next_multiple_of(alignment).unwrap_or(extent.end);
    let end = extent.end - extent.end % alignment;
    start.min(end)..end
}

/// Size of the largest namespace that fits into one of `extents`.
#[must_use]
pub fn largest(extents: &[Range<u64>], alignment: u64) -> u64 {
    let sizes = extents.iter().map(|extent| aligned(extent, alignment));
    sizes.map(|extent| extent.end - extent.start).max().unwrap_or(0)
}

/// Where a namespace of `size` bytes goes: the lowest place where it fits.
#[must_use]
pub(super) fn first_fit(extents: &[Range<u64>], size: u64, alignment: u64) -> Option<Range<u64>> {
    let mut extents = extents.iter().map(|extent| aligned(extent, alignment));
    let found = extents.find(|extent| extent.end - extent.start >= size)?;
    Some(found.start..found.start + size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const M: u64 = 1 << 20;

    #[test]
    fn the_first_extent_that_is_large_enough_is_taken() {
        let extents = free_extents(256 * M, vec![64 * M..128 * M, 16 * M..32 * M]);
        assert_eq!(extents, [0..16 * M, 32 * M..64 * M, 128 * M..256 * M]);
        assert_eq!(first_fit(&extents, 16 * M, 16 * M), Some(0..16 * M));
        assert_eq!(first_fit(&extents, 32 * M, 16 * M), Some(32 * M..64 * M));
        assert_eq!(first_fit(&extents, 48 * M, 16 * M), Some(128 * M..176 * M));
        assert_eq!(first_fit(&extents, 144 * M, 16 * M), None);
        assert_eq!(largest(&extents, 16 * M), 128 * M);
        assert_eq!(free_extents(32 * M, vec![0..16 * M, 16 * M..32 * M]), []);
        assert_eq!(free_extents(3 * M, vec![M..2 * M, M..M + 1]), [0..M, 2 * M..3 * M]);
        assert_eq!(largest(&[], 16 * M), 0);
    }

    #[test]
    fn what_cannot_be_aligned_is_no_use() {
        // Namespaces that were made with another alignment leave odd ends.
        let extents = free_extents(65 * M, vec![0..M, 24 * M..33 * M]);
        assert_eq!(extents, [M..24 * M, 33 * M..65 * M]);
        assert_eq!(largest(&extents, 16 * M), 16 * M);
        assert_eq!(first_fit(&extents, 16 * M, 16 * M), Some(48 * M..64 * M));
        assert_eq!(first_fit(&extents, 16 * M, 4096), Some(M..17 * M));
        assert_eq!(largest(&extents, 4096), 32 * M);
    }

    proptest! {
        #[test]
        fn what_is_allocated_is_free_and_aligned(
            cuts in prop::collection::btree_set(0..1000u64, 0..20),
            size in 1..200u64,
            shift in 0..6u32,
        ) {
            let alignment = 1 << shift;
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let used: Vec<Range<u64>> = cuts.chunks_exact(2).map(|ends| ends[0]..ends[1]).collect();
            let extents = free_extents(1000, used.clone());
            let total: u64 = extents.iter().chain(&used).map(|range| range.end - range.start).sum();
            prop_assert_eq!(total, 1000);
            let size = u64::next_multiple_of(size, alignment);
            match first_fit(&extents, size, alignment) {
                Some(place) => {
                    prop_assert_eq!(place.end - place.start, size);
                    prop_assert!(place.start % alignment == 0 && place.end <= 1000);
                    prop_assert!(used.iter().all(|used| used.end <= place.start || place.end <= used.start));
                }
                None => prop_assert!(largest(&extents, alignment) < size),
            }
        }
    }
}
