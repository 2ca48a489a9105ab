//! Core dumps, capabilities, and what else a process has by what it is.

use std::fs;
use std::io;

use log::debug;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::SandboxError;

fn fails<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |source| SandboxError::Privileges { what, source: source.into() }
}

/// Keeps the memory of the process out of core dumps of any kind.
pub(super) fn disable_core_dumps() -> Result<(), SandboxError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(fails("core dumps"))?;
    // A program that the kernel pipes core dumps to gets them in spite of the limit, but without contents.
    if let Err(error) = fs::write("/proc/self/coredump_filter", "0") {
        debug!("the contents of core dumps are not restricted: {error}");
    }
    Ok(())
}

/// Drops all capabilities, for ever.
pub(super) fn drop_all() -> Result<(), SandboxError> {
    set_no_new_privs(true).map_err(fails("new privileges"))?;
    let held = capabilities(None).map_err(fails("capabilities"))?;
    match clear_ambient_capability_set() {
        // Before Linux 4.3 there are none.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(fails("ambient capabilities")(errno)),
    }
    if held.effective.contains(CapabilitySet::SETPCAP) {
        drop_bounding_set()?;
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    // A service manager's filter may refuse the call where there is nothing to drop.
    if held.effective.is_empty() && held.permitted.is_empty() && held.inheritable.is_empty() {
        return Ok(());
    }
    set_capabilities(None, sets).map_err(fails("capabilities"))
}

fn drop_bounding_set() -> Result<(), SandboxError> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // Newer than the kernel.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(fails("the bounding set of capabilities")(errno)),
        }
    }
    Ok(())
}

/// Returns whether a filter of system calls was installed already when the process started.
pub(super) fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() != "0"))
}
