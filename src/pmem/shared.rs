//! A medium with several owners, by reference counting.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::{Durability, Intent, MediaError, PersistentMemory};

impl<M: PersistentMemory + ?Sized> PersistentMemory for Arc<M> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn durability(&self) -> Durability {
        (**self).durability()
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        (**self).load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        (**self).load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        (**self).store_u32(offset, value)
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        (**self).store_u64(offset, value)
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        (**self).read(offset, into)
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        (**self).write(offset, from)
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        (**self).flush(offset, length)
    }

    fn fence(&self) -> Result<(), MediaError> {
        (**self).fence()
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        (**self).zero(offset, length)
    }

    fn sync(&self) -> Result<(), MediaError> {
        (**self).sync()
    }

    fn sync_range(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        (**self).sync_range(offset, length)
    }

    fn sync_takes_time(&self) -> bool {
        (**self).sync_takes_time()
    }

    fn sync_failure(&self) -> Option<MediaError> {
        (**self).sync_failure()
    }

    fn sync_has_failed(&self) -> bool {
        (**self).sync_has_failed()
    }

    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        (**self).touch_u32(offset)
    }

    fn store_u64_pair(&self, offset: u64, first: u64, second: u64) -> Result<(), MediaError> {
        (**self).store_u64_pair(offset, first, second)
    }

    fn store_line(&self, offset: u64, words: [u64; 8]) -> Result<(), MediaError> {
        (**self).store_line(offset, words)
    }

    fn is_cached(&self, offset: u64) -> bool {
        (**self).is_cached(offset)
    }

    fn prefetch(&self, offset: u64, length: u64, intent: Intent) {
        (**self).prefetch(offset, length, intent);
    }

    fn next_stored(&self, offset: u64) -> u64 {
        (**self).next_stored(offset)
    }

    fn read_bytes(&self, offset: u64, into: &mut [u8]) -> Result<(), MediaError> {
        (**self).read_bytes(offset, into)
    }

    fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<(), MediaError> {
        (**self).write_bytes(offset, from)
    }
}
