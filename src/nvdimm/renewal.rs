//! Renews the claim on a namespace that has grown since it was claimed.

use super::claim::Claim;
use super::error::Error;
use super::file::{LabelSize, NvdimmFile};
use super::lock::duplicate;
use super::namespace::Namespace;

impl Claim {
    /// The same claim, on all bytes that the namespace has by now; those that it had are among them.
    ///
    /// Its label is looked up again in the file that is open, or the size of a file without labels.
    /// Only the holder of this claim can take bytes away from the namespace.
    ///
    /// # Errors
    ///
    /// The labels cannot be read, or another process holds some of the new bytes.
    pub fn renew(&self, label_size: LabelSize) -> Result<Claim, Error> {
        let file = duplicate(self.path(), self.file())?;
        let looked = NvdimmFile::from_open(self.path(), file, self.kind(), label_size)?;
        // Something is going to be made in the new bytes.
        looked.persist()?;
        let (uuid, range) = (self.namespace().uuid, &self.namespace().range);
        let is_this = |other: &&Namespace| {
            other.uuid == uuid && other.range.start == range.start && other.range.end > range.end
        };
        let found = looked.namespaces().iter().find(is_this);
        self.extend(found.unwrap_or(self.namespace()).clone())
    }
}
