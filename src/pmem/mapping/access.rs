//! Loads, stores, copies and fences of a mapping.

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use vm_memory::VolatileSlice;

use super::{HAS_STREAMED, Mapping, Protection};
use crate::pmem::cpu;
use crate::pmem::{
    Access, Backing, CACHE_LINE, Cause, Durability, Intent, MediaError, PersistentMemory,
};

impl PersistentMemory for Mapping {
    fn size(&self) -> u64 {
        self.size
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    // The engine loads two words for each sector: what is rare stays out of line.
    #[inline]
    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        let address = self.checked_word(Access::Read, offset, 4)?;
        if self.spares_holes && self.is_hole(offset, 4) {
            return Ok(0);
        }
        // SAFETY: checked to be aligned and inside the mapping.
        match unsafe { cpu::load_u32(address.cast()) } {
            Ok(word) => Ok(u32::from_le(word)),
            Err(fault) => self.load_from_file(offset, fault).map(u32::from_le_bytes),
        }
    }

    #[inline]
    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        let address = self.checked_word(Access::Read, offset, 8)?;
        if self.spares_holes && self.is_hole(offset, 8) {
            return Ok(0);
        }
        // SAFETY: checked to be aligned and inside the mapping.
        match unsafe { cpu::load_u64(address.cast()) } {
            Ok(word) => Ok(u64::from_le(word)),
            Err(fault) => self.load_from_file(offset, fault).map(u64::from_le_bytes),
        }
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        let address = self.checked_word(Access::Write, offset, 4)?;
        // SAFETY: checked to be aligned, inside the mapping and writable.
        unsafe { cpu::store_u32(address.cast(), value.to_le()) }.map_err(self.media_error(
            Access::Write,
            offset,
            4,
        ))?;
        self.writeback.note_store();
        Ok(())
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        let address = self.checked_word(Access::Write, offset, 8)?;
        // SAFETY: checked to be aligned, inside the mapping and writable.
        unsafe { cpu::store_u64(address.cast(), value.to_le()) }.map_err(self.media_error(
            Access::Write,
            offset,
            8,
        ))?;
        self.writeback.note_store();
        Ok(())
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        let length = into.len() as u64;
        let from = self.checked(Access::Read, offset, length)?;
        if self.reads_aside {
            if self.spares_holes {
                return self.read_from_file(offset, into);
            }
            self.fetch(from, into.len());
        }
        // SAFETY: the source is inside the mapping; a volatile slice is valid for its length and
        // for concurrent use; the two are different objects.
        let copied = unsafe { cpu::copy(into.ptr_guard_mut().as_ptr(), from, into.len()) };
        match copied {
            Ok(()) => Ok(()),
            Err(fault) => self.read_after_fault(offset, into, fault),
        }
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        // SAFETY: a volatile slice is valid for its length and for concurrent use.
        unsafe { self.write_from(offset, from.ptr_guard().as_ptr(), from.len()) }
    }

    fn write_bytes(&self, offset: u64, from: &[u8]) -> Result<(), MediaError> {
        // SAFETY: the slice is valid for reads of its length.
        unsafe { self.write_from(offset, from.as_ptr(), from.len()) }
    }

    #[inline]
    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let address = self.checked(Access::Flush, offset, length)?;
        match self.durability {
            Durability::Dax => self.write_back_lines(address, offset, length),
            // What is flushed may have been stored by another thread, which is yet to note that.
            Durability::Strict => {
                self.writeback.note_store();
                Ok(())
            }
            Durability::PageCache => Ok(()),
        }
    }

    fn fence(&self) -> Result<(), MediaError> {
        match self.durability {
            Durability::Dax => cpu::drain_stores(),
            // Streaming stores are the only ones that a CPU shows to others out of order.
            Durability::PageCache if HAS_STREAMED.take() => cpu::drain_stores(),
            Durability::PageCache => cpu::order_stores(),
            // A mapping that is only read waits as well: it may show what a killed process has stored.
            Durability::Strict => return self.sync_file(),
        }
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        let address = self.checked(Access::Zero, offset, length)?;
        if self.backing != Backing::DeviceDax {
            let start = self.file_offset + offset;
            return self.zero_file(start, start + length).map_err(|errno| MediaError {
                access: Access::Zero,
                offset,
                length,
                cause: Cause::System(errno),
            });
        }
        // SAFETY: checked to be inside the mapping and writable.
        unsafe { cpu::fill_zero(address, length as usize) }.map_err(self.media_error(
            Access::Zero,
            offset,
            length,
        ))?;
        self.flush(offset, length)?;
        self.fence()
    }

    fn sync(&self) -> Result<(), MediaError> {
        if self.is_dax() {
            cpu::drain_stores();
            return Ok(());
        }
        if self.protection == Protection::ReadOnly {
            return Ok(());
        }
        self.sync_file()
    }

    fn sync_range(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        if self.is_dax() || self.protection == Protection::ReadOnly {
            return self.sync();
        }
        let address = self.checked(Access::Sync, offset, length)?;
        cpu::drain_stores();
        let sync = || self.address_space.sync(address, length);
        self.writeback.sync_part(sync).map_err(|errno| self.sync_error(errno))
    }

    #[inline]
    fn sync_has_failed(&self) -> bool {
        self.writeback.has_failed() && !self.is_dax()
    }

    #[cold]
    fn sync_failure(&self) -> Option<MediaError> {
        let failure = if self.is_dax() { None } else { self.writeback.failure() };
        failure.map(|errno| self.sync_error(errno))
    }

    #[inline]
    fn touch_u32(&self, offset: u64) -> Result<u32, MediaError> {
        let address = self.checked_word(Access::Write, offset, 4)?.cast();
        // SAFETY: checked to be aligned, inside the mapping and writable.
        let touched = unsafe {
            cpu::load_u32(address).and_then(|word| cpu::store_u32(address, word).map(|()| word))
        };
        let word = touched.map_err(self.media_error(Access::Write, offset, 4))?;
        self.writeback.note_store();
        Ok(u32::from_le(word))
    }

    #[inline]
    #[allow(clippy::cast_ptr_alignment, reason = "checked to be aligned to 16 bytes")]
    fn store_u64_pair(&self, offset: u64, first: u64, second: u64) -> Result<(), MediaError> {
        let address = self.checked_word(Access::Write, offset, 16)?;
        // SAFETY: checked to be aligned, inside the mapping and writable, both words.
        let stored = unsafe {
            cpu::store_u64(address.cast(), first.to_le())
                .and_then(|()| cpu::store_u64(address.add(8).cast(), second.to_le()))
        };
        stored.map_err(self.media_error(Access::Write, offset, 16))?;
        self.writeback.note_store();
        Ok(())
    }

    #[allow(clippy::cast_ptr_alignment, reason = "checked to be aligned to 64 bytes")]
    fn store_line(&self, offset: u64, words: [u64; 8]) -> Result<(), MediaError> {
        let address = self.checked_word(Access::Write, offset, CACHE_LINE)?;
        let store = |index: usize| {
            // SAFETY: checked to be aligned, inside the mapping and writable, the whole line.
            unsafe { cpu::store_u64(address.add(8 * index).cast(), words[index].to_le()) }
        };
        let stored = (1..words.len()).try_for_each(store).and_then(|()| store(0));
        stored.map_err(self.media_error(Access::Write, offset, CACHE_LINE))?;
        self.writeback.note_store();
        Ok(())
    }

    fn is_cached(&self, offset: u64) -> bool {
        let address = self.checked(Access::Read, offset, 1);
        address.is_ok_and(|address| self.address_space.is_resident(address))
    }

    fn sync_takes_time(&self) -> bool {
        self.protection == Protection::ReadWrite
            && self.durability != Durability::Dax
            && self.writeback.has_to_sync()
    }

    #[inline]
    fn prefetch(&self, offset: u64, length: u64, intent: Intent) {
        let Ok(start) = self.checked(Access::Read, offset, length) else { return };
        for place in (0..length as usize).step_by(CACHE_LINE as usize) {
            let address = start.wrapping_add(place);
            match intent {
                Intent::Load => cpu::prefetch(address),
                Intent::Store => cpu::prefetch_to_store(address),
            }
        }
    }

    fn next_stored(&self, offset: u64) -> u64 {
        if self.backing == Backing::DeviceDax {
            return offset;
        }
        let position = self.file_offset.saturating_add(offset);
        // The position of the file, which this moves, is not used.
        let found = match lseek(&self.file, position.cast_signed(), Whence::SeekData) {
            Ok(found) => found.cast_unsigned(),
            // A hole up to the end of the file, which may have been truncated since it was mapped.
            Err(Errno::ENXIO) => self.file.metadata().map_or(0, |metadata| metadata.len()),
            Err(_) => return offset,
        };
        let found = found.saturating_sub(self.file_offset);
        found.min(self.size).max(offset)
    }
}
