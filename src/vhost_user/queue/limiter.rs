//! Rate limits: token buckets, each shared by the queues of a disk or of a group of disks.
//!
//! A request is charged when it was carried out, and the last one may take more than there is: the bucket is
//! then in debt, and nothing is taken off the rings until the debt is paid. So requests of any size are
//! possible, and the rate is kept over time all the same. A queue that has to wait is told when it may go on,
//! and may carry out one request then, whatever other queues have taken meanwhile: none is starved.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Tokens that it holds, and that come back in `refill_time`; not zero.
    pub size: u64,
    /// Tokens that it has beside these at first, once.
    pub one_time_burst: u64,
    /// How long it takes from empty to full; not zero.
    pub refill_time: Duration,
}

/// The limits of a disk, or of a group of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimit {
    /// Tokens are bytes.
    pub bandwidth: Option<BucketConfig>,
    /// Tokens are requests.
    pub operations: Option<BucketConfig>,
}

/// A bucket and what is in it.
#[derive(Debug)]
struct Bucket {
    config: BucketConfig,
    /// Negative: more was taken than there was.
    balance: i128,
    burst: u64,
    /// Until when tokens were added.
    filled: Instant,
}

impl Bucket {
    fn new(config: BucketConfig, now: Instant) -> Bucket {
        let (balance, burst) = (i128::from(config.size), config.one_time_burst);
        Bucket { config, balance, burst, filled: now }
    }

    /// Adds the tokens that have come back by `now`.
    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        let period = self.config.refill_time.as_nanos().max(1);
        let size = u128::from(self.config.size);
        let tokens = elapsed.saturating_mul(size) / period;
        if tokens == 0 {
            return;
        }
        let full = i128::from(self.config.size);
        let added = self.balance.saturating_add(i128::try_from(tokens).unwrap_or(i128::MAX));
        if added >= full {
            (self.balance, self.filled) = (full, now);
        } else {
            // The time of what is less than a token is kept.
            let spent = u64::try_from(tokens * period / size).unwrap_or(u64::MAX);
            self.balance = added;
            self.filled += Duration::from_nanos(spent);
        }
    }

    fn take(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        self.balance -= i128::from(tokens - from_burst);
    }

    fn has_some(&self) -> bool {
        self.burst > 0 || self.balance > 0
    }

    /// When there is a token, if no other queue takes one.
    fn ready_at(&self) -> Option<Instant> {
        if self.has_some() {
            return None;
        }
        let missing = (1 - self.balance).unsigned_abs();
        let period = self.config.refill_time.as_nanos();
        let wait = missing.saturating_mul(period).div_ceil(u128::from(self.config.size).max(1));
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        // A wait beyond what the clock can say is one for ever.
        Some(self.filled.checked_add(wait).unwrap_or(self.filled + Duration::from_secs(1 << 30)))
    }
}

/// The buckets of a disk, or of a group.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct Limiter {
    is_active: AtomicBool,
    /// How often the limits were changed.
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limit: RateLimit,
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
}

impl State {
    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.bandwidth.iter_mut().chain(&mut self.operations)
    }
}

