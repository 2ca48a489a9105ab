//! What the daemon gives up once its files and sockets are open.
//!
//! A guest that takes over the process through a fault in it gets what the process has. So before the first
//! frontend is served, [`enter`] takes away what serving does not need, in this order:
//!
//! 1. core dumps, which would hold what is in the guest's buffers;
//! 2. new privileges (`no_new_privs`), and all capabilities;
//! 3. all files but those that were named at start, TCP, signals to other processes (Landlock, `files`);
//! 4. all system calls but those of `calls` (seccomp, `filter`).
//!
//! The process has one thread until then, since steps 2 and 3 concern the calling thread and those that it
//! starts. Each thread narrows the filter down to its own [`ThreadKind`] by [`enter_thread`] when it starts.

#![forbid(unsafe_code)]

mod calls;
mod files;
mod filter;
mod privileges;

use std::io;

use log::{info, warn};

pub use calls::{ThreadKind, allowed};
pub use files::{Grant, GrantKind};
pub use filter::{Seccomp, enter_thread};

/// How much of the sandbox is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All that can be had. Where a service manager has installed a filter of system calls already, what
    /// its filter may kill the process for is left out. So is what a preloaded library may break on.
    Auto,
    /// All that the kernel has, also beneath another filter.
    On,
    /// Nothing.
    None,
}

/// What is left to a process in the sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// How much of it is wanted.
    pub mode: Mode,
    /// What becomes of a thread that makes another system call.
    pub seccomp: Seccomp,
    /// The files that remain.
    pub grants: Vec<Grant>,
}

/// Why the process is not in the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Capabilities or core dumps.
    #[error("cannot give up {what}")]
    Privileges {
        /// What was to be given up.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Landlock has refused a rule.
    #[error("cannot restrict which files can be opened; --sandbox=none does without")]
    Files(#[source] landlock::RulesetError),
    /// The filter cannot be built.
    #[error("cannot build the filter of system calls; --seccomp=none does without")]
    Filter(#[source] seccompiler::BackendError),
    /// The filter cannot be installed.
    #[error("cannot install the filter of system calls; --seccomp=none does without")]
    Install(#[source] seccompiler::Error),
}

/// Why what would restrict files and system calls may break what the process has been started for.
fn reason_to_leave_out() -> Option<&'static str> {
    if privileges::is_filtered() {
        return Some("the service manager's filter may not know the calls that install them");
    }
    let preloads = ["LD_PRELOAD", "LD_AUDIT"].into_iter().filter_map(std::env::var_os);
    let has_preloads = preloads.into_iter().any(|libraries| !libraries.is_empty());
    has_preloads.then_some("a preloaded library (LD_PRELOAD) may need files and calls of its own")
}

/// Enters the sandbox with the calling thread, which is the only one.
///
/// # Errors
///
/// The kernel refuses something that it has. What it does not have is logged as a warning.
pub fn enter(sandbox: &Sandbox) -> Result<(), SandboxError> {
    if !gives_up_privileges(sandbox)? {
        return Ok(());
    }
    limit_arenas();
    let files = files::restrict(&sandbox.grants)?;
    let seccomp = sandbox.filter();
    filter::install(seccomp)?;
    info!("in the sandbox: {files}, {seccomp}");
    Ok(())
}

impl Sandbox {
    /// The filter of system calls to install. It has the calls that glibc makes: musl makes others in the same
    /// places, as a second `fcntl` when it duplicates a descriptor.
    fn filter(&self) -> Seccomp {
        if cfg!(target_env = "musl") && self.mode == Mode::Auto && self.seccomp == Seccomp::Kill {
            warn!(
                "the filter of system calls is left out, since it is made for glibc, and this program has \
                 another C library: --sandbox=on installs it nevertheless"
            );
            return Seccomp::None;
        }
        self.seccomp
    }
}

/// Enters the sandbox with the calling thread, which is the keeper's relay, and with no other one of the process:
/// no file can be opened, and no program started, whatever the sandbox grants. [`limit_arenas`] was called before
/// the thread was started.
///
/// # Errors
///
/// As of [`enter`].
pub fn enter_relay(sandbox: &Sandbox) -> Result<(), SandboxError> {
    if !gives_up_privileges(sandbox)? {
        return Ok(());
    }
    let files = files::restrict(&[])?;
    let seccomp = sandbox.filter();
    filter::install_for_thread(ThreadKind::Relay, seccomp)?;
    info!("the relay is in the sandbox: {files}, {seccomp}");
    Ok(())
}

/// Has the allocator open no file when threads are many.
pub fn limit_arenas() {
    if !crate::pmem::limit_arenas() {
        warn!(
            "the allocator has no limit of arenas: many threads may make it open a file, and end the daemon"
        );
    }
}

/// Gives up core dumps and capabilities. Returns whether all else is to be given up as well.
fn gives_up_privileges(sandbox: &Sandbox) -> Result<bool, SandboxError> {
    if sandbox.mode == Mode::None {
        warn!("the daemon runs without a sandbox");
        return Ok(false);
    }
    privileges::disable_core_dumps()?;
    privileges::drop_all()?;
    if sandbox.mode == Mode::Auto
        && let Some(reason) = reason_to_leave_out()
    {
        warn!(
            "Landlock and the daemon's own filter of system calls are left out, since {reason}: --sandbox=on \
             installs them nevertheless"
        );
        return Ok(false);
    }
    Ok(true)
}
