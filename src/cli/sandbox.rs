//! The options of the sandbox.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::sandbox::{Grant, GrantKind, Mode, Sandbox, Seccomp};
use crate::vhost_user::{DeviceConfig, grants};

/// What the daemon gives up before it serves.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// Whether the daemon gives up capabilities, files and system calls that serving does not need: 'auto'
    /// as far as it can, 'on' also beneath the filter of a service manager or with a preloaded library, or
    /// 'none'
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    sandbox: SandboxArg,

    /// What happens at a system call that serving does not need: 'kill' the daemon, 'log' it, or 'none'
    #[arg(long, value_name = "WHAT", default_value = "kill")]
    seccomp: SeccompArg,

    /// A folder whose files the daemon may open, and in which it may make sockets, also later, for requests
    /// over the control socket; may be repeated
    #[arg(long, value_name = "FOLDER")]
    allow_path: Vec<PathBuf>,
}

/// The value of `--sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SandboxArg {
    /// All that can be had; only capabilities where a service manager filters system calls, or a library is
    /// preloaded
    Auto,
    /// All that the kernel has, also there
    On,
    /// Nothing
    None,
}

/// The value of `--seccomp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SeccompArg {
    /// The daemon is killed
    Kill,
    /// The kernel logs the call, and carries it out
    Log,
    /// Calls are not filtered
    None,
}

impl SandboxArgs {
    /// The sandbox for `devices` and a control socket.
    #[must_use]
    pub fn sandbox(&self, devices: &[DeviceConfig], control: Option<&Path>) -> Sandbox {
        let mode = match self.sandbox {
            SandboxArg::Auto => Mode::Auto,
            SandboxArg::On => Mode::On,
            SandboxArg::None => Mode::None,
        };
        let seccomp = match self.seccomp {
            SeccompArg::Kill => Seccomp::Kill,
            SeccompArg::Log => Seccomp::Log,
            SeccompArg::None => Seccomp::None,
        };
        let folder = |path: &PathBuf| Grant { path: path.clone(), kind: GrantKind::Folder };
        let folders = self.allow_path.iter().map(folder);
        let grants = grants(devices, control).into_iter().chain(folders).collect();
        Sandbox { mode, seccomp, grants }
    }
}
