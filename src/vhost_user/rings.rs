//! The operations of a session on the rings of its device.

use std::io;
use std::sync::{Arc, MutexGuard};

use virtio_queue::QueueT;

use super::eventfd::{Eventfd, EventfdError};
use super::hold::HoldError;
use super::protocol::request::{Request, RingAddresses, RingDescriptor, RingState};
use super::queue::{self, Ring, RingPlaces};
use super::session::{Session, SessionError};
use crate::error_chain::in_one_line;

/// Why a ring stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    /// The device does not have so many.
    #[error("the device has {0} queues")]
    Unknown(usize),
    /// The size is none that the device offers.
    #[error("{size} descriptors: not a power of two from 1 to {most}")]
    Size {
        /// What was asked for.
        size: u32,
        /// The most there can be.
        most: u16,
    },
    /// The ring has been started and not stopped.
    #[error("the ring runs: its size and its next request can be set only after GET_VRING_BASE")]
    Runs,
    /// An address of the frontend that is not in the memory table.
    #[error("address {0:#x} of the frontend is in no region of the memory table")]
    Address(u64),
    /// The parts of a ring cannot be there, or are not guest memory.
    #[error("its parts are not in guest memory, or not aligned")]
    Places(#[source] virtio_queue::Error),
    /// A descriptor is of no use.
    #[error("a descriptor of the ring")]
    Eventfd(#[from] EventfdError),
    /// What it needs to run cannot be held.
    #[error("it cannot run")]
    Hold(#[source] HoldError),
    /// There are not enough threads or descriptors.
    #[error("its thread cannot be started")]
    Thread(#[source] io::Error),
}

impl Session<'_> {
    /// Carries out a request that concerns one ring.
    pub(super) fn change_ring(&mut self, request: Request) -> Result<(), SessionError> {
        let index = match &request {
            Request::SetVringNum(state) | Request::SetVringBase(state) => state.index,
            Request::SetVringAddr(addresses) => addresses.index,
            Request::SetVringKick(RingDescriptor { index, .. })
            | Request::SetVringCall(RingDescriptor { index, .. })
            | Request::SetVringErr(RingDescriptor { index, .. }) => u32::from(*index),
            Request::SetVringEnable { index, .. } => *index,
            _ => return Ok(()),
        };
        self.try_change_ring(index, request).map_err(|source| SessionError::Ring { index, source })
    }

    fn try_change_ring(&mut self, index: u32, request: Request) -> Result<(), RingError> {
        let number = self.number_of(index)?;
        match request {
            Request::SetVringNum(RingState { value, .. }) => self.set_size(number, value)?,
            Request::SetVringBase(RingState { value, .. }) => {
                let mut state = self.stopped_ring(number)?;
                state.queue.set_next_avail(value as u16);
                state.is_broken = false;
            }
            Request::SetVringAddr(addresses) => self.set_places(number, &addresses)?,
            Request::SetVringKick(RingDescriptor { descriptor, .. }) => {
                let kick = descriptor.map(Eventfd::new).transpose()?.map(Arc::new);
                self.set_kick(number, kick)?;
            }
            Request::SetVringCall(RingDescriptor { descriptor, .. }) => {
                let call = descriptor.map(Eventfd::new).transpose()?.map(Arc::new);
                self.rings[number].lock().call = call;
            }
            Request::SetVringErr(RingDescriptor { descriptor, .. }) => {
                let error = descriptor.map(Eventfd::new).transpose()?.map(Arc::new);
                self.rings[number].lock().error = error;
            }
            Request::SetVringEnable { enable, .. } => {
                if enable && self.rings[number].is_ready() {
                    self.hold().map_err(RingError::Hold)?;
                }
                let mut state = self.rings[number].lock();
                state.is_enabled = enable;
                state.is_broken = false;
            }
            _ => {}
        }
        self.update(number)
    }

    fn number_of(&self, index: u32) -> Result<usize, RingError> {
        let number = index as usize;
        if number < self.rings.len() {
            Ok(number)
        } else {
            Err(RingError::Unknown(self.rings.len()))
        }
    }

    /// Locks a ring that has not been started, or was stopped: the indexes of one that runs are its own.
    fn stopped_ring(&self, number: usize) -> Result<MutexGuard<'_, queue::RingState>, RingError> {
        let state = self.rings[number].lock();
        if state.is_running() { Err(RingError::Runs) } else { Ok(state) }
    }

    fn set_size(&self, number: usize, size: u32) -> Result<(), RingError> {
        let most = self.device.queue_size();
        match u16::try_from(size) {
            Ok(fits) if fits.is_power_of_two() && fits <= most => {
                self.stopped_ring(number)?.queue.set_size(fits);
                Ok(())
            }
            _ => Err(RingError::Size { size, most }),
        }
    }

    fn set_places(&self, number: usize, addresses: &RingAddresses) -> Result<(), RingError> {
        let place = |address| self.memory.guest_address(address).ok_or(RingError::Address(address));
        let places = RingPlaces {
            descriptors: place(addresses.descriptors)?,
            available: place(addresses.available)?,
            used: place(addresses.used)?,
        };
        let mut state = self.rings[number].lock();
        state.set_places(places).map_err(RingError::Places)?;
        // A ring that runs knows better than its memory how far it is; QEMU sets the addresses of running
        // rings to say that their changes are logged.
        if !state.is_running() {
            state.load_used_index(self.memory.memory()).map_err(RingError::Places)?;
        }
        state.is_broken = false;
        Ok(())
    }

    /// Takes another kick for a ring, which starts with it.
    fn set_kick(&mut self, number: usize, kick: Option<Arc<Eventfd>>) -> Result<(), RingError> {
        if kick.is_some() && self.rings[number].lock().is_enabled {
            self.hold().map_err(RingError::Hold)?;
        }
        let thread = self.thread(number).map_err(RingError::Thread)?;
        if let Some(kick) = &kick {
            thread.listen_to(kick).map_err(RingError::Thread)?;
        }
        let is_started = kick.is_some();
        let mut state = self.rings[number].lock();
        let old = std::mem::replace(&mut state.kick, kick);
        if is_started {
            state.queue.set_ready(true);
            state.is_broken = false;
        }
        drop(state);
        if let (Some(old), Some(thread)) = (old, &self.threads[number]) {
            thread.forget(&old);
        }
        Ok(())
    }

    /// Has the thread of a ring look at it, if it runs.
    fn update(&mut self, number: usize) -> Result<(), RingError> {
        if self.rings[number].lock().is_running() {
            self.thread(number).map_err(RingError::Thread)?.wake();
        }
        Ok(())
    }

    /// As [`update`](Self::update), of all rings.
    pub(super) fn update_all(&mut self) {
        for number in 0..self.rings.len() {
            if let Err(error) = self.update(number) {
                self.device.log().line(
                    log::Level::Error,
                    &format_args!("ring {number}: {}", in_one_line(&error)),
                );
            }
        }
    }

    /// Stops a ring. Returns the index of the next request; everything before it is completed.
    pub(super) fn stop_ring(&mut self, index: u32) -> Result<u16, SessionError> {
        let number =
            self.number_of(index).map_err(|source| SessionError::Ring { index, source })?;
        let ring: Arc<Ring> = self.rings[number].clone();
        ring.lock().queue.set_ready(false);
        let worker = self.device.worker(number);
        if let Some(call) = worker.drain(&ring, self.memory.memory())
            && let Err(error) = call.notify()
        {
            let message = format_args!("ring {index}: cannot notify the guest: {error}");
            self.device.log().line(log::Level::Warn, &message);
        }
        self.device.windows().stop_ring(index);
        let mut state = ring.lock();
        state.call = None;
        let kick = state.kick.take();
        let next = state.queue.next_avail();
        drop(state);
        if let (Some(kick), Some(thread)) = (kick, &self.threads[number]) {
            thread.forget(&kick);
        }
        if !self.rings.iter().any(|ring| ring.is_ready()) {
            self.let_go();
        }
        Ok(next)
    }
}
