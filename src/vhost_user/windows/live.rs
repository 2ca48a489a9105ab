//! Online resize of DAX devices.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Windows;
use super::region::{OpenRegion, Regions};
use super::window::Window;
use crate::dax::{self, DeviceInfo, Held};

/// Why a device keeps its size.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// No open region has it.
    #[error("this daemon serves no DAX device {0:?}")]
    Unknown(String),
    /// Several open regions have one of that name.
    #[error("this daemon serves several DAX devices {0:?}; name the file and the namespace")]
    Several(String),
    /// Something would be lost.
    #[error(
        "device {device:?} holds data after byte {size}, which would be lost; --force discards them"
    )]
    HoldsData {
        /// Name of the device.
        device: String,
        /// Its new size in bytes.
        size: u64,
    },
    /// A guest uses all of it.
    #[error(
        "busy: device {0:?} is the persistent memory of a guest, whose driver takes no other size before \
         its machine starts again; --force does it all the same"
    )]
    Fixed(String),
    /// A guest can still get at what would be freed.
    #[error(
        "busy: a part of device {0:?} that would be freed is in the memory of a guest still; try again when \
         its frontend has taken it out"
    )]
    InUse(String),
    /// A window is too small.
    #[error(
        "busy: a guest has a window of {window} bytes to device {device:?}, which cannot show more; \
         --force does it all the same, and the guest sees the rest when its machine starts again"
    )]
    Window {
        /// Name of the device.
        device: String,
        /// Bytes of the window.
        window: u64,
    },
    /// The region.
    #[error("{title}: {source}")]
    Region {
        /// What the log calls the region.
        title: String,
        /// What is wrong; part of the message.
        source: dax::Error,
    },
}

/// Which device.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The NVDIMM file that it is in; `None`: any.
    pub file: Option<&'a Path>,
    /// The namespace that it is in; `None`: any.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

/// What a device has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resized {
    /// Its size before, in bytes.
    pub before: u64,
    /// Its size now.
    pub size: u64,
    /// Number of windows that guests have to it.
    pub windows: usize,
}

/// The regions of a process and all windows into them.
pub struct Live {
    regions: Vec<Arc<OpenRegion>>,
    windows: Vec<Arc<Windows>>,
}

/// A window that a guest has to a device.
struct User<'a> {
    windows: &'a Windows,
    number: usize,
}

impl User<'_> {
    fn window(&self) -> &Window {
        &self.windows.all()[self.number]
    }
}

impl Live {
    /// What is open in `regions`.
    pub fn new(regions: Regions) -> Live {
        let (regions, windows) = regions.into_parts();
        Live { regions, windows }
    }

    /// Makes a device larger or smaller, and the windows to it.
    ///
    /// What is new can be mapped by the guests at once. What goes is taken away from them before, and they
    /// have let go of it when it is freed; if one does not, nothing changes. `force`: also where data go
    /// with it, and where a guest's driver is not prepared for the change.
    ///
    /// # Errors
    ///
    /// [`ResizeError`].
    pub fn resize(
        &self,
        wanted: &Wanted<'_>,
        size: u64,
        force: bool,
    ) -> Result<Resized, ResizeError> {
        let region = self.find(wanted)?;
        let _steady = region.steady();
        let fails = |source| ResizeError::Region { title: region.title().to_owned(), source };
        let before = region.region().device(wanted.name).map_err(fails)?;
        let users = self.users(region, &before);
        if !force {
            refuse_surprise(&users, &before, size)?;
            refuse_loss(region, &before, size)?;
        }
        let gone = behind(&before, size);
        // A guest whose frontend has just gone has left its devices one by one.
        if users.is_empty() && !self.is_unused(region, &gone) {
            return Err(ResizeError::InUse(wanted.name.to_owned()));
        }
        let mut take_away = |cut: Range<u64>| {
            for user in &users {
                user.window().cut(cut.start);
            }
            users.iter().all(|user| user.windows.unmap(user.number, cut.start))
                && self.is_unused(region, &gone)
        };
        let held = Held::TakeAway(&mut take_away);
        let resized = region.region().resize_device(wanted.name, size, held);
        // As it is now, whatever came of it.
        let now = region.region().device(wanted.name).map_err(fails)?;
        for user in &users {
            user.window().has_extents(&now.extents);
            user.windows.map_more();
        }
        resized.map_err(fails)?;
        Ok(Resized { before: before.size, size: now.size, windows: users.len() })
    }

