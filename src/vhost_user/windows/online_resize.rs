//! Online resize of DAX devices.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Windows;
use super::region::{OpenRegion, Regions};
use super::window::Window;
use crate::dax::{self, DeviceInfo};

/// How long all frontends together may take to release what a device loses. QEMU takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a device keeps its size.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResizeError {
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
    /// A frontend has not unmapped what would be freed, or a request that uses it has not ended.
    #[error(
        "busy: a guest's frontend did not let go of the part of device {0:?} that would be freed; try again \
         when it answers"
    )]
    NotReleased(String),
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
    #[error("{log_name}")]
    Region {
        /// What the log calls the region.
        log_name: String,
        /// What is wrong.
        source: dax::Error,
    },
}

/// Selects a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceSelector<'a> {
    /// The NVDIMM file that it is in; `None`: any.
    pub file: Option<&'a Path>,
    /// The namespace that it is in; `None`: any.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

/// What a device has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resized {
    /// Its size before, in bytes.
    pub before: u64,
    /// Its size now.
    pub size: u64,
    /// Number of windows that guests have to it.
    pub windows: usize,
}

/// The regions of a process and all windows into them, whose devices are resized while guests use them.
pub(crate) struct OnlineResize {
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

impl OnlineResize {
    /// The regions that are open in `regions`.
    pub(crate) fn new(regions: Regions) -> OnlineResize {
        let (regions, windows) = regions.into_parts();
        OnlineResize { regions, windows }
    }

    /// Makes a device larger or smaller, and the windows to it.
    ///
    /// What is new can be mapped by the guests at once. What goes is revoked before it is freed: frontends
    /// unmap it, and requests that use it end. If that does not happen in time, nothing changes. `force`:
    /// also where data go with it, and where a guest's driver is not prepared for the change.
    ///
    /// # Errors
    ///
    /// [`ResizeError`].
    pub(crate) fn resize(
        &self,
        selector: &DeviceSelector<'_>,
        size: u64,
        force: bool,
    ) -> Result<Resized, ResizeError> {
        let region = self.find(selector)?;
        let fails = |source| ResizeError::Region { log_name: region.log_name().to_owned(), source };
        // Until this is dropped, no window begins to map a device of the region.
        let layout = region.region().lock_layout();
        let pending = layout.begin_resize(selector.name, size).map_err(fails)?;
        let before = pending.device();
        let users = self.users(region, &before);
        let doomed = Doomed { region, device: &before, size, ranges: pending.doomed() };
        if !force {
            refuse_surprise(&users, &before, size)?;
            doomed.refuse_loss()?;
        }
        let revoked = self.revoke(&users, &doomed, Instant::now() + PATIENCE);
        let resized = revoked.and_then(|()| pending.commit().map_err(fails));
        // The windows show what the device has now, whatever came of it.
        let now = region.region().device(selector.name).map_err(fails)?;
        for user in &users {
            user.window().has_extents(&now.extents);
            user.windows.map_more();
        }
        resized?;
        Ok(Resized { before: before.size, size: now.size, windows: users.len() })
    }

    /// Takes what a device loses away from the guests: cuts the windows, has the frontends unmap it, and
    /// waits for requests that may use it, all of that until `deadline`.
    fn revoke(
        &self,
        users: &[User<'_>],
        doomed: &Doomed<'_>,
        deadline: Instant,
    ) -> Result<(), ResizeError> {
        if doomed.ranges.is_empty() {
            return Ok(());
        }
        let start = doomed.size;
        for user in users {
            user.window().cut(start);
        }
        let unmapped = users.iter().all(|user| user.windows.unmap(user.number, start, deadline));
        if unmapped && self.is_unused(doomed, deadline) {
            return Ok(());
        }
        let device = doomed.device.name.clone();
        // A guest whose frontend has just gone has left its devices one by one.
        let is_left = users.is_empty();
        Err(if is_left { ResizeError::InUse(device) } else { ResizeError::NotReleased(device) })
    }

    /// The region that a device is in.
    fn find(&self, selector: &DeviceSelector<'_>) -> Result<&Arc<OpenRegion>, ResizeError> {
        let mut found = self.regions.iter().filter(|region| {
            selector.file.is_none_or(|file| region.is_in(file))
                && selector.namespace.is_none_or(|namespace| region.goes_by(namespace))
                && region.region().device(selector.name).is_ok()
        });
        match (found.next(), found.next()) {
            (Some(region), None) => Ok(region),
            (None, _) => Err(ResizeError::Unknown(selector.name.to_owned())),
            (Some(_), Some(_)) => Err(ResizeError::Several(selector.name.to_owned())),
        }
    }

    /// Waits, until `deadline` at most, for the requests that are under way. Returns whether no later request
    /// can access what is doomed.
    fn is_unused(&self, doomed: &Doomed<'_>, deadline: Instant) -> bool {
        let file = doomed.region.file();
        let in_file =
            |range: &Range<u64>| file.file_offset(range.start)..file.file_offset(range.end);
        let ranges: Vec<_> = doomed.ranges.iter().map(in_file).collect();
        self.windows.iter().all(|windows| windows.quiesce(file, &ranges, deadline))
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

/// What a device will lose.
struct Doomed<'a> {
    region: &'a OpenRegion,
    device: &'a DeviceInfo,
    /// The new size of the device.
    size: u64,
    /// The bytes of the region that the device has after `size`.
    ranges: Vec<Range<u64>>,
}

impl Doomed<'_> {
    /// Refuses to discard what is stored there, as far as it is known that something is.
    fn refuse_loss(&self) -> Result<(), ResizeError> {
        let region = self.region.region();
        if self.ranges.iter().any(|range| region.next_stored(range.start) < range.end) {
            let device = self.device.name.clone();
            return Err(ResizeError::HoldsData { device, size: self.size });
        }
        Ok(())
    }
}
