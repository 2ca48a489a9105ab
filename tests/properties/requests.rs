//! Requests of every kind and layout, to the engine and to a plain array of bytes.

use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;
use vhost_user_btt::btt::{Btt, CreateOptions, LbaSize, OpenOptions, Queue, Version, create};
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt::virtio::block::{
    Device, DeviceOptions, Discard, Executor, Kind, Request, RequestError, Serial,
};
use vhost_user_btt::virtio::{GuestRam, Span, Spans, anonymous_ram};
use vm_memory::GuestAddress;

/// Bytes of the medium.
const SIZE: u64 = 17 << 20;
/// Virtio sectors that requests are about, at the start of the disk or at its end.
const WINDOW: u64 = 64;
/// Bytes of each of two regions of guest memory that touch: spans cross from one into the other.
const REGION: u64 = 1 << 16;

/// A request.
#[derive(Debug, Clone)]
struct Asked {
    kind: Kind,
    sector: u64,
    /// Bytes of data, of a kind that moves any.
    length: u64,
    /// Further segments of a kind that clears sectors: first sector, sectors, flags.
    segments: Vec<(u64, u32, u32)>,
    layout: Layout,
    fill: u8,
    at_end: bool,
}

/// How data lie in guest memory: from `start` on in pieces of these lengths, with gaps before them.
#[derive(Debug, Clone)]
struct Layout {
    start: u64,
    pieces: Vec<(u64, u64)>,
}

impl Layout {
    fn spans(&self, length: u64) -> Vec<Span> {
        let (mut address, mut left) = (self.start, length);
        let mut spans = Vec::new();
        for (gap, piece) in self.pieces.iter().copied().chain([(0, length)]) {
            let piece = piece.min(left);
            spans.push(Span { address: GuestAddress(address + gap), length: piece as u32 });
            address += gap + piece;
            left -= piece;
        }
        spans
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let often = prop::sample::select(vec![Kind::In, Kind::Out, Kind::Discard, Kind::WriteZeroes]);
    let seldom = prop::sample::select(vec![Kind::Flush, Kind::GetId, Kind::Other(99)]);
    prop_oneof![8 => often, 1 => seldom]
}

fn requests() -> impl Strategy<Value = Asked> {
    let sector = prop_oneof![
        30 => 0..WINDOW,
        1 => any::<u64>(),
        1 => u64::MAX / 512 - 70..=u64::MAX / 512 + 70,
    ];
    let length = prop_oneof![20 => (0..40u64).prop_map(|n| n * 512), 1 => 0..20_000u64];
    let flags = prop_oneof![20 => Just(0), 10 => Just(1), 1 => any::<u32>()];
    let segments = prop::collection::vec((0..WINDOW, 0..WINDOW as u32, flags), 0..3);
    let pieces = prop::collection::vec((0..3000u64, 0..4000u64), 0..6);
    let layout = (0..REGION, pieces).prop_map(|(start, pieces)| Layout { start, pieces });
    (kinds(), sector, length, segments, layout, any::<(u8, bool)>()).prop_map(
        |(kind, sector, length, segments, layout, (fill, at_end))| Asked {
            kind,
            sector,
            length,
            segments,
            layout,
            fill,
            at_end,
        },
    )
}

/// The disk, and the array of bytes that it should be.
struct Disk {
    queue: Queue<Simulated>,
    executor: Executor,
    memory: GuestRam,
    plain: Vec<u8>,
}

impl Disk {
    fn new(lba_size: LbaSize, discard: Discard) -> Disk {
        let medium = Simulated::new(SIZE);
        let options = CreateOptions {
            lba_size,
            version: Version::V2_0,
            uuid: Uuid::max(),
            parent_uuid: Uuid::nil(),
            arena_size: SIZE,
        };
        create(&medium, &options, |_, _| {}).unwrap();
        let options =
            OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 0 };
        let (btt, mut queues) = Btt::open(medium, &options).unwrap();
        let serial = Serial::new("property").unwrap();
        let options =
            DeviceOptions { read_only: false, discard, serial, queues: 1, queue_size: 128 };
        let device = Device::new(&*btt, &options);
        let regions = [0, REGION].map(|start| (GuestAddress(start), REGION as usize));
        Disk {
            queue: queues.remove(0),
            plain: vec![0; device.size() as usize],
            executor: Executor::new(Arc::new(device)),
            memory: anonymous_ram(&regions).unwrap(),
        }
    }

    /// The bytes of the disk that are meant, if they are whole virtio sectors that exist.
    fn place(&self, sector: u64, length: u64) -> Option<Range<usize>> {
        let start = u128::from(sector) * 512;
        let end = start + u128::from(length);
        (length.is_multiple_of(512) && end <= self.plain.len() as u128)
            .then_some(start as usize..end as usize)
    }

    fn execute(
        &mut self,
        kind: Kind,
        sector: u64,
        data_out: &[Span],
        data_in: &[Span],
    ) -> Result<u32, RequestError> {
        let (data_out, data_in) = (Spans::new(data_out), Spans::new(data_in));
        let request = Request { kind, sector, data_out, data_in };
        let mut batch = self.queue.batch();
        let result = self.executor.execute(&mut batch, &self.memory, &request, 7, &|| false);
        batch.commit();
        assert_eq!(batch.take_failures().count(), 0);
        result.map(|done| done.filled)
    }

