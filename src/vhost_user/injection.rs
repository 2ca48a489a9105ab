//! What is to go wrong, to show what a guest makes of it.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;

use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::pmem::{Lend, MapError, Mapping, PersistentMemory, PowerFail, PowerFailure};

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injection {
    /// Let the power fail.
    pub power_fail: Option<PowerFailure>,
    /// Serve the namespace's bytes, as sectors of so many, and not the BTT's.
    pub raw: Option<u32>,
}

impl Injection {
    /// The medium of a region: `mapping`, or that with a power that fails; and how its file is lent.
    pub(super) fn medium(
        &self,
        mapping: Mapping,
    ) -> Result<(Arc<dyn PersistentMemory>, Lend), MapError> {
        let Some(failure) = self.power_fail else {
            let medium = Arc::new(mapping);
            return Ok((medium.clone(), Box::new(move |protection| medium.lend(protection))));
        };
        let medium = Arc::new(PowerFail::new(mapping, failure)?);
        fail_on_signal(Arc::downgrade(&medium))
            .map_err(|source| MapError::System { call: "watch for SIGUSR1", source })?;
        Ok((medium.clone(), Box::new(move |protection| medium.lend(protection))))
    }
}

/// Lets the power fail at SIGUSR1.
pub(super) fn fail_on_signal(medium: Weak<PowerFail>) -> io::Result<()> {
    let mut signals = Signals::new([SIGUSR1])?;
    thread::Builder::new()
        .name("power-switch".into())
        .spawn(move || {
            // Without a medium the daemon is about to end by itself, with nothing to lose.
            if signals.forever().next().is_some()
                && let Some(medium) = medium.upgrade()
            {
                medium.fail();
            }
        })
        .map(drop)
}
