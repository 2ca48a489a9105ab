//! Parses a descriptor chain into a request.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::GuestAddress;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::error::RequestError;
use crate::virtio::descriptors::DescriptorChain;
use crate::virtio::memory::{GuestRam, Place, Span, Spans, last_byte};

/// The header of every request (VIRTIO 1.2, 5.2.6).
#[derive(FromBytes)]
#[repr(C)]
struct Header {
    kind: U32,
    _reserved: U32,
    sector: U64,
}

const HEADER_SIZE: usize = size_of::<Header>();

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read sectors.
    In,
    /// Write sectors.
    Out,
    /// Make completed writes durable.
    Flush,
    /// Say who you are.
    GetId,
    /// Sectors are not needed any more.
    Discard,
    /// Make sectors read as zeroes.
    WriteZeroes,
    /// Something that this device does not know.
    Other(u32),
}

impl Kind {
    fn new(kind: u32) -> Kind {
        match kind {
            VIRTIO_BLK_T_IN => Kind::In,
            VIRTIO_BLK_T_OUT => Kind::Out,
            VIRTIO_BLK_T_FLUSH => Kind::Flush,
            VIRTIO_BLK_T_GET_ID => Kind::GetId,
            VIRTIO_BLK_T_DISCARD => Kind::Discard,
            VIRTIO_BLK_T_WRITE_ZEROES => Kind::WriteZeroes,
            other => Kind::Other(other),
        }
    }
}

/// A request; its addresses are not checked yet.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is asked for.
    pub kind: Kind,
    /// First sector, of 512 bytes.
    pub sector: u64,
    /// The data that the guest passes after the header.
    pub data_out: Spans<'a>,
    /// Where the guest wants data, before the status byte.
    pub data_in: Spans<'a>,
}

/// The spans of a descriptor chain; kept for the next chain, so that no request allocates.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    readable: Vec<Span>,
    writable: Vec<Span>,
    /// Bytes of the spans.
    readable_length: u64,
    writable_length: u64,
    state: State,
}

/// How far a chain has been looked at.
#[derive(Debug)]
enum State {
    /// Its descriptors are as they should be.
    Taken,
    Parsed(Found),
    Refused(RequestError),
}

/// A [`Request`] that lies in the spans of its chain.
#[derive(Debug, Clone, Copy)]
struct Found {
    kind: Kind,
    sector: u64,
    /// In those to read.
    data_out: Place,
    /// In those to write.
    data_in: Place,
}

impl Default for Chain {
    fn default() -> Chain {
        let state = State::Refused(RequestError::NotParsed);
        let (readable, writable) = (Vec::new(), Vec::new());
        Chain { head: 0, readable, writable, readable_length: 0, writable_length: 0, state }
    }
}

impl Chain {
    /// Takes the spans of `descriptors`; [`parse`](Self::parse) comes next.
    // Called for each request, from one place, as the next: what is known there stays in registers.
    #[inline]
    pub fn take(&mut self, descriptors: DescriptorChain<'_>) {
        self.head = descriptors.head();
        self.readable.clear();
        self.writable.clear();
        let (mut readable_length, mut writable_length) = (0, 0);
        let mut ends = false;
        let mut in_order = true;
        for descriptor in descriptors {
            let span = Span { address: descriptor.addr(), length: descriptor.len() };
            ends = !descriptor.has_next();
            if descriptor.is_write_only() {
                self.writable.push(span);
                writable_length += u64::from(span.length);
            } else if self.writable.is_empty() {
                self.readable.push(span);
                readable_length += u64::from(span.length);
            } else {
                // VIRTIO 1.2, 2.7.4.2: readable ones come first.
                in_order = false;
            }
        }
        (self.readable_length, self.writable_length) = (readable_length, writable_length);
        self.state = match (ends, in_order) {
            (true, true) => State::Taken,
            (true, false) => State::Refused(RequestError::OutOfOrder),
            (false, _) => State::Refused(RequestError::Endless),
        };
    }

    /// Reads the header, if the descriptors are as they should be.
    #[inline]
    pub fn parse(&mut self, memory: &GuestRam) {
        if let State::Taken = self.state {
            self.state = self.find(memory).map_or_else(State::Refused, State::Parsed);
        }
    }

    #[inline]
    fn find(&self, memory: &GuestRam) -> Result<Found, RequestError> {
        let mut data_out = Spans::of_length(&self.readable, self.readable_length);
        if data_out.len() < HEADER_SIZE as u64 {
            return Err(RequestError::NoHeader(data_out.len()));
        }
        let header: Header = zerocopy::transmute!(data_out.object::<[u64; 2]>(memory)?);
        let writable = Spans::of_length(&self.writable, self.writable_length);
        let status = u64::from(!writable.is_empty());
        Ok(Found {
            kind: Kind::new(header.kind.get()),
            sector: header.sector.get(),
            data_out: data_out.place(),
            data_in: writable.without_last(status).place(),
        })
    }

    /// Index of the first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Where the status byte goes: the last byte that the device may write.
    #[must_use]
    pub fn status(&self) -> Option<GuestAddress> {
        last_byte(&self.writable)
    }

    /// The request in the chain, which was parsed.
    pub fn request(&self) -> Result<Request<'_>, &RequestError> {
        let Found { kind, sector, data_out, data_in } = match &self.state {
            State::Parsed(found) => *found,
            State::Refused(error) => return Err(error),
            State::Taken => return Err(&RequestError::NotParsed),
        };
        let data_out = Spans::at(&self.readable, data_out);
        let data_in = Spans::at(&self.writable, data_in);
        Ok(Request { kind, sector, data_out, data_in })
    }
}
