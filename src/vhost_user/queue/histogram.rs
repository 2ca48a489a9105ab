//! Distributions of times, in buckets whose width is a quarter of a power of two.

use super::counters::Counter;

/// Times below this are in the first buckets, in nanoseconds, as a power of two.
const UNIT_BITS: u32 = 8;
/// Buckets of a histogram: the last holds everything from 2^38 ns, some minutes, on.
pub(in crate::vhost_user) const BUCKETS: usize = 120;

/// How often each length of time has occurred.
#[derive(Debug)]
pub(in crate::vhost_user) struct Histogram {
    buckets: [Counter; BUCKETS],
    total: Counter,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: std::array::from_fn(|_| Counter::default()),
            total: Counter::default(),
        }
    }
}

impl Histogram {
    /// Counts a time, whose bucket is known, `count` times.
    pub(in crate::vhost_user) fn add(&self, bucket: usize, count: u64, nanoseconds: u64) {
        if let Some(counter) = self.buckets.get(bucket) {
            counter.add(count);
        }
        self.total.add(count.wrapping_mul(nanoseconds));
    }

    /// The sum of all times, in nanoseconds.
    pub(in crate::vhost_user) fn total(&self) -> u64 {
        self.total.get()
    }

    /// The buckets that hold something: the time below which all in them are, in nanoseconds, and how many
    /// there are.
    pub(in crate::vhost_user) fn buckets(&self) -> Vec<(u64, u64)> {
        let counts = self.buckets.iter().enumerate();
        let filled = counts.map(|(bucket, count)| (upper_bound(bucket), count.get()));
        filled.filter(|(_, count)| *count > 0).collect()
    }
}

/// The bucket of a time.
pub(in crate::vhost_user) fn bucket_of(nanoseconds: u64) -> usize {
    let units = nanoseconds >> UNIT_BITS;
    if units < 4 {
        return units as usize;
    }
    let exponent = units.ilog2();
    let quarter = units >> (exponent - 2) & 3;
    (((exponent - 1) << 2) as usize + quarter as usize).min(BUCKETS - 1)
}

/// The time that the times in a bucket are below, in nanoseconds.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let units = if bucket < 4 {
        bucket + 1
    } else {
        let exponent = bucket / 4 + 1;
        (5 + bucket % 4) << (exponent - 2)
    };
    units << UNIT_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_buckets_follow_each_other() {
        for bucket in 0..BUCKETS - 1 {
            let end = upper_bound(bucket);
            assert_eq!((bucket_of(end - 1), bucket_of(end)), (bucket, bucket + 1));
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_bucket_is_a_quarter_of_its_times_wide(time in 1024u64..1 << 38) {
            let bound = upper_bound(bucket_of(time));
            prop_assert!(time < bound && bound <= time + time / 4 + 256, "{time} {bound}");
        }
    }

    #[test]
    fn times_are_counted_where_they_belong() {
        let histogram = Histogram::default();
        for time in [100, 200, 5000] {
            histogram.add(bucket_of(time), 1, time);
        }
        assert_eq!((histogram.buckets(), histogram.total()), (vec![(256, 2), (5120, 1)], 5300));
    }
}
