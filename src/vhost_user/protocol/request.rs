//! Decodes the requests of a frontend, and checks every length, count and descriptor.

use std::os::fd::OwnedFd;

use vhost::vhost_user::message::FrontendReq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::message::Message;

/// Most regions of a memory table in one message, as each needs a descriptor.
const MOST_REGIONS: usize = 32;
/// In the messages that hand over the descriptor of a ring: the number of the ring, and that there is no
/// descriptor.
const RING_INDEX_MASK: u64 = 0xff;
const NO_DESCRIPTOR: u64 = 1 << 8;
/// Frontends that follow VIRTIO over MMIO put the device's configuration at this offset.
const MMIO_CONFIG: u32 = 0x100;

/// A region of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::vhost_user) struct MemoryRegion {
    /// Guest-physical address.
    pub guest_address: u64,
    /// Number of bytes.
    pub size: u64,
    /// Address in the frontend, by which it names the rings.
    pub user_address: u64,
    /// Byte offset in its file.
    pub offset: u64,
}

/// Addresses of a ring in the frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::vhost_user) struct RingAddresses {
    /// Number of the ring.
    pub index: u32,
    /// Bit 0: changes of the used ring are logged.
    pub flags: u32,
    /// Descriptor table.
    pub descriptors: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub available: u64,
    /// Guest-physical address of the used ring, for the log.
    pub log: u64,
}

/// Which part of a file the log of a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::vhost_user) struct LogRange {
    /// Number of bytes.
    pub size: u64,
    /// Byte offset.
    pub offset: u64,
}

/// A ring, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::vhost_user) struct RingState {
    /// Number of the ring.
    pub index: u32,
    /// What the request says it is.
    pub value: u32,
}

/// Part of the configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::vhost_user) struct ConfigRange {
    /// Byte offset.
    pub offset: u32,
    /// Number of bytes.
    pub size: u32,
    /// The writer: a guest, or a migration.
    pub flags: u32,
}

impl ConfigRange {
    /// Byte offset in the device's configuration, for frontends of both kinds. The answer to a request
    /// repeats the offset as it was sent.
    pub(crate) fn place(&self) -> u32 {
        if self.offset >= MMIO_CONFIG { self.offset - MMIO_CONFIG } else { self.offset }
    }
}

/// A ring, and a descriptor for it.
#[derive(Debug)]
pub(in crate::vhost_user) struct RingDescriptor {
    /// Number of the ring.
    pub index: u8,
    /// `None`: the frontend takes it away.
    pub descriptor: Option<OwnedFd>,
}

/// A request of the frontend.
#[derive(Debug)]
pub(in crate::vhost_user) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    ResetDevice,
    SetMemTable(Vec<(MemoryRegion, OwnedFd)>),
    GetMaxMemSlots,
    AddMemReg(MemoryRegion, OwnedFd),
    RemMemReg(MemoryRegion),
    SetLogBase(LogRange, OwnedFd),
    SetDeviceStateFd,
    CheckDeviceState,
    SetVringNum(RingState),
    SetVringAddr(RingAddresses),
    SetVringBase(RingState),
    GetVringBase(RingState),
    SetVringKick(RingDescriptor),
    SetVringCall(RingDescriptor),
    SetVringErr(RingDescriptor),
    SetVringEnable { index: u32, enable: bool },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetBackendReqFd(OwnedFd),
    GetConfig(ConfigRange),
    SetConfig { range: ConfigRange, bytes: Vec<u8> },
    GetShmemConfig,
}

/// Why a message is no request that can be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::vhost_user) enum RequestError {
    /// The device does not know it.
    #[error("request {0} is not supported")]
    Unsupported(u32),
    /// It is an answer.
    #[error("an answer to no request, number {0}")]
    Reply(u32),
    /// Its body is shorter or longer than it has to be.
    #[error("request {request}: a body of {size} bytes")]
    Size {
        /// Its number.
        request: u32,
        /// Size of its body in bytes.
        size: usize,
    },
    /// It comes with more or fewer descriptors than it has to.
    #[error("request {request}: {count} descriptors came with it")]
    Descriptors {
        /// Its number.
        request: u32,
        /// How many there are.
        count: usize,
    },
    /// A field has a value that means nothing.
    #[error("request {request}: bad value {value:#x}")]
    Value {
        /// Its number.
        request: u32,
        /// The value.
        value: u64,
    },
}

