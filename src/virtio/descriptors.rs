//! Walks descriptor chains through the guest's tables.
//!
//! It does the same as `virtio-queue`, which looks up the address of each descriptor separately.

use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestAddress;

use super::array::GuestArray;
use super::memory::GuestRam;

/// Bytes of a descriptor (VIRTIO 1.2, 2.7.5).
const DESCRIPTOR_SIZE: u32 = 16;

/// Most descriptors of a chain, indirect ones included. A driver must not exceed the size of its ring
/// (VIRTIO 1.2, 2.7.5.3.1); Linux keeps to the segments of a request instead, with rings that are smaller.
pub(super) const MOST_DESCRIPTORS: usize = 1024;

/// A descriptor as it lies in guest memory, in words that are loaded at once.
type Words = [u64; 2];

const _: () = assert!(size_of::<Words>() == DESCRIPTOR_SIZE as usize);

/// The fields of a descriptor (VIRTIO 1.2, 2.7.5): address; length, flags and next.
fn descriptor([address, rest]: Words) -> Descriptor {
    let (address, rest) = (u64::from_le(address), u64::from_le(rest));
    Descriptor::new(address, rest as u32, (rest >> 32) as u16, (rest >> 48) as u16)
}

/// The descriptor table of a ring.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorTable<'m> {
    memory: &'m GuestRam,
    descriptors: GuestArray<'m, Words>,
}

impl<'m> DescriptorTable<'m> {
    /// The `size` descriptors from `address` on; they need not exist.
    #[must_use]
    pub fn new(memory: &'m GuestRam, address: GuestAddress, size: u16) -> DescriptorTable<'m> {
        DescriptorTable { memory, descriptors: GuestArray::new(memory, address, size.into()) }
    }

    /// The chain whose first descriptor is at `head`, which may be none of the table's.
    #[inline]
    #[must_use]
    pub fn chain(&self, head: u16) -> DescriptorChain<'m> {
        let left = self.most();
        DescriptorChain { table: *self, head, next: head, left, bytes: 0, is_indirect: false }
    }

    /// Most descriptors of a chain in the table.
    fn most(&self) -> usize {
        self.descriptors.len().min(MOST_DESCRIPTORS)
    }

    /// The table that `descriptor` refers to, if it is of whole descriptors.
    #[inline(never)]
    fn indirect(memory: &'m GuestRam, descriptor: Descriptor) -> Option<DescriptorTable<'m>> {
        let size = u16::try_from(descriptor.len() / DESCRIPTOR_SIZE).ok()?;
        let is_whole = descriptor.len().is_multiple_of(DESCRIPTOR_SIZE);
        is_whole.then(|| DescriptorTable::new(memory, descriptor.addr(), size))
    }
}

/// The descriptors of a chain, one after another.
///
/// There are no more after one that is not in its table or not in guest memory, as many as its table
/// has or `MOST_DESCRIPTORS`, a table inside of a table or one that is not of whole descriptors, and 4 GiB of buffers
/// (VIRTIO 1.2, 2.7.5.2 and 2.7.5.3.1): then the last one says that another follows, or there is none.
#[derive(Debug)]
pub struct DescriptorChain<'m> {
    table: DescriptorTable<'m>,
    head: u16,
    next: u16,
    /// How many may follow, so that a loop ends.
    left: usize,
    /// Bytes of buffers so far.
    bytes: u32,
    is_indirect: bool,
}

impl DescriptorChain<'_> {
    /// Index of the first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Goes on at the start of the table that `descriptor` refers to.
    #[inline]
    fn enter(&mut self, descriptor: Descriptor) -> Option<()> {
        if self.is_indirect {
            return None;
        }
        self.table = DescriptorTable::indirect(self.table.memory, descriptor)?;
        (self.next, self.left, self.is_indirect) = (0, self.table.most(), true);
        Some(())
    }

    /// The next descriptor, if there can be one.
    #[inline]
    fn step(&self) -> Option<Descriptor> {
        if self.left == 0 {
            return None;
        }
        self.table.descriptors.load(self.next.into()).ok().map(descriptor)
    }
}

impl Iterator for DescriptorChain<'_> {
    type Item = Descriptor;

    #[allow(clippy::inline_always, reason = "called for each descriptor, from one place")]
    #[inline(always)]
    fn next(&mut self) -> Option<Descriptor> {
        let mut descriptor = self.step()?;
        if descriptor.refers_to_indirect_table() {
            self.enter(descriptor)?;
            descriptor = self.step().filter(|found| !found.refers_to_indirect_table())?;
        }
        self.bytes = self.bytes.checked_add(descriptor.len())?;
        if descriptor.has_next() {
            self.next = descriptor.next();
            self.left -= 1;
        } else {
            self.left = 0;
        }
        Some(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_queue::{Queue, QueueOwnedT, QueueT};
    use vm_memory::Bytes;

    use super::*;
    use crate::virtio::anonymous_ram;

    const SIZE: u16 = 8;
    /// Of the ring's parts; two tables of indirect descriptors follow the ring's own.
    const AVAILABLE: u64 = 0x1000;
    /// Where two regions touch: in the middle of the second table.
    const BORDER: u64 = 0x100;
    const END: u64 = 0x2000;

    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let address = prop_oneof![
            (0..0x20u64).prop_map(|place| 16 * place),
            Just(END - 16),
            Just(u64::MAX - 7),
            any::<u64>(),
        ];
        let length = prop_oneof![
            (0..10u32).prop_map(|count| 16 * count),
            0..100u32,
            Just(1 << 20),
            Just(u32::MAX - 20),
            any::<u32>(),
        ];
        // NEXT, WRITE, INDIRECT, mostly with a next one.
        let flags = prop_oneof![3 => Just(1u16), 2 => Just(3), 1 => 0..8u16];
        (address, length, flags, 0..SIZE + 2).prop_map(|(address, length, flags, next)| {
            Descriptor::new(address, length, flags, next)
        })
    }

    fn fields(descriptor: Descriptor) -> (u64, u32, u16, u16) {
        (descriptor.addr().0, descriptor.len(), descriptor.flags(), descriptor.next())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Of any tables: virtio-queue is the model.
        #[test]
        fn a_chain_is_what_virtio_queue_finds(
            table in 0..3u64,
            descriptors in prop::collection::vec(descriptor(), 24),
            head in 0..SIZE + 2,
        ) {
            let ranges = [(0, BORDER), (BORDER, END - BORDER)];
            let ranges = ranges.map(|(start, size)| (GuestAddress(start), size as usize));
            let memory = anonymous_ram(&ranges).unwrap();
            for (descriptor, place) in descriptors.iter().zip((0..).step_by(16)) {
                memory.write_obj(*descriptor, GuestAddress(place)).unwrap();
            }
            // In one region, in two, and at the end of memory.
            let start = [0, 0xc0, END - 64][table as usize];
            memory.write_slice(&[0, 0, 1, 0], GuestAddress(AVAILABLE)).unwrap();
            memory.write_obj(head, GuestAddress(AVAILABLE + 4)).unwrap();
            let mut ring = Queue::new(SIZE).unwrap();
            ring.try_set_desc_table_address(GuestAddress(start)).unwrap();
            ring.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
            ring.set_ready(true);
            let model = ring.iter(&memory).unwrap().next().unwrap();
            let chain = DescriptorTable::new(&memory, GuestAddress(start), SIZE).chain(head);
            prop_assert_eq!(chain.head(), model.head_index());
            prop_assert!(chain.map(fields).eq(model.map(fields)));
        }
    }
}
