//! A DAX device as a shared memory region.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::super::error::Error;
use super::region::{Medium, OpenRegion};
use crate::dax::{self, DeviceInfo, Hold, LayoutLock};
use crate::error_chain::in_one_line;
use crate::pmem::{MediaError, PersistentMemory, Protection, SharedFile};

/// What the sizes of shared memory regions are multiples of, in bytes: the guest's larger pages, and the
/// least that Linux makes persistent memory of.
const GRANULE: u64 = 2 << 20;

/// A DAX device as a shared memory region.
pub struct Window {
    region: Arc<OpenRegion>,
    /// Of the device; its name can change.
    uuid: Uuid,
    /// The device's name when the daemon started: what the log calls the window.
    name: String,
    shared_file: Arc<SharedFile>,
    /// Bytes of the region; `None`: as many as the device has when a frontend connects.
    reserve: Option<u64>,
    /// The guest's driver looks at the size once, and uses all of it from then on.
    is_fixed: bool,
    contents: Mutex<Contents>,
}

/// What a frontend is to map.
#[derive(Default)]
struct Contents {
    /// Keeps the device as it is; there is one while a frontend is connected.
    hold: Option<Hold>,
    /// Bytes of the shared memory region.
    size: u64,
    pieces: Vec<Piece>,
}

/// Bytes that follow each other in the file, and in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Byte offset in the window.
    pub offset: u64,
    /// Byte offset in the file.
    pub file_offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Piece {
    /// Byte offset of its end in the window.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// The part of it at or after `offset`.
    pub(super) fn behind(self, offset: u64) -> Option<Piece> {
        let skipped = offset.saturating_sub(self.offset);
        let length = self.length.checked_sub(skipped).filter(|length| *length > 0)?;
        Some(Piece {
            offset: self.offset + skipped,
            file_offset: self.file_offset + skipped,
            length,
        })
    }
}

impl Window {
    /// A window to the device `name`, with `reserve` bytes; without, it has the device's size.
    ///
    /// # Errors
    ///
    /// There is no such device; its size, or `reserve`, is none that a shared memory region can have; or
    /// it is to be written to, and the region is open for reading.
    pub fn open(
        region: Arc<OpenRegion>,
        name: &str,
        protection: Protection,
        reserve: Option<u64>,
    ) -> Result<Window, Error> {
        let log_name = region.log_name().to_owned();
        let fails = |source| Error::Region { log_name: log_name.clone(), source: Box::new(source) };
        let device = region.region().device(name).map_err(fails)?;
        let shared_file =
            region.shared_file(protection).ok_or_else(|| fails(dax::Error::ReadOnly))?.clone();
        region_size(&device, reserve)?;
        let (name, uuid, contents) = (name.to_owned(), device.uuid, Mutex::default());
        Ok(Window { region, uuid, name, shared_file, reserve, is_fixed: false, contents })
    }

    /// The window, for a driver that looks at its size once, and uses all of it from then on.
    pub fn fixed(self) -> Window {
        Window { is_fixed: true, ..self }
    }

    /// Returns whether the guest's driver uses all of the window, always.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// What the log calls the window.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that the device has.
    pub fn device_size(&self) -> u64 {
        let region = self.region.region();
        let device = region.device_of(self.uuid).and_then(|name| region.device(&name).ok());
        device.map_or(0, |device| device.size)
    }

    /// The device's uuid.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The region that the device is in.
    pub fn region(&self) -> &Arc<OpenRegion> {
        &self.region
    }

    /// The file that the pieces are in.
    pub(super) fn shared_file(&self) -> &SharedFile {
        &self.shared_file
    }

    /// Bytes of the shared memory region that a frontend has been told of: zero if there is none, or the
    /// device is not what it has to be any more.
    pub fn size(&self) -> u64 {
        self.contents().size
    }

