//! The seven sector sizes of a BTT.

/// Bytes of an internal block are a multiple of this (the kernel's `INT_LBASIZE_ALIGNMENT`).
const INTERNAL_ALIGNMENT: u32 = 64;

/// The size of an external sector: 512 or 4096 bytes of data, with or without metadata.
///
/// The metadata (integrity) bytes are kept, and written as zeroes, but not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbaSize(u32);

impl LbaSize {
    /// Every size there is, in bytes (the kernel's `nd_btt` sector sizes).
    pub const ALL: [LbaSize; 7] = [
        LbaSize(512),
        LbaSize(520),
        LbaSize(528),
        LbaSize(4096),
        LbaSize(4104),
        LbaSize(4160),
        LbaSize(4224),
    ];

    /// The size of `bytes` bytes, if it is one of [`ALL`](Self::ALL).
    #[must_use]
    pub fn new(bytes: u32) -> Option<LbaSize> {
        Self::ALL.into_iter().find(|size| size.0 == bytes)
    }

    /// Bytes of a sector, metadata included (`external_lbasize`).
    #[must_use]
    pub fn external(self) -> u32 {
        self.0
    }

    /// Bytes of the block that holds a sector, as Linux makes it (`internal_lbasize`).
    #[must_use]
    pub fn internal(self) -> u32 {
        self.0.next_multiple_of(INTERNAL_ALIGNMENT)
    }

    /// Bytes of a sector that are served: 512 or 4096.
    #[must_use]
    pub fn data(self) -> u32 {
        if self.0 < 4096 { 512 } else { 4096 }
    }

    /// What the label of a namespace has as sector size: Linux has sizes with metadata in the BTT alone,
    /// and 0 here.
    #[must_use]
    pub fn in_label(self) -> u64 {
        if self.metadata() == 0 { self.0.into() } else { 0 }
    }

    /// Bytes of a sector that are not served.
    #[must_use]
    pub fn metadata(self) -> u32 {
        self.0 - self.data()
    }
}

impl Default for LbaSize {
    /// 4096 bytes without metadata: the page of every guest, with the least overhead.
    fn default() -> LbaSize {
        LbaSize(4096)
    }
}

impl std::fmt::Display for LbaSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_sizes_are_those_of_linux() {
        let internal: Vec<u32> = LbaSize::ALL.iter().map(|size| size.internal()).collect();
        assert_eq!(internal, [512, 576, 576, 4096, 4160, 4160, 4224]);
    }

    #[test]
    fn data_and_metadata_make_the_sector() {
        for size in LbaSize::ALL {
            assert_eq!(size.data() + size.metadata(), size.external());
        }
        assert_eq!(LbaSize::new(528).map(LbaSize::metadata), Some(16));
        assert_eq!(LbaSize::new(1024), None);
    }
}