    /// The region that a device is in.
    fn find(&self, wanted: &Wanted<'_>) -> Result<&Arc<OpenRegion>, ResizeError> {
        let mut found = self.regions.iter().filter(|region| {
            wanted.file.is_none_or(|file| region.is_in(file))
                && wanted.namespace.is_none_or(|namespace| region.goes_by(namespace))
                && region.region().device(wanted.name).is_ok()
        });
        match (found.next(), found.next()) {
            (Some(region), None) => Ok(region),
            (None, _) => Err(ResizeError::Unknown(wanted.name.to_owned())),
            (Some(_), Some(_)) => Err(ResizeError::Several(wanted.name.to_owned())),
        }
    }

    /// Waits until what guests have asked for is done. Returns whether nothing that they ask for from then on gets
    /// at the bytes `ranges` of the region.
    fn is_unused(&self, region: &OpenRegion, ranges: &[Range<u64>]) -> bool {
        let file = region.file();
        let in_file =
            |range: &Range<u64>| file.file_offset(range.start)..file.file_offset(range.end);
        let ranges: Vec<_> = ranges.iter().map(in_file).collect();
        ranges.is_empty() || self.windows.iter().all(|windows| windows.lets_go_of(file, &ranges))
    }

    /// The windows that guests have to `device`.
    fn users(&self, region: &Arc<OpenRegion>, device: &DeviceInfo) -> Vec<User<'_>> {
        let all = self
            .windows
            .iter()
            .flat_map(|windows| (0..windows.all().len()).map(|number| User { windows, number }));
        all.filter(|user| {
            let window = user.window();
            Arc::ptr_eq(window.region(), region)
                && window.uuid() == device.uuid
                && window.is_attached()
        })
        .collect()
    }
}

/// Refuses what a guest's driver is not prepared for.
fn refuse_surprise(users: &[User<'_>], device: &DeviceInfo, size: u64) -> Result<(), ResizeError> {
    let name = || device.name.clone();
    for window in users.iter().map(User::window) {
        if window.is_fixed() && size != device.size {
            return Err(ResizeError::Fixed(name()));
        }
        if size > window.size() {
            return Err(ResizeError::Window { device: name(), window: window.size() });
        }
    }
    Ok(())
}

/// Refuses to give up what is stored behind `size`, as far as it is known that something is.
fn refuse_loss(region: &OpenRegion, device: &DeviceInfo, size: u64) -> Result<(), ResizeError> {
    let region = region.region();
    if behind(device, size).iter().any(|gone| region.next_stored(gone.start) < gone.end) {
        return Err(ResizeError::HoldsData { device: device.name.clone(), size });
    }
    Ok(())
}

/// The bytes of the region that are the device's behind its byte `size`.
fn behind(device: &DeviceInfo, size: u64) -> Vec<Range<u64>> {
    let mut end = 0;
    let behind = |extent: &Range<u64>| {
        let start = end;
        end += extent.end - extent.start;
        extent.start + size.saturating_sub(start).min(end - start)..extent.end
    };
    device.extents.iter().map(behind).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dax::Align;

    #[test]
    fn what_is_behind_a_size_is_the_rest_of_an_extent_and_all_that_follow() {
        let extents = vec![100..200, 1000..1200, 50..60];
        let device = DeviceInfo {
            name: "data".into(),
            uuid: uuid::Uuid::nil(),
            label: String::new(),
            size: 310,
            align: Align::default(),
            contiguous: false,
            held: false,
            extents,
        };
        assert_eq!(behind(&device, 0), device.extents);
        assert_eq!(behind(&device, 40), [140..200, 1000..1200, 50..60]);
        assert_eq!(behind(&device, 100), [1000..1200, 50..60]);
        assert_eq!(behind(&device, 250), [1150..1200, 50..60]);
        assert_eq!(behind(&device, 310), []);
        assert_eq!(behind(&device, 1000), []);
    }
}
