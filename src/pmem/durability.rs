//! Durability: what a fence makes durable, and what the device may therefore promise to the guest.

/// What was asked for (`--durability`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DurabilityRequest {
    /// DAX where the file supports it, page cache elsewhere.
    #[default]
    Auto,
    /// Flush and fence as on DAX, even on a file that does not support it (for measurements).
    Dax,
    /// Page-cache durability, even on DAX.
    PageCache,
    /// DAX where the file supports it; elsewhere every fence syncs the file.
    Strict,
}

/// What a fence makes durable on an open medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A fence is durable: stores go past the CPU caches to persistent memory.
    Dax,
    /// A fence orders but makes nothing durable; a sync does. Atomic across a crash of guest, VMM
    /// or daemon, not across a power failure of the host.
    PageCache,
    /// Every fence syncs the file.
    Strict,
}

impl Durability {
    /// Returns whether a completed write is durable without a flush request (write cache disabled).
    #[must_use]
    pub fn is_write_through(self) -> bool {
        !matches!(self, Durability::PageCache)
    }

    /// The word used in options, listings and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Dax => "dax",
            Durability::PageCache => "page-cache",
            Durability::Strict => "strict",
        }
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
