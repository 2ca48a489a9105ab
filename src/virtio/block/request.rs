//! From a descriptor chain to a request.

use std::ops::Deref;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::GuestAddress;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::error::RequestError;
use crate::virtio::memory::{GuestRam, Span, Spans};

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
    /// What the guest hands over, behind the header.
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
    /// What the header says, or why there is none.
    header: Result<(Kind, u64), RequestError>,
}

impl Default for Chain {
    fn default() -> Chain {
        let header = Err(RequestError::NoHeader(0));
        Chain { head: 0, readable: Vec::new(), writable: Vec::new(), header }
    }
}

impl Chain {
    /// Takes the spans of `descriptors`; [`parse`](Self::parse) comes next.
    ///
    /// Direct and indirect descriptors alike; the iterator ends a loop after as many steps as the
    /// table has entries.
    pub fn take<M>(&mut self, descriptors: &mut DescriptorChain<M>)
    where
        M: Deref<Target = GuestRam>,
    {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        let mut ends = false;
        let mut in_order = true;
        for descriptor in descriptors {
            let span = Span { address: descriptor.addr(), length: descriptor.len() };
            ends = !descriptor.has_next();
            if descriptor.is_write_only() {
                self.writable.push(span);
            } else if self.writable.is_empty() {
                self.readable.push(span);
            } else {
                // VIRTIO 1.2, 2.7.4.2: readable ones come first.
                in_order = false;
            }
        }
        self.header = match (ends, in_order) {
            (true, true) => Err(RequestError::NoHeader(0)),
            (true, false) => Err(RequestError::OutOfOrder),
            (false, _) => Err(RequestError::Endless),
        };
    }

    /// Reads the header, if the descriptors are as they should be.
    pub fn parse(&mut self, memory: &GuestRam) {
        if matches!(self.header, Err(RequestError::NoHeader(_))) {
            self.header = self.read_header(memory);
        }
    }

    fn read_header(&self, memory: &GuestRam) -> Result<(Kind, u64), RequestError> {
        let mut readable = Spans::new(&self.readable);
        if readable.len() < HEADER_SIZE as u64 {
            return Err(RequestError::NoHeader(readable.len()));
        }
        let mut header = [0; HEADER_SIZE];
        readable.gather(memory, &mut header)?;
        let header: Header = zerocopy::transmute!(header);
        Ok((Kind::new(header.kind.get()), header.sector.get()))
    }

    /// Index of the first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Where the status byte goes: the last byte that the device may write.
    #[must_use]
    pub fn status(&self) -> Option<GuestAddress> {
        Spans::new(&self.writable).last()
    }

    /// The request in the chain, which was parsed.
    pub fn request(&self) -> Result<Request<'_>, RequestError> {
        let (kind, sector) = self.header.clone()?;
        let mut data_out = Spans::new(&self.readable);
        data_out.advance(HEADER_SIZE as u64);
        let writable = Spans::new(&self.writable);
        let status = u64::from(!writable.is_empty());
        Ok(Request { kind, sector, data_out, data_in: writable.without_last(status) })
    }
}
