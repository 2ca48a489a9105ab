//! Which files the process can still open, by Landlock.
//!
//! What is open already stays usable. Files are opened again when a namespace has grown, and names are
//! removed from the folders of sockets at the end.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use log::{debug, warn};

use super::SandboxError;

/// The version of Landlock whose rights are taken away, as far as the kernel knows them.
const VERSION: ABI = ABI::V6;

/// A file or folder that remains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its path.
    pub path: PathBuf,
    /// What can still be done with it.
    pub kind: GrantKind,
}

/// What can still be done with a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantKind {
    /// The file can be read, or all files in the folder.
    Read,
    /// The file can be read and written.
    ReadWrite,
    /// Names of sockets can be made and removed in the folder.
    Sockets,
    /// Files in the folder can be read and written, and sockets made and removed.
    Folder,
}

impl GrantKind {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            GrantKind::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
            GrantKind::ReadWrite => {
                make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev})
            }
            GrantKind::Sockets => make_bitflags!(AccessFs::{MakeSock | RemoveFile}),
            GrantKind::Folder => {
                GrantKind::Read.rights()
                    | GrantKind::ReadWrite.rights()
                    | GrantKind::Sockets.rights()
            }
        }
    }
}

/// Restricts the calling thread, and those that it starts from now on, to `grants`. Returns what to say
/// of it.
pub(super) fn restrict(grants: &[Grant]) -> Result<&'static str, SandboxError> {
    match try_restrict(grants).map_err(SandboxError::Files)? {
        RulesetStatus::FullyEnforced => Ok("files restricted"),
        RulesetStatus::PartiallyEnforced => Ok("files restricted as far as this kernel can"),
        RulesetStatus::NotEnforced => {
            warn!(
                "this kernel has no Landlock: a process that was taken over can open other files"
            );
            Ok("files not restricted")
        }
    }
}

fn try_restrict(grants: &[Grant]) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(scopes())?
        .create()?;
    for grant in grants {
        match PathFd::new(&grant.path) {
            Ok(file) => {
                let rights = if grant.path.is_dir() {
                    grant.kind.rights()
                } else {
                    // The kernel refuses rights of folders for files.
                    grant.kind.rights() & AccessFs::from_file(VERSION)
                };
                rules = rules.add_rule(PathBeneath::new(file, rights))?;
            }
            // Nothing can be opened there then, which is no less than was asked for.
            Err(error) => debug!("{} stays closed: {error}", grant.path.display()),
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// Signals, and abstract sockets, of processes outside of the sandbox; but not the abstract socket at which
/// the service manager listens.
fn scopes() -> BitFlags<Scope> {
    use std::os::unix::ffi::OsStrExt;
    let notified = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    match notified.as_bytes().first() {
        Some(b'@' | 0) => Scope::Signal.into(),
        _ => Scope::Signal | Scope::AbstractUnixSocket,
    }
}
