//! A medium that calls a test back before it is read or stored to.

use vm_memory::VolatileSlice;

use super::*;
use crate::pmem::{Access, Cause, Durability, MediaError};

type Hook = Box<dyn Fn(Access, u64) -> bool + Send + Sync>;

/// A medium whose accesses fail if the hook, which is told their kind and byte offset, says no.
pub(super) struct Hooked {
    pub medium: Arc<Simulated>,
    pub durability: Durability,
    hook: Hook,
}

impl Hooked {
    pub(super) fn new(
        medium: &Arc<Simulated>,
        hook: impl Fn(Access, u64) -> bool + Send + Sync + 'static,
    ) -> Arc<Hooked> {
        let (medium, durability) = (Arc::clone(medium), Durability::Dax);
        Arc::new(Hooked { medium, durability, hook: Box::new(hook) })
    }

    /// The medium, with fences of another kind.
    pub(super) fn of_durability(medium: &Arc<Simulated>, durability: Durability) -> Arc<Hooked> {
        let medium = Arc::clone(medium);
        Arc::new(Hooked { medium, durability, hook: Box::new(|_, _| true) })
    }

    fn ask(&self, access: Access, offset: u64) -> Result<(), MediaError> {
        let failure = MediaError { access, offset, length: 0, cause: Cause::Medium };
        if (self.hook)(access, offset) { Ok(()) } else { Err(failure) }
    }
}

impl PersistentMemory for Hooked {
    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.ask(Access::Read, offset)?;
        self.medium.load_u32(offset)
    }

    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.ask(Access::Read, offset)?;
        self.medium.load_u64(offset)
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.ask(Access::Write, offset)?;
        self.medium.store_u32(offset, value)
    }

    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.ask(Access::Write, offset)?;
        self.medium.store_u64(offset, value)
    }

    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.ask(Access::Read, offset)?;
        self.medium.read(offset, into)
    }

    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.ask(Access::Write, offset)?;
        self.medium.write(offset, from)
    }

    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.ask(Access::Flush, offset)?;
        self.medium.flush(offset, length)
    }

    fn fence(&self) -> Result<(), MediaError> {
        self.ask(Access::Sync, 0)?;
        self.medium.fence()
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.ask(Access::Zero, offset)?;
        self.medium.zero(offset, length)
    }

    fn sync(&self) -> Result<(), MediaError> {
        self.medium.sync()
    }

    fn next_stored(&self, offset: u64) -> u64 {
        self.medium.next_stored(offset)
    }
}