impl Limiter {
    /// Sets other limits, whose buckets are full.
    pub(in crate::vhost_user) fn set(&self, limit: RateLimit, now: Instant) {
        let mut state = self.state();
        let bucket = |config: Option<BucketConfig>| config.map(|config| Bucket::new(config, now));
        *state = State {
            limit,
            bandwidth: bucket(limit.bandwidth),
            operations: bucket(limit.operations),
        };
        self.is_active.store(limit != RateLimit::default(), Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The limits.
    pub(in crate::vhost_user) fn limit(&self) -> RateLimit {
        self.state().limit
    }

    /// Takes the tokens of a request. Returns whether there are tokens left.
    fn charge(&self, bytes: u64) -> bool {
        let mut state = self.state();
        if let Some(bandwidth) = &mut state.bandwidth {
            bandwidth.take(bytes);
        }
        if let Some(operations) = &mut state.operations {
            operations.take(1);
        }
        state.buckets().all(|bucket| bucket.has_some())
    }

    /// When a request may be carried out; `None`: now.
    fn ready_at(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        state.buckets().for_each(|bucket| bucket.refill(now));
        state.buckets().filter_map(|bucket| bucket.ready_at()).max()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers, each of which is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limiters that a disk is subject to: its own, and that of its group.
#[derive(Debug, Default)]
pub(in crate::vhost_user) struct Limits {
    own: Limiter,
    group: OnceLock<Arc<Limiter>>,
}

impl Limits {
    /// The disk's own limiter.
    pub(in crate::vhost_user) fn own(&self) -> &Limiter {
        &self.own
    }

    /// The limiter of its group.
    pub(in crate::vhost_user) fn group(&self) -> Option<&Arc<Limiter>> {
        self.group.get()
    }

    /// Puts the disk into a group, if it is in none.
    pub(in crate::vhost_user) fn join(&self, group: Arc<Limiter>) {
        let _ = self.group.set(group);
    }

    /// Returns whether there is a limit.
    pub(in crate::vhost_user) fn is_limited(&self) -> bool {
        self.all().any(|limiter| limiter.is_active.load(Ordering::Relaxed))
    }

    /// Takes the tokens of a request. Returns whether there are tokens left.
    pub(in crate::vhost_user) fn charge(&self, bytes: u64) -> bool {
        // Each of them, whatever the others say.
        self.all().filter(|limiter| !limiter.charge(bytes)).count() == 0
    }

    fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.all().filter_map(|limiter| limiter.ready_at(now)).max()
    }

    fn generation(&self) -> u64 {
        self.all().map(|limiter| limiter.generation.load(Ordering::Relaxed)).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Limiter> {
        std::iter::once(&self.own).chain(self.group.get().map(|group| &**group))
    }
}

/// When one queue may go on.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    /// When it has to wait: since when, until when, and by which limits.
    waits: Option<(Instant, Instant, u64)>,
}

/// What a queue may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Carry out requests. The time is how long it has waited for that.
    Go(Duration),
    /// Wait for so long, and ask again.
    Wait(Duration),
}

impl Turnstile {
    /// True if the queue has been told to wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits.is_some()
    }

    /// Says whether a queue that is subject to `limits` may carry out requests.
    pub(super) fn admit(&mut self, limits: &Limits, now: Instant) -> Admission {
        let generation = limits.generation();
        let since = match self.waits {
            Some((since, until, by)) if by == generation => {
                if now < until {
                    return Admission::Wait(until - now);
                }
                self.waits = None;
                return Admission::Go(now - since);
            }
            Some((since, ..)) => since,
            None => now,
        };
        match limits.ready_at(now) {
            Some(until) if until > now => {
                self.waits = Some((since, until, generation));
                Admission::Wait(until - now)
            }
            _ => {
                self.waits = None;
                Admission::Go(now - since)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn per_second(size: u64) -> BucketConfig {
        BucketConfig { size, one_time_burst: 0, refill_time: SECOND }
    }

    fn limits(limit: RateLimit, now: Instant) -> Limits {
        let limits = Limits::default();
        limits.own().set(limit, now);
        limits
    }

    /// How many requests of `bytes` each of `queues` queues carries out in `time`, each taking what it may
    /// and sleeping as it is told.
    fn carried_out(
        limits: &Limits,
        begin: Instant,
        time: Duration,
        bytes: u64,
        queues: usize,
    ) -> Vec<u64> {
        let mut turnstiles: Vec<_> =
            (0..queues).map(|_| (Turnstile::default(), begin, 0)).collect();
        loop {
            let next = turnstiles.iter_mut().min_by_key(|(_, wakes, _)| *wakes).unwrap();
            let (turnstile, wakes, done) = next;
            let now = *wakes;
            if now - begin >= time {
                return turnstiles.into_iter().map(|(.., done)| done).collect();
            }
            match turnstile.admit(limits, now) {
                Admission::Wait(wait) => *wakes = now + wait,
                Admission::Go(_) => {
                    *done += 1;
                    while limits.charge(bytes) {
                        *done += 1;
                    }
                    // Something takes time always.
                    *wakes = now + Duration::from_nanos(1);
                }
            }
        }
    }

    #[test]
    fn a_limit_on_requests_is_kept() {
        let begin = Instant::now();
        let limits =
            limits(RateLimit { operations: Some(per_second(1000)), ..RateLimit::default() }, begin);
        // What the bucket holds at first comes on top.
        let done = carried_out(&limits, begin, 10 * SECOND, 4096, 1)[0];
        assert!((10_990..=11_010).contains(&done), "{done}");
    }

    #[test]
    fn a_limit_on_bytes_is_kept_for_requests_that_are_larger_than_the_bucket() {
        for bytes in [512, 4096, 1 << 20, 50 << 20] {
            let begin = Instant::now();
            let size = 10 << 20;
            let limit = RateLimit { bandwidth: Some(per_second(size)), ..RateLimit::default() };
            let limits = limits(limit, begin);
            let done = carried_out(&limits, begin, 100 * SECOND, bytes, 1)[0] * bytes;
            let fair = 101 * size;
            // Times are whole nanoseconds.
            let tolerance = bytes + fair / 100_000;
            assert!(done.abs_diff(fair) <= tolerance, "{bytes}: {done} of {fair}");
        }
    }

    #[test]
    fn no_queue_is_starved() {
        let begin = Instant::now();
        let limit = RateLimit { operations: Some(per_second(100)), ..RateLimit::default() };
        let limits = limits(limit, begin);
        let done = carried_out(&limits, begin, 100 * SECOND, 4096, 4);
        let sum: u64 = done.iter().sum();
        assert!((10_000..=10_200).contains(&sum), "{done:?}");
        // The bucket's first contents are whose who comes first.
        assert!(done.iter().all(|queue| *queue > 2000), "{done:?}");
    }

    #[test]
    fn a_burst_is_had_once() {
        let begin = Instant::now();
        let config = BucketConfig { size: 10, one_time_burst: 500, refill_time: SECOND };
        let limit = RateLimit { operations: Some(config), ..RateLimit::default() };
        let done = carried_out(&limits(limit, begin), begin, 10 * SECOND, 0, 1)[0];
        assert!((609..=611).contains(&done), "{done}");
    }

    #[test]
    fn a_group_shares_its_limit_and_the_stricter_one_counts() {
        let begin = Instant::now();
        let group = Arc::new(Limiter::default());
        group.set(RateLimit { operations: Some(per_second(50)), ..RateLimit::default() }, begin);
        let own = RateLimit { operations: Some(per_second(1000)), ..RateLimit::default() };
        let disk = limits(own, begin);
        disk.join(group.clone());
        let done = carried_out(&disk, begin, 10 * SECOND, 0, 1)[0];
        assert!((549..=550).contains(&done), "{done}");
        // Nothing is left for its neighbour.
        let other = Limits::default();
        other.join(group);
        while other.charge(0) {}
        let mut turnstile = Turnstile::default();
        let wait = turnstile.admit(&other, begin + 10 * SECOND);
        assert!(matches!(wait, Admission::Wait(wait) if wait <= SECOND / 50), "{wait:?}");
    }

    #[test]
    fn a_wait_ends_with_the_limit_that_caused_it() {
        let begin = Instant::now();
        let limits =
            limits(RateLimit { operations: Some(per_second(1)), ..RateLimit::default() }, begin);
        let mut turnstile = Turnstile::default();
        assert_eq!(turnstile.admit(&limits, begin), Admission::Go(Duration::ZERO));
        for _ in 0..100 {
            limits.charge(0);
        }
        assert_eq!(turnstile.admit(&limits, begin), Admission::Wait(100 * SECOND));
        limits.own().set(RateLimit::default(), begin);
        let later = begin + SECOND;
        assert_eq!(turnstile.admit(&limits, later), Admission::Go(SECOND));
        assert!(!limits.is_limited());
    }
}
