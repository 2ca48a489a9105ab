//! Windows: DAX devices as shared memory regions of a virtio device, which the guest maps.
//!
//! A frontend asks for the regions' sizes (`VHOST_USER_GET_SHMEM_CONFIG`), hands over a socket for
//! requests, and is then asked to map pieces of the file (`VHOST_USER_BACKEND_SHMEM_MAP`). What QEMU
//! requires in addition to the protocol, and where this is handled:
//!
//! * mappings are gone when the device was reset, so they are made at each of its starts, and not before:
//!   [`Windows::start`], when a ring is enabled;
//! * it wants answers from us before it answers: a thread of its own waits (`mapper`);
//! * the sum of the regions' sizes has to be a power of two: one region more fills it up ([`Windows::config`]);
//! * it unmaps only what was mapped by one request, and all of it: pieces are remembered (`mapper`).

mod config;
mod mapped;
mod mapper;
mod online_resize;
mod quiesce;
mod region;
mod window;

pub use config::WindowConfig;
pub(super) use online_resize::{DeviceSelector, OnlineResize, Resized};
pub(super) use region::OpenRegion;
pub use region::{RegionConfig, Regions};
pub(super) use window::Window;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use log::warn;

use super::protocol::back_channel::{BackChannel, Closer};
use super::queue::{Memory, Ring};
use super::session::protocol_features;
use crate::pmem::SharedFile;
use crate::virtio::{SyncError, Syncs};
use mapped::Mapped;
use mapper::{Mapper, Order};

/// Most windows of a device: the number of a shared memory region is one byte, and one region fills up what
/// the others leave.
pub const MOST_WINDOWS: usize = 255;

/// The windows of a device.
pub struct Windows {
    /// What the log calls the device.
    log_name: Arc<str>,
    all: Arc<[Window]>,
    /// A bit for each ring that runs.
    running: Arc<AtomicU64>,
    connection: Mutex<Connection>,
}

/// What is known of the frontend.
#[derive(Default)]
struct Connection {
    /// The devices are held for it.
    attached: bool,
    /// It has asked for the regions' sizes.
    knows_regions: bool,
    /// The rings that have run, by number, and guest memory as it is for their requests.
    rings: BTreeMap<usize, (Arc<Ring>, Memory)>,
    /// The thread that asks it to map.
    mapping: Option<MappingThread>,
    /// True if it has mapped all that it was to map.
    mapped: Arc<Mapped>,
}

/// The thread that asks a frontend to map, and waits for its answers.
struct MappingThread {
    orders: Sender<Order>,
    /// Closes the channel that the thread waits at.
    channel: Closer,
    thread: JoinHandle<()>,
}

impl MappingThread {
    /// Ends the thread, whatever it waits for.
    fn end(self) {
        let MappingThread { orders, channel, thread } = self;
        drop(orders);
        channel.close();
        if thread.join().is_err() {
            warn!("the thread of the windows has panicked");
        }
    }
}

impl Windows {
    /// What a device with windows offers. Requests to the frontend need a socket and may carry a
    /// descriptor, and only those that are answered tell what is mapped.
    pub const PROTOCOL_FEATURES: u64 = protocol_features::SHMEM
        | protocol_features::BACKEND_REQ
        | protocol_features::BACKEND_SEND_FD
        | protocol_features::REPLY_ACK;

    /// The windows `windows` of the device whose log name is `log_name`.
    pub fn new(log_name: &str, windows: Vec<Window>) -> Windows {
        let (running, connection) = (Arc::default(), Mutex::default());
        Windows { log_name: log_name.into(), all: windows.into(), running, connection }
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them, by number.
    pub fn all(&self) -> &[Window] {
        &self.all
    }

    /// The answer to a frontend that asks for the regions: their number, and the size of each.
    pub fn config(&self) -> Vec<u8> {
        self.attach();
        self.connection().knows_regions = true;
        let mut sizes: Vec<u64> = self.all.iter().map(Window::size).collect();
        sizes.push(padding(&sizes));
        let regions = sizes.iter().filter(|size| **size > 0).count() as u64;
        sizes.resize(MOST_WINDOWS + 1, 0);
        std::iter::once(regions).chain(sizes).flat_map(u64::to_ne_bytes).collect()
    }

    /// Takes the frontend's socket for requests: the first, or another one for the same mappings.
    ///
    /// # Errors
    ///
    /// There are not enough descriptors or threads.
    pub fn connect(&self, descriptor: OwnedFd) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.attach();
        let back_channel = BackChannel::new(descriptor);
        let closer = back_channel.closer()?;
        let mut connection = self.connection();
        if let Some(mapping) = &mut connection.mapping {
            std::mem::replace(&mut mapping.channel, closer).close();
            // The thread is there until the sender is dropped.
            let _ = mapping.orders.send(Order::GoOnAt(back_channel));
            return Ok(());
        }
        let (orders, receiver) = channel();
        let flags = (self.running.clone(), connection.mapped.clone());
        let mapper = Mapper::new(self.log_name.clone(), self.all.clone(), flags, back_channel);
        let thread =
            thread::Builder::new().name("windows".into()).spawn(move || mapper.run(&receiver))?;
        connection.mapping = Some(MappingThread { orders, channel: closer, thread });
        Ok(())
    }

    /// Holds the devices for the frontend that is there.
    pub fn attach(&self) {
        if std::mem::replace(&mut self.connection().attached, true) {
            return;
        }
        self.all.iter().for_each(Window::attach);
    }