impl Request {
    /// What `message` asks for.
    pub(crate) fn decode(message: Message) -> Result<Request, RequestError> {
        if message.is_reply() {
            return Err(RequestError::Reply(message.request));
        }
        let unsupported = RequestError::Unsupported(message.request);
        let kind = FrontendReq::try_from(message.request).map_err(|()| unsupported)?;
        let mut parts = Parts::of(message);
        let request = match kind {
            FrontendReq::GET_FEATURES => Request::GetFeatures,
            FrontendReq::SET_FEATURES => Request::SetFeatures(parts.take()?),
            FrontendReq::SET_OWNER => Request::SetOwner,
            FrontendReq::RESET_OWNER => Request::ResetOwner,
            FrontendReq::RESET_DEVICE => Request::ResetDevice,
            FrontendReq::SET_MEM_TABLE => Request::SetMemTable(parts.memory_table()?),
            FrontendReq::GET_MAX_MEM_SLOTS => Request::GetMaxMemSlots,
            FrontendReq::ADD_MEM_REG => {
                Request::AddMemReg(parts.memory_region()?, parts.descriptor()?)
            }
            FrontendReq::REM_MEM_REG => {
                // Some frontends send the region's descriptor with it.
                parts.descriptors.clear();
                Request::RemMemReg(parts.memory_region()?)
            }
            FrontendReq::SET_LOG_BASE => Request::SetLogBase(parts.take()?, parts.descriptor()?),
            FrontendReq::SET_DEVICE_STATE_FD => parts.device_state()?,
            FrontendReq::CHECK_DEVICE_STATE => Request::CheckDeviceState,
            FrontendReq::GET_PROTOCOL_FEATURES => Request::GetProtocolFeatures,
            FrontendReq::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(parts.take()?),
            FrontendReq::GET_QUEUE_NUM => Request::GetQueueNum,
            FrontendReq::SET_BACKEND_REQ_FD => {
                let descriptor = parts.descriptor()?;
                // QEMU sends no body, and the specification shows none.
                parts.take_rest();
                Request::SetBackendReqFd(descriptor)
            }
            FrontendReq::GET_CONFIG => Request::GetConfig(parts.config_range()?.0),
            FrontendReq::SET_CONFIG => {
                let (range, bytes) = parts.config_range()?;
                Request::SetConfig { range, bytes }
            }
            FrontendReq::GET_SHMEM_CONFIG => Request::GetShmemConfig,
            kind => Request::of_ring(kind, &mut parts)?.ok_or(unsupported)?,
        };
        parts.end().map(|()| request)
    }

    /// A request about one ring; `None`: it is no such request.
    fn of_ring(kind: FrontendReq, parts: &mut Parts) -> Result<Option<Request>, RequestError> {
        Ok(Some(match kind {
            FrontendReq::SET_VRING_NUM => Request::SetVringNum(parts.take()?),
            FrontendReq::SET_VRING_ADDR => Request::SetVringAddr(parts.take()?),
            FrontendReq::SET_VRING_BASE => Request::SetVringBase(parts.take()?),
            FrontendReq::GET_VRING_BASE => Request::GetVringBase(parts.take()?),
            FrontendReq::SET_VRING_KICK => Request::SetVringKick(parts.ring_descriptor()?),
            FrontendReq::SET_VRING_CALL => Request::SetVringCall(parts.ring_descriptor()?),
            FrontendReq::SET_VRING_ERR => Request::SetVringErr(parts.ring_descriptor()?),
            FrontendReq::SET_VRING_ENABLE => parts.enable()?,
            _ => return Ok(None),
        }))
    }
}

/// A message that is being taken apart.
struct Parts {
    request: u32,
    body: Vec<u8>,
    /// How many bytes of the body are taken.
    taken: usize,
    descriptors: Vec<OwnedFd>,
}

impl Parts {
    fn of(message: Message) -> Parts {
        let Message { request, body, descriptors, .. } = message;
        Parts { request, body, taken: 0, descriptors }
    }

