//! Quiescing: waits until no request in flight can access a part of a file.
//!
//! A guest's requests may use a window as their buffer, also the window of another device: the frontend
//! presents what it maps for the guest to all devices as memory. A worker takes a snapshot of guest
//! memory for each batch. It is therefore not enough that the frontend has unmapped a range and removed
//! it from guest memory: a batch that began before may still store to it.

use std::ops::Range;

use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use super::super::queue::{Memory, Ring};
use crate::pmem::{GuestRegion, SharedFile};

/// Waits until the batch of `ring` that is under way is over. Returns whether those that come after it cannot get at
/// the bytes `ranges` of `file`: guest memory shows none of them, or the ring is stopped, and frontends say
/// anew what guest memory is before they start one.
pub(super) fn lets_go_of(
    ring: &Ring,
    memory: &Memory,
    file: &SharedFile,
    ranges: &[Range<u64>],
) -> bool {
    let state = ring.lock();
    !state.is_running() || !memory.memory().iter().any(|region| shows(region, file, ranges))
}

/// Returns whether a part of guest memory is one of `file`, too.
fn shows(region: &GuestRegion, file: &SharedFile, ranges: &[Range<u64>]) -> bool {
    let Some(place) = region.file_offset() else { return false };
    let (start, end) = (place.start(), place.start().saturating_add(region.len()));
    let overlaps = |range: &Range<u64>| range.start < end && start < range.end;
    // If that is not known, it is not known to be another.
    ranges.iter().any(overlaps) && file.is(place.file()).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::slice;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use vm_memory::{Bytes, GuestAddress};

    use super::super::Windows;
    use super::*;
    use crate::pmem::{DurabilityRequest, Mapping, Protection};
    use crate::vhost_user::queue::RingPlaces;
    use crate::virtio::GuestRam;

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
            let windows = Windows::new("quiet", Vec::new());
            windows.start(0, &ring, &memory);
            Scenario { file, shared_file, memory, ring, windows }
        }

        fn lets_go_of(&self, range: Range<u64>) -> bool {
            self.windows.lets_go_of(&self.shared_file, &[range])
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
                let lets_go = scenario.lets_go_of(4096..8192);
                is_over.store(true, Ordering::Release);
                lets_go
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
    fn what_is_guest_memory_still_is_not_let_go_while_its_rings_run() {
        let scenario = Scenario::new();
        assert!(!scenario.lets_go_of(0..4097));
        assert!(!scenario.lets_go_of(8191..8192));
        // Its neighbours, and the same bytes of another file.
        assert!(scenario.lets_go_of(0..4096) && scenario.lets_go_of(8192..SIZE));
        let Scenario { shared_file: other, .. } = Scenario::new();
        assert!(scenario.windows.lets_go_of(&other, slice::from_ref(&(4096..8192))));
        // The same file, opened by another process.
        assert!(scenario.shared_file.is(&scenario.file).unwrap());
        scenario.ring.lock().is_enabled = false;
        assert!(scenario.lets_go_of(4096..8192));
        scenario.ring.lock().is_enabled = true;
        assert!(!scenario.lets_go_of(4096..8192));
        scenario.memory.lock().unwrap().replace(GuestRam::new());
        assert!(scenario.lets_go_of(4096..8192));
    }
}
