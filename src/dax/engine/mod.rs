//! The engine: an open region, its owners and devices, and which pages are free.

mod buddy;
mod chain;
mod create;
mod devices;
mod extents;
mod grow;
mod load;
mod owners;
mod region;
mod resize;
mod state;
mod transaction;

pub use create::{CreateOptions, create};
pub use devices::{DeviceInfo, DeviceOptions, Hold};
pub use grow::{Growth, grow};
pub use owners::{OwnedBlock, OwnerInfo};
pub use region::{LayoutLock, Region, RegionInfo};
pub use resize::PendingResize;