    /// Takes an object off the front of the body.
    fn take<T: FromBytes>(&mut self) -> Result<T, RequestError> {
        let (object, _) = T::read_from_prefix(self.rest()).map_err(|_| self.bad_size())?;
        self.taken += size_of::<T>();
        Ok(object)
    }

    /// What is left of the body.
    fn rest(&self) -> &[u8] {
        &self.body[self.taken..]
    }

    /// Takes all that is left of the body.
    fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.rest().to_vec();
        self.taken = self.body.len();
        rest
    }

    /// Takes the only descriptor.
    fn descriptor(&mut self) -> Result<OwnedFd, RequestError> {
        match self.descriptors.len() {
            1 => self.descriptors.pop().ok_or_else(|| self.bad_count()),
            _ => Err(self.bad_count()),
        }
    }

    fn memory_table(&mut self) -> Result<Vec<(MemoryRegion, OwnedFd)>, RequestError> {
        let [count, _padding] = self.take::<[u32; 2]>()?;
        let count = count as usize;
        if count > MOST_REGIONS {
            return Err(self.bad_value(count as u64));
        }
        if self.descriptors.len() != count {
            return Err(self.bad_count());
        }
        let regions: Result<Vec<MemoryRegion>, _> = (0..count).map(|_| self.take()).collect();
        Ok(regions?.into_iter().zip(self.descriptors.drain(..)).collect())
    }

    fn memory_region(&mut self) -> Result<MemoryRegion, RequestError> {
        let _padding: u64 = self.take()?;
        self.take()
    }

    fn ring_descriptor(&mut self) -> Result<RingDescriptor, RequestError> {
        let value: u64 = self.take()?;
        if value & !(RING_INDEX_MASK | NO_DESCRIPTOR) != 0 {
            return Err(self.bad_value(value));
        }
        let index = (value & RING_INDEX_MASK) as u8;
        let descriptor = if value & NO_DESCRIPTOR == 0 { Some(self.descriptor()?) } else { None };
        Ok(RingDescriptor { index, descriptor })
    }

    /// The pipe for the device's state is closed: there is no state. A frontend that loads one of another
    /// kind of device finds that it cannot write it.
    fn device_state(&mut self) -> Result<Request, RequestError> {
        let [direction, phase] = self.take::<[u32; 2]>()?;
        if direction > 1 || phase != 0 {
            return Err(self.bad_value(u64::from(phase) << 32 | u64::from(direction)));
        }
        self.descriptor().map(|_pipe| Request::SetDeviceStateFd)
    }

    fn enable(&mut self) -> Result<Request, RequestError> {
        let RingState { index, value } = self.take()?;
        match value {
            0 | 1 => Ok(Request::SetVringEnable { index, enable: value == 1 }),
            _ => Err(self.bad_value(value.into())),
        }
    }

    /// The range of the configuration space, and its bytes.
    fn config_range(&mut self) -> Result<(ConfigRange, Vec<u8>), RequestError> {
        let range: ConfigRange = self.take()?;
        let bytes = self.take_rest();
        if bytes.len() != range.size as usize {
            return Err(self.bad_size());
        }
        Ok((range, bytes))
    }

    /// Refuses what is left over.
    fn end(&self) -> Result<(), RequestError> {
        if !self.rest().is_empty() {
            return Err(self.bad_size());
        }
        if self.descriptors.is_empty() { Ok(()) } else { Err(self.bad_count()) }
    }

    fn bad_size(&self) -> RequestError {
        RequestError::Size { request: self.request, size: self.body.len() }
    }

    fn bad_count(&self) -> RequestError {
        RequestError::Descriptors { request: self.request, count: self.descriptors.len() }
    }

    fn bad_value(&self, value: u64) -> RequestError {
        RequestError::Value { request: self.request, value }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;

    use super::*;

    fn descriptors(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| tempfile::tempfile().unwrap().into()).collect()
    }

    fn decode(request: FrontendReq, body: &[u8], count: usize) -> Result<Request, RequestError> {
        let message = Message::new(request as u32, body);
        Request::decode(Message { descriptors: descriptors(count), ..message })
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_memory_table_has_a_descriptor_for_each_region() {
        let body = words(&[2, 1, 2, 3, 4, 5, 6, 7, 8]);
        let table = decode(FrontendReq::SET_MEM_TABLE, &body, 2).unwrap();
        let Request::SetMemTable(regions) = table else { panic!("{table:?}") };
        let second = MemoryRegion { guest_address: 5, size: 6, user_address: 7, offset: 8 };
        assert_eq!((regions.len(), regions[1].0), (2, second));
        for count in [0, 1, 3] {
            let refused = decode(FrontendReq::SET_MEM_TABLE, &body, count).unwrap_err();
            assert_eq!(refused, RequestError::Descriptors { request: 5, count });
        }
        let short = decode(FrontendReq::SET_MEM_TABLE, &body[..64], 2).unwrap_err();
        assert_eq!(short, RequestError::Size { request: 5, size: 64 });
        let many = decode(FrontendReq::SET_MEM_TABLE, &words(&[33]), 1).unwrap_err();
        assert_eq!(many, RequestError::Value { request: 5, value: 33 });
    }

    #[test]
    fn the_descriptor_of_a_ring_may_be_taken_away() {
        let kick = decode(FrontendReq::SET_VRING_KICK, &words(&[3]), 1).unwrap();
        let Request::SetVringKick(RingDescriptor { index: 3, descriptor: Some(_) }) = kick else {
            panic!("{kick:?}")
        };
        let none = decode(FrontendReq::SET_VRING_CALL, &words(&[0x103]), 0).unwrap();
        let Request::SetVringCall(RingDescriptor { index: 3, descriptor: None }) = none else {
            panic!("{none:?}")
        };
        for (value, count) in [(3, 0), (3, 2), (0x103, 1), (0x203, 1)] {
            decode(FrontendReq::SET_VRING_KICK, &words(&[value]), count).unwrap_err();
        }
    }

    #[test]
    fn the_configuration_is_at_either_of_two_offsets() {
        let range = |offset: u32, size: u32, bytes: &[u8]| {
            let header = [offset, size, 0].map(u32::to_ne_bytes).concat();
            decode(FrontendReq::GET_CONFIG, &[&header, bytes].concat(), 0)
        };
        for offset in [8, 0x108] {
            let Ok(Request::GetConfig(range)) = range(offset, 4, &[0; 4]) else { panic!() };
            assert_eq!((range.offset, range.place(), range.size), (offset, 8, 4));
        }
        range(0, 4, &[0; 3]).unwrap_err();
        range(0, 4, &[0; 5]).unwrap_err();
    }

    #[test]
    fn what_is_not_known_or_no_request_is_told() {
        for request in [0, 31, 45, 9999] {
            let error = Request::decode(Message::new(request, &[])).unwrap_err();
            assert_eq!(error, RequestError::Unsupported(request));
        }
        let reply = Message::new(1, &[]).reply(&[]);
        assert_eq!(Request::decode(reply).unwrap_err(), RequestError::Reply(1));
    }

    #[test]
    fn the_log_and_the_device_state_come_with_one_descriptor() {
        let log = decode(FrontendReq::SET_LOG_BASE, &words(&[4096, 8192]), 1).unwrap();
        let Request::SetLogBase(range, _) = log else { panic!("{log:?}") };
        assert_eq!(range, LogRange { size: 4096, offset: 8192 });
        for (words_of_body, count) in [(2, 0), (2, 2), (1, 1), (3, 1)] {
            decode(FrontendReq::SET_LOG_BASE, &words(&vec![0; words_of_body]), count).unwrap_err();
        }
        let state = |direction: u64, phase: u64, count| {
            decode(FrontendReq::SET_DEVICE_STATE_FD, &words(&[phase << 32 | direction]), count)
        };
        assert!(matches!(state(0, 0, 1), Ok(Request::SetDeviceStateFd)));
        assert!(matches!(state(1, 0, 1), Ok(Request::SetDeviceStateFd)));
        for (direction, phase, count) in [(2, 0, 1), (0, 1, 1), (0, 0, 0)] {
            state(direction, phase, count).unwrap_err();
        }
    }

    proptest! {
        /// Whatever comes, it is a request or an error.
        #[test]
        fn no_message_is_trusted(
            request in 0..50u32,
            body in prop::collection::vec(any::<u8>(), 0..200),
            count in 0..4usize,
        ) {
            let message = Message { descriptors: descriptors(count), ..Message::new(request, &body) };
            let _ = Request::decode(message);
        }
    }
}
