//! How far a check has come.

/// Reports how many bytes of how many were checked.
pub(super) struct Progress<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Progress<'a> {
    /// Nothing of nothing.
    pub(super) fn new(tell: &'a mut dyn FnMut(u64, u64)) -> Progress<'a> {
        Progress { done: 0, total: 0, tell }
    }

    /// There are `bytes` more to be checked.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.total += bytes;
    }

    /// So many more were checked.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.tell)(self.done, self.total);
    }

    /// There is nothing more to be checked, whatever was expected.
    pub(super) fn finish(&mut self) {
        if self.done < self.total {
            self.advance(self.total - self.done);
        }
    }
}