    /// Holds the device for a frontend.
    pub(super) fn attach(&self) {
        // Until the window has its contents, the device does not change.
        let layout = self.region.region().lock_layout();
        match self.hold(&layout) {
            Ok(contents) => *self.contents() = contents,
            Err(error) => {
                let (log_name, error) = (self.region.log_name(), in_one_line(&error));
                log::error!("{log_name}: window {:?} stays empty: {error}", self.name);
            }
        }
    }

    fn hold(&self, layout: &LayoutLock<'_, Medium>) -> Result<Contents, Error> {
        let region = self.region.region();
        let log_name = || self.region.log_name().to_owned();
        let fails = |source| Error::Region { log_name: log_name(), source: Box::new(source) };
        let name = region.device_of(self.uuid);
        let name = name.ok_or_else(|| fails(dax::Error::UnknownDevice(self.name.clone())))?;
        let hold = layout.hold(&name).map_err(fails)?;
        let device = region.device(&name).map_err(fails)?;
        let size = region_size(&device, self.reserve)?;
        Ok(Contents { hold: Some(hold), size, pieces: self.pieces_of(&device.extents, size) })
    }

    /// Lets the device go.
    pub(super) fn detach(&self) {
        *self.contents() = Contents::default();
    }

    /// Returns whether a frontend has the device.
    pub fn is_attached(&self) -> bool {
        self.contents().hold.is_some()
    }

    /// Returns whether there is less to map than the guest was told of.
    pub(super) fn is_cut(&self) -> bool {
        let contents = self.contents();
        contents.pieces.last().map_or(0, Piece::end) < contents.size
    }

    /// What a frontend is to map, in the order of offsets.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        self.contents().pieces.clone()
    }

    /// Takes note that the device has these extents now.
    pub(super) fn has_extents(&self, extents: &[Range<u64>]) {
        let mut contents = self.contents();
        contents.pieces = self.pieces_of(extents, contents.size);
    }

    /// Nothing after `size` is to be mapped any more.
    pub(super) fn cut(&self, size: u64) {
        let mut contents = self.contents();
        contents.pieces.retain_mut(|piece| {
            piece.length = piece.length.min(size.saturating_sub(piece.offset));
            piece.length > 0
        });
    }

    /// The extents as far as they fit into a window of `size` bytes.
    fn pieces_of(&self, extents: &[Range<u64>], size: u64) -> Vec<Piece> {
        let mut offset = 0;
        let piece = |extent: &Range<u64>| {
            let length = (extent.end - extent.start).min(size - offset);
            let piece =
                Piece { offset, file_offset: self.shared_file.file_offset(extent.start), length };
            offset += length;
            piece
        };
        extents.iter().map(piece).filter(|piece| piece.length > 0).collect()
    }

    /// Makes durable what the guest has stored.
    ///
    /// # Errors
    ///
    /// The medium fails.
    pub fn sync(&self) -> Result<(), MediaError> {
        // What we have stored ourselves, of which the guest's may be a part: an earlier zeroing.
        self.region.region().medium().fence()?;
        self.shared_file.sync()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Replaced as a whole, so it is whole after a panic.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the shared memory region for `device`, with room for `reserve`.
fn region_size(device: &DeviceInfo, reserve: Option<u64>) -> Result<u64, Error> {
    let size = reserve.unwrap_or(device.size);
    if size == 0 || !size.is_multiple_of(GRANULE) || size < device.size {
        let (device, needed) = (device.name.clone(), device.size);
        return Err(Error::WindowSize { device, size, needed });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_piece_keeps_its_place_in_the_file() {
        let piece = Piece { offset: 100, file_offset: 5000, length: 50 };
        assert_eq!(piece.behind(0), Some(piece));
        assert_eq!(piece.behind(100), Some(piece));
        let rest = Piece { offset: 120, file_offset: 5020, length: 30 };
        assert_eq!(piece.behind(120), Some(rest));
        assert_eq!((piece.behind(150), piece.behind(1000)), (None, None));
    }
}
