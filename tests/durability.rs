//! When the medium is synced: at a flush, at every write if the guest wants so, and never in between.

mod common;

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use common::frontend::*;
use uuid::Uuid;
use vhost_user_btt::btt::{Btt, CreateOptions, LbaSize, OpenOptions, Version, create};
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt::pmem::{Access, Cause, Durability, MediaError, PersistentMemory};
use vhost_user_btt::vhost_user::{Backend, Endpoint, Server, Stop};
use vhost_user_btt::virtio::block::{Device, DeviceOptions, Discard, Serial};
use vm_memory::VolatileSlice;

/// What a medium is asked for, and whether syncing it fails.
#[derive(Default)]
struct Ledger {
    syncs: AtomicU32,
    sync_fails: AtomicBool,
    /// The next write waits here twice.
    next_write: Mutex<Option<Arc<Barrier>>>,
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
        let barrier = self.ledger.next_write.lock().unwrap().take();
        if let Some(barrier) = barrier {
            barrier.wait();
            barrier.wait();
        }
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
    fn sync(&self) -> Result<(), MediaError> {
        self.ledger.syncs.fetch_add(1, Ordering::SeqCst);
        if self.ledger.sync_fails.load(Ordering::SeqCst) {
            let cause = Cause::System(nix::errno::Errno::EIO);
            return Err(MediaError { access: Access::Sync, offset: 0, length: 0, cause });
        }
        Ok(())
    }
}

/// Lets `guest` use a disk on a counting medium, having accepted the features `wanted`.
fn with_disk(wanted: u64, guest: impl FnOnce(&mut Driver, &Ledger)) {
    let ledger = Arc::new(Ledger::default());
    let medium = Counting { medium: Simulated::new(17 << 20), ledger: ledger.clone() };
    let options = CreateOptions {
        lba_size: LbaSize::new(512).unwrap(),
        version: Version::V1_1,
        uuid: Uuid::max(),
        parent_uuid: Uuid::nil(),
        arena_size: 1 << 39,
        force: false,
    };
    create(&medium, &options, |_, _| {}).unwrap();
    let options = OpenOptions { version: None, namespace: None, read_only: false, queues: 1 };
    let (btt, queues) = Btt::open(medium, &options).unwrap();
    let options = DeviceOptions {
        read_only: false,
        discard: Discard::Off,
        serial: Serial::new("counting").unwrap(),
        queues: 1,
        queue_size: QUEUE_SIZE,
    };
    let backend = Backend::new("counting", Device::new(&*btt, &options), queues);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::new(backend, Endpoint::Connected(theirs), Stop::default()).unwrap();
    let server = std::thread::spawn(move || server.run());
    let mut driver = Driver::connect_with(ours, 1, wanted);
    guest(&mut driver, &ledger);
    drop(driver);
    server.join().unwrap().unwrap();
}

#[test]
fn a_write_back_disk_is_synced_by_flushes_alone() {
    with_disk(u64::MAX, |driver, ledger| {
        for _ in 0..10 {
            assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        }
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 0);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
        driver.read(0, 0, 512);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_guest_that_chooses_write_through_has_every_write_synced() {
    with_disk(u64::MAX, |driver, ledger| {
        driver.set_config(32, &[0]).unwrap();
        assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 1);
        assert_eq!(driver.clear(T_WRITE_ZEROES, &[(0, 1, 0)]), OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
        driver.read(0, 0, 512);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
        driver.set_config(32, &[1]).unwrap();
        assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        assert_eq!(ledger.syncs.load(Ordering::SeqCst), 2);
    });
}

/// The worker does not come to rest in between.
#[test]
fn a_guest_that_chooses_write_through_while_it_writes_is_heard() {
    with_disk(u64::MAX, |driver, ledger| {
        for index in 0..2u16 {
            let place = BUFFERS + u64::from(index) * 0x4000;
            driver.put(place, &request_header(T_OUT, u64::from(index)));
            let chain = vec![
                readable(place, 16),
                readable(place + 0x1000, 512),
                writable(place + 0x3000, 1),
            ];
            driver.put_chain(0, index * 3, &linked(index * 3, chain));
        }
        let barrier = Arc::new(Barrier::new(2));
        *ledger.next_write.lock().unwrap() = Some(barrier.clone());
        driver.offer(0, 0);
        driver.kick(0);
        barrier.wait();
        // The first write is being carried out; what it will wait for is its own business.
        driver.set_config(32, &[0]).unwrap();
        driver.offer(0, 3);
        barrier.wait();
        driver.wait_used(0);
        driver.wait_used(0);
        assert!(ledger.syncs.load(Ordering::SeqCst) > 0, "the second write was not synced");
    });
}

/// VIRTIO 1.2, 5.2.5.2: without FLUSH, there is nobody to make writes durable later.
#[test]
fn a_driver_that_cannot_flush_has_every_write_synced() {
    for (wanted, syncs) in [(0, 1), (BLK_F_FLUSH, 0), (BLK_F_CONFIG_WCE, 0)] {
        with_disk(wanted, |driver, ledger| {
            assert_eq!(driver.write(0, 0, &[1; 512]), OK);
            assert_eq!(ledger.syncs.load(Ordering::SeqCst), syncs, "{wanted:#x}");
        });
    }
}

#[test]
fn a_sync_that_fails_fails_the_flush_or_the_write_that_needed_it() {
    with_disk(u64::MAX, |driver, ledger| {
        ledger.sync_fails.store(true, Ordering::SeqCst);
        assert_eq!(driver.write(0, 0, &[1; 512]), OK);
        assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, IOERR);
        driver.set_config(32, &[0]).unwrap();
        assert_eq!(driver.write(0, 0, &[1; 512]), IOERR);
        assert_eq!(driver.read(0, 0, 512), [1; 512]);
        ledger.sync_fails.store(false, Ordering::SeqCst);
        assert_eq!(driver.write(0, 0, &[2; 512]), OK);
    });
}
