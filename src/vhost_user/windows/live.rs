//! Devices that change their size while guests have them.

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
    #[error("this daemon serves several DAX devices {0:?}; say of which file and namespace")]
    Several(String),
    /// Something would be lost.
    #[error(
        "device {device:?} holds data behind byte {size}, which would be lost; --force gives them up"
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
        let mut take_away = |gone: Range<u64>| {
            for user in &users {
                user.window().cut(gone.start);
            }
            users.iter().all(|user| user.windows.unmap(user.number, gone.start))
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
    let mut end = 0;
    for extent in &device.extents {
        let start = end;
        end += extent.end - extent.start;
        let kept = size.saturating_sub(start).min(extent.end - extent.start);
        let gone = extent.start + kept..extent.end;
        if !gone.is_empty() && region.next_stored(gone.start) < gone.end {
            return Err(ResizeError::HoldsData { device: device.name.clone(), size });
        }
    }
    Ok(())
}
