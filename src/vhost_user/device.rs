//! The interface between a session and its device, and the parts that all devices have in common.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::Level;

use super::connection::Connection;
use super::guest_log::LimitedLog;
use super::queue::{Gate, Handler, QueueCounters, Serve, SyncCounters, Worker, lock};
use super::session::protocol_features;
use super::windows::Windows;
use crate::virtio::SyncError;

/// A device; it outlives the sessions that serve it, one after another.
pub(super) trait VhostDevice: Send + Sync + 'static {
    /// The log of what its guest and its frontend cause.
    fn log(&self) -> &LimitedLog;

    /// Number of queues.
    fn queues(&self) -> usize;

    /// Most descriptors of a queue, a power of two.
    fn queue_size(&self) -> u16;

    /// The feature bits that it offers to the driver.
    fn features(&self) -> u64;

    /// Names of the feature bits that only such devices have.
    fn feature_names(&self) -> &'static [(u32, &'static str)];

    /// The driver has accepted `features`.
    fn accept_features(&self, features: u64);

    /// Protocol features that it needs, in addition to those that every device has.
    fn protocol_features(&self) -> u64;

    /// `size` bytes of the configuration space, from `offset` on.
    fn read_config(&self, offset: u32, size: u32) -> Vec<u8>;

    /// The driver writes `bytes` at `offset` of the configuration space.
    fn write_config(&self, offset: u32, bytes: &[u8]);

    /// The shared memory regions; there may be none.
    fn windows(&self) -> &Windows;

    /// The worker of a queue, which exists.
    fn worker(&self, queue: usize) -> &dyn Serve;

    /// What is counted of a queue, which exists.
    fn counters(&self, queue: usize) -> &QueueCounters;

    /// What is counted of its syncs.
    fn syncs(&self) -> &SyncCounters;

    /// What the administrator has decided of its queues.
    fn gate(&self) -> &Gate;

    /// Makes everything durable that was written.
    ///
    /// # Errors
    ///
    /// The medium fails.
    fn sync(&self) -> Result<(), SyncError>;

    /// The frontend that is connected.
    fn connection(&self) -> &Connection;

    /// Tells the frontend that the configuration space has changed. Returns whether it has given the means.
    fn config_changed(&self) -> bool;

    /// The session has ended, and so have the threads of its queues.
    fn disconnect(&self);
}

/// What makes a device a disk, or persistent memory.
pub(super) trait DeviceModel: Send + Sync + 'static {
    /// What carries out the requests of a queue.
    type Handler: Handler;

    /// As [`VhostDevice::queue_size`].
    fn queue_size(&self) -> u16;

    /// As [`VhostDevice::features`].
    fn features(&self) -> u64;

    /// As [`VhostDevice::feature_names`].
    fn feature_names(&self) -> &'static [(u32, &'static str)] {
        &[]
    }

    /// As [`VhostDevice::accept_features`].
    fn accept_features(&self, features: u64) {
        let _ = features;
    }

    /// As [`VhostDevice::read_config`].
    fn read_config(&self, offset: u32, size: u32) -> Vec<u8>;

    /// As [`VhostDevice::write_config`]. Returns whether the bytes mean something.
    fn write_config(&self, offset: u32, bytes: &[u8], log: &LimitedLog) -> bool {
        let _ = (offset, bytes, log);
        false
    }

    /// As [`VhostDevice::sync`].
    fn sync(&self) -> Result<(), SyncError>;

    /// As [`VhostDevice::disconnect`].
    fn disconnect(&self) {}
}

/// A device of any kind: the workers of its queues around its model.
pub(super) struct DeviceBackend<D: DeviceModel> {
    model: D,
    log: LimitedLog,
    workers: Vec<Mutex<Worker<D::Handler>>>,
    /// Those of the workers, to be read without their locks.
    counters: Vec<Arc<QueueCounters>>,
    syncs: Arc<SyncCounters>,
    gate: Arc<Gate>,
    connection: Connection,
    windows: Arc<Windows>,
}

