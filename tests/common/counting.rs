//! A disk on a medium that counts what it is asked for, and lets a test come in between.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use uuid::Uuid;
use vhost_user_btt::btt::{Btt, CreateOptions, LbaSize, OpenOptions, Version, create};
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt::pmem::{Access, Cause, Durability, MediaError, PersistentMemory};
use vhost_user_btt::vhost_user::{BlockDevice, Endpoint, Stop};
use vhost_user_btt::virtio::block::{Device, DeviceOptions, Discard, Serial};
use vm_memory::VolatileSlice;

use super::frontend::{Driver, QUEUE_SIZE};

/// What a medium is asked for, and whether syncing it fails.
#[derive(Default)]
pub struct Ledger {
    pub syncs: AtomicU32,
    pub sync_fails: AtomicBool,
    pub writes: AtomicU32,
    /// The next write waits here twice.
    pub next_write: Mutex<Option<Arc<Barrier>>>,
    /// The next sync waits here when it begins, and before it ends.
    pub next_sync: Mutex<Option<Arc<Barrier>>>,
}

impl Ledger {
    /// Makes the next write, or the next sync, wait.
    pub fn stop_next(gate: &Mutex<Option<Arc<Barrier>>>) -> Arc<Barrier> {
        let barrier = Arc::new(Barrier::new(2));
        *gate.lock().unwrap() = Some(barrier.clone());
        barrier
    }
}

/// Lets whoever has closed the gate see that it is reached, and open it.
fn pass(gate: &Mutex<Option<Arc<Barrier>>>) {
    let barrier = gate.lock().unwrap().take();
    if let Some(barrier) = barrier {
        barrier.wait();
        barrier.wait();
    }
}

/// A page-cache medium that counts.
struct Counting {
    medium: Simulated,
    ledger: Arc<Ledger>,
}

impl PersistentMemory for Counting {
    fn size(&self) -> u64 {
        self.medium.size()
    }
    fn durability(&self) -> Durability {
        Durability::PageCache
    }
    fn load_u32(&self, offset: u64) -> Result<u32, MediaError> {
        self.medium.load_u32(offset)
    }
    fn load_u64(&self, offset: u64) -> Result<u64, MediaError> {
        self.medium.load_u64(offset)
    }
    fn store_u32(&self, offset: u64, value: u32) -> Result<(), MediaError> {
        self.medium.store_u32(offset, value)
    }
    fn store_u64(&self, offset: u64, value: u64) -> Result<(), MediaError> {
        self.medium.store_u64(offset, value)
    }
    fn read(&self, offset: u64, into: &VolatileSlice<'_>) -> Result<(), MediaError> {
        self.medium.read(offset, into)
    }
    fn write(&self, offset: u64, from: &VolatileSlice<'_>) -> Result<(), MediaError> {
        pass(&self.ledger.next_write);
        self.ledger.writes.fetch_add(1, Ordering::SeqCst);
        self.medium.write(offset, from)
    }
    fn flush(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.flush(offset, length)
    }
    fn fence(&self) -> Result<(), MediaError> {
        self.medium.fence()
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), MediaError> {
        self.medium.zero(offset, length)
    }
    /// Opening syncs the map. What is counted are flushes.
    fn sync_range(&self, _offset: u64, _length: u64) -> Result<(), MediaError> {
        Ok(())
    }
    fn sync(&self) -> Result<(), MediaError> {
        pass(&self.ledger.next_sync);
        self.ledger.syncs.fetch_add(1, Ordering::SeqCst);
        if self.ledger.sync_fails.load(Ordering::SeqCst) {
            let cause = Cause::System(nix::errno::Errno::EIO);
            return Err(MediaError { access: Access::Sync, offset: 0, length: 0, cause });
        }
        Ok(())
    }
}

/// Lets `guest` use a disk on a counting medium, having accepted the features `wanted`; then its
/// frontend leaves, and the server ends.
pub fn with_disk(wanted: u64, guest: impl FnOnce(&mut Driver, &Arc<Ledger>)) {
    let ledger = Arc::new(Ledger::default());
    let medium = Counting { medium: Simulated::new(17 << 20), ledger: ledger.clone() };
    let options = CreateOptions {
        lba_size: LbaSize::new(512).unwrap(),
        version: Version::V1_1,
        uuid: Uuid::max(),
        parent_uuid: Uuid::nil(),
        arena_size: 1 << 39,
    };
    create(&medium, &options, |_, _| {}).unwrap();
    let options =
        OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 0 };
    let (btt, queues) = Btt::open(medium, &options).unwrap();
    let options = DeviceOptions {
        read_only: false,
        discard: Discard::Off,
        serial: Serial::new("counting").unwrap(),
        queues: 1,
        queue_size: QUEUE_SIZE,
    };
    let device = BlockDevice::new("counting", Device::new(&*btt, &options), queues);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = device.serve_at(Endpoint::Connected(theirs), Stop::new().unwrap());
    let server = std::thread::spawn(move || server.run());
    let mut driver = Driver::connect_with(ours, 1, wanted);
    ledger.writes.store(0, Ordering::SeqCst);
    guest(&mut driver, &ledger);
    drop(driver);
    server.join().unwrap().unwrap();
}
