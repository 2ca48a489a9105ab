//! The kinds of metadata page.

/// What kind of metadata page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// The owner table, of which there is one.
    Owners,
    /// Records of an owner's pages.
    Records,
    /// Devices.
    Devices,
    /// Extents of a device that has more than fit into its slot.
    Extents,
}

impl PageKind {
    /// The first bytes after the checksum.
    #[must_use]
    pub fn magic(self) -> [u8; 16] {
        match self {
            PageKind::Owners => *b"NVM_OWNER_TABLE\0",
            PageKind::Records => *b"NVM_RECORD_PAGE\0",
            PageKind::Devices => *b"NVM_DEVICE_PAGE\0",
            PageKind::Extents => *b"NVM_EXTENT_PAGE\0",
        }
    }

    /// The words used in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PageKind::Owners => "owner table",
            PageKind::Records => "record page",
            PageKind::Devices => "device page",
            PageKind::Extents => "extent page",
        }
    }
}
