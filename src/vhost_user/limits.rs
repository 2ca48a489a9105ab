//! Resource limits of the process.

use log::{debug, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process have as many descriptors open as it may: each connection needs some for each queue,
/// and the usual limit is meant for programs that use select(2).
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!("up to {:?} descriptors may be open", limit.maximum),
        Err(errno) => warn!("the limit of open descriptors stays at {:?}: {errno}", limit.current),
    }
}
