//! Feature bits: what a region uses, in three classes by what they mean for a program that does not know
//! them, as the superblock of bcache's nvm pages and those of ext4 have it.

use super::error::Error;
use super::fault::Fault;

/// The feature bits of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Features {
    /// A program that does not know one of these can do everything. The bits are kept.
    pub compat: u64,
    /// A program that does not know one of these must not use the region.
    pub incompat: u64,
    /// A program that does not know one of these may read the region and must not change it.
    pub ro_compat: u64,
}

impl Features {
    /// Incompatible: alignment counts from a multiple of 4 GiB of the file instead of from the start of the
    /// namespace.
    pub(crate) const ALIGN_BASE: u64 = 1;

    /// Refuses a region that uses something by which its metadata would be misunderstood.
    ///
    /// # Errors
    ///
    /// [`Fault::Features`].
    pub(crate) fn check_open(self) -> Result<(), Fault> {
        match self.incompat & !Features::ALIGN_BASE {
            0 => Ok(()),
            unknown => Err(Fault::Features(unknown)),
        }
    }

    /// Refuses to change a region that uses something which a change would damage.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnlyFeatures`].
    pub(crate) fn check_change(self) -> Result<(), Error> {
        if self.ro_compat == 0 || mutant!(dax::FeaturesIgnored) {
            Ok(())
        } else {
            Err(Error::ReadOnlyFeatures(self.ro_compat))
        }
    }
}
