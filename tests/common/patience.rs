//! How long to wait before something is given up.

use std::time::Duration;

/// How long anything may take that takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(20);