impl<D: DeviceModel> DeviceBackend<D> {
    /// The device `model`, whose queues are served by `handlers` and whose syncs are counted in `syncs`; the
    /// log calls it `name`.
    pub(super) fn new(
        name: &str,
        model: D,
        handlers: impl IntoIterator<Item = D::Handler>,
        syncs: Arc<SyncCounters>,
        windows: Arc<Windows>,
    ) -> DeviceBackend<D> {
        let gate: Arc<Gate> = Arc::default();
        let worker = |(number, handler)| {
            let log = LimitedLog::new(format!("{name}: queue {number}"));
            Worker::new(log, handler, gate.clone())
        };
        let workers: Vec<_> = handlers.into_iter().enumerate().map(worker).collect();
        let counters = workers.iter().map(|worker| worker.counters().clone()).collect();
        let workers = workers.into_iter().map(Mutex::new).collect();
        DeviceBackend {
            model,
            log: LimitedLog::new(name),
            workers,
            counters,
            syncs,
            gate,
            connection: Connection::default(),
            windows,
        }
    }

    /// The device with other windows.
    pub(super) fn with_windows(self, windows: Arc<Windows>) -> DeviceBackend<D> {
        DeviceBackend { windows, ..self }
    }

    /// What carries the requests of its queues out.
    pub(super) fn into_handlers(self) -> impl Iterator<Item = D::Handler> {
        let workers = self.workers.into_iter();
        workers.map(|worker| {
            worker.into_inner().unwrap_or_else(PoisonError::into_inner).into_handler()
        })
    }

    /// The shared memory regions; there may be none.
    pub(super) fn windows(&self) -> &Arc<Windows> {
        &self.windows
    }

    /// What is counted of its syncs.
    pub(super) fn sync_counters(&self) -> &Arc<SyncCounters> {
        &self.syncs
    }

    /// What kind of device it is.
    pub(super) fn model(&self) -> &D {
        &self.model
    }

    /// The workers of its queues.
    pub(super) fn workers(&self) -> &[Mutex<Worker<D::Handler>>] {
        &self.workers
    }

    /// Lets each worker wait for up to `most` for requests, at an empty ring, before it goes to sleep.
    pub(super) fn poll_for(&self, most: Duration) {
        self.workers.iter().for_each(|worker| lock(worker).poll_for(most));
    }
}

impl<D: DeviceModel> VhostDevice for DeviceBackend<D> {
    fn log(&self) -> &LimitedLog {
        &self.log
    }

    fn queues(&self) -> usize {
        self.workers.len()
    }

    fn queue_size(&self) -> u16 {
        self.model.queue_size()
    }

    fn features(&self) -> u64 {
        self.model.features()
    }

    fn feature_names(&self) -> &'static [(u32, &'static str)] {
        self.model.feature_names()
    }

    fn accept_features(&self, features: u64) {
        self.connection.accept_features(features);
        self.model.accept_features(features);
    }

    fn protocol_features(&self) -> u64 {
        // The channel for requests to the frontend, which may be told of another size.
        let common = protocol_features::BACKEND_REQ;
        if self.windows.is_empty() { common } else { common | Windows::PROTOCOL_FEATURES }
    }

    fn read_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.model.read_config(offset, size)
    }

    fn write_config(&self, offset: u32, bytes: &[u8]) {
        if !self.model.write_config(offset, bytes, &self.log) {
            let message =
                format_args!("the guest writes {bytes:?} to its configuration at {offset}");
            self.log.line(Level::Debug, &message);
        }
    }

    fn windows(&self) -> &Windows {
        &self.windows
    }

    fn worker(&self, queue: usize) -> &dyn Serve {
        &self.workers[queue]
    }

    fn counters(&self, queue: usize) -> &QueueCounters {
        &self.counters[queue]
    }

    fn syncs(&self) -> &SyncCounters {
        &self.syncs
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn sync(&self) -> Result<(), SyncError> {
        self.model.sync()
    }

    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn config_changed(&self) -> bool {
        if !self.windows.is_empty() {
            return self.windows.config_changed();
        }
        self.connection.config_changed().unwrap_or_else(|error| {
            let error = crate::error_chain::in_one_line(&error);
            let message = format_args!("the frontend is not told of a new size: {error}");
            self.log.line(Level::Warn, &message);
            false
        })
    }

    fn disconnect(&self) {
        self.connection.end();
        self.model.disconnect();
    }
}
