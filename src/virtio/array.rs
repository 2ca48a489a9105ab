//! Access to arrays in guest memory: tables and rings.

use vm_memory::{Address, ByteValued, Bytes, GuestAddress, VolatileArrayRef};

use super::memory::{BadAddress, GuestRam, together};
use crate::pmem::SliceLog;

/// Objects that follow each other in guest memory.
///
/// Where they lie in host memory is looked up once for all of them, if they are in one region: a
/// lookup costs more than an access.
#[derive(Debug, Clone, Copy)]
pub struct GuestArray<'m, T> {
    memory: &'m GuestRam,
    address: GuestAddress,
    length: usize,
    /// `None`: they are in several regions, or not all of them are guest memory.
    together: Option<VolatileArrayRef<'m, T, SliceLog<'m>>>,
}

impl<'m, T: ByteValued> GuestArray<'m, T> {
    /// The `length` objects from `address` on; they need not exist.
    #[must_use]
    pub fn new(memory: &'m GuestRam, address: GuestAddress, length: usize) -> GuestArray<'m, T> {
        GuestArray { memory, address, length, together: together(memory, address, length) }
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The object at `index`, as it is in guest memory. An error if it is not there, or after the
    /// last.
    #[inline]
    pub fn load(&self, index: usize) -> Result<T, BadAddress> {
        match self.together {
            Some(array) if index < array.len() => Ok(array.load(index)),
            _ => self.apart(index, |memory, address| memory.read_obj(address).ok()),
        }
    }

    /// Stores `object`, as it is to be in guest memory, at `index`; errors as of [`load`](Self::load).
    #[inline]
    pub fn store(&self, index: usize, object: T) -> Result<(), BadAddress> {
        match self.together {
            Some(array) if index < array.len() => {
                array.store(index, object);
                Ok(())
            }
            _ => self.apart(index, |memory, address| memory.write_obj(object, address).ok()),
        }
    }

    /// Does something at the address of the object at `index`. The array is passed as a copy, so that where
    /// this is not called, it need not be in memory.
    #[cold]
    fn apart<R>(
        self,
        index: usize,
        act: impl FnOnce(&GuestRam, GuestAddress) -> Option<R>,
    ) -> Result<R, BadAddress> {
        let length = size_of::<T>();
        let bad = BadAddress { address: self.address.raw_value(), length };
        let offset = index.checked_mul(length).filter(|_| index < self.length).ok_or(bad)?;
        let address = self.address.checked_add(offset as u64).ok_or(bad)?;
        act(self.memory, address).ok_or(BadAddress { address: address.raw_value(), length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::anonymous_ram;

    /// Two regions that touch.
    fn memory() -> GuestRam {
        let ranges = [(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)];
        anonymous_ram(&ranges).unwrap()
    }

    #[test]
    fn objects_are_where_they_belong_in_one_region_and_in_two() {
        let memory = memory();
        for start in [0x1008u64, 0x1ffc, 0x1ff0, 0x2fe0] {
            let array = GuestArray::<u64>::new(&memory, GuestAddress(start), 4);
            for index in 0..4 {
                array.store(index, 0x1111 * (index as u64 + 1)).unwrap();
            }
            for (index, place) in (0..4).zip((start..).step_by(8)) {
                let direct: u64 = memory.read_obj(GuestAddress(place)).unwrap();
                assert_eq!(direct, 0x1111 * (index as u64 + 1), "{start:#x} {index}");
                assert_eq!(array.load(index), Ok(direct));
            }
        }
    }

    #[test]
    fn what_is_not_guest_memory_is_refused_and_what_is_is_not() {
        let memory = memory();
        let array = GuestArray::<u64>::new(&memory, GuestAddress(0x2fec), 4);
        assert_eq!((array.load(0), array.load(1)), (Ok(0), Ok(0)));
        let bad = Err(BadAddress { address: 0x2ffc, length: 8 });
        assert_eq!(array.load(2), bad);
        assert_eq!(array.store(2, 1).map(|()| 0), bad);
        for start in [0, 0xfff, 0x3000, u64::MAX] {
            assert!(GuestArray::<u64>::new(&memory, GuestAddress(start), 2).load(0).is_err());
        }
    }

    #[test]
    fn there_is_nothing_behind_the_last() {
        let memory = memory();
        let array = GuestArray::<u16>::new(&memory, GuestAddress(0x1000), 3);
        assert!(array.store(2, 1).is_ok());
        for index in [3, usize::MAX / 2 + 1, usize::MAX] {
            assert!(array.load(index).is_err() && array.store(index, 1).is_err(), "{index}");
        }
        assert!(GuestArray::<u16>::new(&memory, GuestAddress(0x1000), 0).load(0).is_err());
    }
}