    /// Has everything mapped if the device has just started: if ring `number`, of which there are 64 at
    /// most, runs, and none did before. Its requests refer to `memory`.
    ///
    /// Not before, and not after it was stopped: QEMU follows a pointer then that it has not set.
    pub fn start(&self, number: usize, ring: &Arc<Ring>, memory: &Memory) {
        let bit = 1 << number;
        if self.running.load(Ordering::Relaxed) & bit != 0 {
            return;
        }
        // While this is locked, the ring is not stopped.
        let state = ring.lock_for_worker();
        if !state.is_running() {
            return;
        }
        // Before its first batch.
        self.connection().rings.insert(number, (ring.clone(), memory.clone()));
        if self.running.fetch_or(bit, Ordering::AcqRel) == 0 && !self.is_empty() {
            self.map_all();
        }
    }

    /// Waits for the requests of the device that are under way, until `deadline` at most. Returns whether they
    /// have ended, and no later one can access the bytes `ranges` of `file`, whatever device mapped them.
    fn quiesce(&self, file: &SharedFile, ranges: &[Range<u64>], deadline: Instant) -> bool {
        // The connection is not locked meanwhile: a ring that starts locks it.
        let rings = self.connection().rings.clone();
        rings.values().all(|(ring, memory)| {
            quiesce::wait_until_unmapped(ring, memory, file, ranges, deadline)
        })
    }

    /// Waits until the frontend has answered to what it was asked to map. Returns whether the guest has all
    /// that it was told of: the frontend has mapped it, and nothing of it was taken away, or is reserved
    /// for growth.
    pub fn wait_until_mapped(&self) -> bool {
        // Not while the connection is locked: the answer may come by another request of the frontend.
        let mapped = self.connection().mapped.clone();
        mapped.wait() && !self.all.iter().any(Window::is_cut)
    }

    fn map_all(&self) {
        let connection = self.connection();
        if let (Some(mapping), true) = (&connection.mapping, connection.knows_regions) {
            connection.mapped.begin();
            // The thread is there until the sender is dropped.
            return drop(mapping.orders.send(Order::MapAll));
        }
        connection.mapped.end(false);
        let reason = match &connection.mapping {
            Some(_) => "does not know shared memory regions (VHOST_USER_PROTOCOL_F_SHMEM)",
            None => "has handed over no socket for requests (VHOST_USER_SET_BACKEND_REQ_FD)",
        };
        warn!(
            "{}: the frontend {reason}: the windows stay empty; QEMU fills them from 11.1 on, and nvdimmctl \
             dax export tells how else to attach devices",
            self.log_name
        );
    }

    /// Ring `number` was stopped.
    pub fn stop_ring(&self, number: u32) {
        self.running.fetch_and(!(1 << number), Ordering::AcqRel);
    }

    /// The device was stopped.
    pub fn stop(&self) {
        self.running.store(0, Ordering::Release);
    }

    /// The frontend is gone.
    pub fn disconnect(&self) {
        self.stop();
        let connection = std::mem::take(&mut *self.connection());
        if let Some(mapping) = connection.mapping {
            mapping.end();
        }
        connection.mapped.end(false);
        self.all.iter().for_each(Window::detach);
    }

    /// Has the frontend map what has come to the windows.
    fn map_more(&self) {
        if let Some(mapping) = &self.connection().mapping {
            // The thread is there until the sender is dropped.
            let _ = mapping.orders.send(Order::MapMore);
        }
    }

    /// Tells the frontend that the configuration space has changed. Returns whether there is a channel for it.
    pub fn config_changed(&self) -> bool {
        let connection = self.connection();
        let order = |mapping: &MappingThread| mapping.orders.send(Order::ConfigChanged).is_ok();
        connection.mapping.as_ref().is_some_and(order)
    }

    /// Has the frontend unmap what lies after `size` in a window, until `deadline` at most. Returns whether it
    /// has.
    fn unmap(&self, window: usize, size: u64, deadline: Instant) -> bool {
        let (answer, done) = sync_channel(1);
        let order = Order::Unmap { window, size, answer };
        match &self.connection().mapping {
            Some(mapping) => drop(mapping.orders.send(order)),
            // Without a thread, nothing was ever mapped.
            None => return true,
        }
        done.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or(false)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Each field is whole by itself.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Syncs for Windows {
    /// Makes durable what the guest has stored to the windows.
    fn sync(&self) -> Result<(), SyncError> {
        Ok(self.all.iter().try_for_each(Window::sync)?)
    }

    /// The stores of a guest are not visible here, so there is always something to sync.
    fn sync_takes_time(&self) -> bool {
        true
    }
}

/// Bytes of a further region, which is never mapped.
///
/// QEMU 11.1 puts all regions of a device into one BAR and gives that the sum of their sizes, which has to be a
/// power of two (PCI 3.0, 6.2.5.1): if it is not, QEMU aborts. A driver looks for the regions that it knows.
fn padding(sizes: &[u64]) -> u64 {
    let sum = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    sum.checked_next_power_of_two().filter(|_| sum > 0).map_or(0, |whole| whole - sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_filled_up_to_a_power_of_two() {
        assert_eq!(padding(&[]), 0);
        assert_eq!(padding(&[0, 0]), 0);
        assert_eq!(padding(&[8]), 0);
        assert_eq!(padding(&[10]), 6);
        assert_eq!(padding(&[128, 2, 0, 2]), 124);
        assert_eq!(padding(&[u64::MAX, 7]), 0);
    }
}