    /// Carries out a request, on the disk and on the array.
    fn carry_out(&mut self, asked: &Asked) -> Result<(), TestCaseError> {
        let sector = self.sector(asked, asked.sector);
        match asked.kind {
            Kind::In => self.read(sector, asked.length, &asked.layout),
            Kind::Out => self.write(sector, asked),
            Kind::Discard | Kind::WriteZeroes => self.clear(sector, asked),
            Kind::GetId => {
                let spans = asked.layout.spans(asked.length);
                let found = self.execute(Kind::GetId, sector, &[], &spans);
                prop_assert_eq!(found, Ok(asked.length.min(20) as u32));
                Ok(())
            }
            Kind::Flush => {
                prop_assert_eq!(self.execute(Kind::Flush, sector, &[], &[]), Ok(0));
                Ok(())
            }
            Kind::Other(kind) => {
                let refused = Err(RequestError::Unsupported(kind));
                prop_assert_eq!(self.execute(asked.kind, sector, &[], &[]), refused);
                Ok(())
            }
        }
    }

    fn sector(&self, asked: &Asked, sector: u64) -> u64 {
        let end = self.plain.len() as u64 / 512;
        if asked.at_end { sector.saturating_add(end - WINDOW) } else { sector }
    }

    fn read(&mut self, sector: u64, length: u64, layout: &Layout) -> Result<(), TestCaseError> {
        let spans = layout.spans(length);
        let read = self.execute(Kind::In, sector, &[], &spans);
        let Some(place) = self.place(sector, length) else {
            prop_assert!(read.is_err());
            return Ok(());
        };
        prop_assert_eq!(read, Ok(length as u32));
        let mut found = vec![0; length as usize];
        Spans::new(&spans).gather(&self.memory, &mut found).unwrap();
        prop_assert!(found == self.plain[place]);
        Ok(())
    }

    fn write(&mut self, sector: u64, asked: &Asked) -> Result<(), TestCaseError> {
        let spans = asked.layout.spans(asked.length);
        let data: Vec<u8> = (0..asked.length).map(|i| (i / 3) as u8 ^ asked.fill).collect();
        Spans::new(&spans).scatter(&self.memory, &data).unwrap();
        let written = self.execute(Kind::Out, sector, &spans, &[]);
        let Some(place) = self.place(sector, asked.length) else {
            prop_assert!(written.is_err());
            return Ok(());
        };
        prop_assert_eq!(written, Ok(0));
        self.plain[place].copy_from_slice(&data);
        Ok(())
    }

    /// All segments are checked before the first is cleared.
    fn clear(&mut self, sector: u64, asked: &Asked) -> Result<(), TestCaseError> {
        let further = asked
            .segments
            .iter()
            .map(|(first, count, flags)| (self.sector(asked, *first), *count, *flags));
        let segments: Vec<(u64, u32, u32)> =
            [(sector, (asked.length / 512) as u32, 0)].into_iter().chain(further).collect();
        let data: Vec<u8> = segments
            .iter()
            .flat_map(|(sector, count, flags)| {
                [
                    sector.to_le_bytes().to_vec(),
                    count.to_le_bytes().into(),
                    flags.to_le_bytes().into(),
                ]
            })
            .flatten()
            .collect();
        let spans = asked.layout.spans(data.len() as u64);
        Spans::new(&spans).scatter(&self.memory, &data).unwrap();
        let cleared = self.execute(asked.kind, sector, &spans, &[]);
        let device = self.executor.device();
        let known_flags = u32::from(asked.kind == Kind::WriteZeroes);
        let places: Option<Vec<Range<usize>>> = segments
            .iter()
            .map(|(sector, count, flags)| {
                let place = self.place(*sector, u64::from(*count) * 512)?;
                (flags & !known_flags == 0).then_some(place)
            })
            .collect();
        let (Some(places), true) = (places, asked.kind == Kind::WriteZeroes || device.discards)
        else {
            prop_assert!(cleared.is_err());
            return Ok(());
        };
        prop_assert_eq!(cleared, Ok(0));
        // Of a discard, parts of sectors are left.
        let unit = if asked.kind == Kind::Discard { device.sector_size as usize } else { 1 };
        for place in places {
            let (start, end) = (place.start.next_multiple_of(unit), place.end / unit * unit);
            if start < end {
                self.plain[start..end].fill(0);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_disk_is_an_array_of_bytes(
        lba_size in prop::sample::select(LbaSize::ALL.to_vec()),
        discard in prop::sample::select(vec![Discard::Auto, Discard::On, Discard::Off]),
        requests in prop::collection::vec(requests(), 1..40),
    ) {
        let mut disk = Disk::new(lba_size, discard);
        for asked in &requests {
            disk.carry_out(asked)?;
        }
        // Both windows, and what requests that were refused might have hit.
        let layout = Layout { start: 0, pieces: Vec::new() };
        let end = disk.plain.len() as u64 / 512;
        for sector in (0..WINDOW + 40).chain(end - WINDOW..end) {
            disk.read(sector, 512, &layout)?;
        }
    }
}
