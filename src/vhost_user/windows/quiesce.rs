//! Quiescing: waits until no request in flight can access a part of a file.
//!
//! A guest's requests may use a window as their buffer, also the window of another device: the frontend
//! presents what it maps for the guest to all devices as memory. A worker takes a snapshot of guest
//! memory for each batch. It is therefore not enough that the frontend has unmapped a range and removed
//! it from guest memory: a batch that began before may still store to it.

use std::ops::Range;
use std::time::Instant;

use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use super::super::queue::{Memory, Ring};
use crate::pmem::{GuestRegion, SharedFile};

/// Waits until the batch of `ring` that is under way has ended, until `deadline` at most. Returns whether it
/// has, and later batches cannot access the bytes `ranges` of `file`: guest memory has none of them, or the ring
/// is stopped, and a frontend sends a new memory table before it starts one.
pub(super) fn wait_until_unmapped(
    ring: &Ring,
    memory: &Memory,
    file: &SharedFile,
    ranges: &[Range<u64>],
    deadline: Instant,
) -> bool {
    let Some(state) = ring.lock_until(deadline) else { return false };
    !state.is_running() || !memory.memory().iter().any(|region| overlaps(region, file, ranges))
}

/// Returns whether a region of guest memory is mapped from the bytes `ranges` of `file`.
fn overlaps(region: &GuestRegion, file: &SharedFile, ranges: &[Range<u64>]) -> bool {
    let Some(place) = region.file_offset() else { return false };
    let (start, end) = (place.start(), place.start().saturating_add(region.len()));
    let overlap = |range: &Range<u64>| range.start < end && start < range.end;
    // A file that cannot be compared may be the same one.
    ranges.iter().any(overlap) && file.is(place.file()).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::slice;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use vm_memory::{Bytes, GuestAddress};

    use super::super::Windows;
    use super::*;
    use crate::pmem::{DurabilityRequest, Mapping, Protection};
    use crate::vhost_user::queue::RingPlaces;
    use crate::virtio::GuestRam;

    /// Longer than any batch of these tests.
    const PATIENCE: Duration = Duration::from_secs(60);

    const SIZE: u64 = 16384;
    const PLACE: GuestAddress = GuestAddress(0);

    /// A device whose guest has a part of a file in its memory, from byte 4096 on.
    struct Scenario {
        file: File,
        shared_file: SharedFile,
        memory: Memory,
        ring: Arc<Ring>,
        windows: Windows,
    }

    impl Scenario {
        fn new() -> Scenario {
            let file = tempfile::tempfile().unwrap();
            file.set_len(SIZE).unwrap();
            let (protection, durability) = (Protection::ReadWrite, DurabilityRequest::Auto);
            let mapping =
                Mapping::new(file.try_clone().unwrap(), 0..SIZE, protection, durability).unwrap();
            let shared_file = mapping.share_file(protection).unwrap();
            let region = GuestRegion::map(file.try_clone().unwrap(), 4096, PLACE, 4096);
            let memory = Memory::new(GuestRam::from_regions(vec![region.unwrap()]).unwrap());
            let ring = Arc::new(Ring::new(16).unwrap());
            let places = RingPlaces { descriptors: 0, available: 0x100, used: 0x200 };
            ring.start(16, places, false).unwrap();
            let windows = Windows::new("quiesce", Vec::new());
            windows.start(0, &ring, &memory);
            Scenario { file, shared_file, memory, ring, windows }
        }

        fn quiesce(&self, range: Range<u64>) -> bool {
            self.windows.quiesce(&self.shared_file, &[range], Instant::now() + PATIENCE)
        }
    }

    #[test]
    fn a_batch_that_is_under_way_ends_before_its_memory_is_let_go() {
        let scenario = Scenario::new();
        let (batch, snapshot) = (scenario.ring.lock_for_worker(), scenario.memory.memory());
        scenario.memory.lock().unwrap().replace(GuestRam::new());
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let is_quiet = scenario.quiesce(4096..8192);
                is_over.store(true, Ordering::Release);
                is_quiet
            });
            while !scenario.ring.is_wanted() && !is_over.load(Ordering::Acquire) {
                thread::yield_now();
            }
            // What would be another's by now.
            snapshot.write_obj(0x5au8, PLACE).unwrap();
            assert!(!is_over.load(Ordering::Acquire), "the batch was not waited for");
            drop(batch);
            assert!(asked.join().unwrap());
        });
    }

    #[test]
    fn a_batch_that_does_not_end_is_waited_for_until_the_deadline() {
        let scenario = Scenario::new();
        scenario.memory.lock().unwrap().replace(GuestRam::new());
        let batch = scenario.ring.lock_for_worker();
        let deadline = Instant::now() + Duration::from_millis(5);
        let range = slice::from_ref(&(4096..8192));
        assert!(!scenario.windows.quiesce(&scenario.shared_file, range, deadline));
        assert!(Instant::now() >= deadline);
        drop(batch);
        assert!(scenario.quiesce(4096..8192));
    }

    #[test]
    fn what_is_guest_memory_still_is_not_let_go_while_its_rings_run() {
        let scenario = Scenario::new();
        assert!(!scenario.quiesce(0..4097));
        assert!(!scenario.quiesce(8191..8192));
        // Its neighbours, and the same bytes of another file.
        assert!(scenario.quiesce(0..4096) && scenario.quiesce(8192..SIZE));
        let Scenario { shared_file: other, .. } = Scenario::new();
        assert!(scenario.windows.quiesce(&other, slice::from_ref(&(4096..8192)), Instant::now()));
        // The same file, opened by another process.
        assert!(scenario.shared_file.is(&scenario.file).unwrap());
        scenario.ring.lock().is_enabled = false;
        assert!(scenario.quiesce(4096..8192));
        scenario.ring.lock().is_enabled = true;
        assert!(!scenario.quiesce(4096..8192));
        scenario.memory.lock().unwrap().replace(GuestRam::new());
        assert!(scenario.quiesce(4096..8192));
    }
}
