//! Which system calls a thread makes, by what it is there for.
//!
//! The lists were measured (`tests/sandbox.rs` measures them again, and names those that no test can
//! cause). A thread inherits the filter of the one that has started it, so that what a thread may do
//! includes what the threads that it starts may do.

use libc::c_long;

/// What a thread is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThreadKind {
    /// Any: the filter that all threads are subject to.
    Process,
    /// Starts the threads of devices.
    Main,
    /// Serves a device: its socket, its connection, the set-up of rings and memory.
    Device,
    /// Carries out the requests of a ring.
    Queue,
    /// Syncs the file of a disk.
    Flusher,
    /// Fills page tables.
    Pages,
    /// Has the frontend map shared memory regions.
    Windows,
    /// Accepts clients of the control socket, or serves one.
    Control,
    /// Waits for signals.
    Signals,
    /// Answers the service manager's watchdog.
    Watchdog,
    /// Passes on what frontends and the serving process say: of another process, the keeper.
    Relay,
}

impl ThreadKind {
    /// All of them that the daemon has.
    pub const ALL: [ThreadKind; 10] = [
        ThreadKind::Process,
        ThreadKind::Main,
        ThreadKind::Device,
        ThreadKind::Queue,
        ThreadKind::Flusher,
        ThreadKind::Pages,
        ThreadKind::Windows,
        ThreadKind::Control,
        ThreadKind::Signals,
        ThreadKind::Watchdog,
    ];

    /// Of which kinds the threads are that such a thread starts.
    fn starts(self) -> &'static [ThreadKind] {
        match self {
            ThreadKind::Process => {
                &[ThreadKind::Main, ThreadKind::Control, ThreadKind::Signals, ThreadKind::Watchdog]
            }
            ThreadKind::Main => &[ThreadKind::Device],
            ThreadKind::Device => &[ThreadKind::Queue, ThreadKind::Pages, ThreadKind::Windows],
            ThreadKind::Queue => &[ThreadKind::Flusher],
            ThreadKind::Control => &[ThreadKind::Control],
            ThreadKind::Signals => &[ThreadKind::Signals],
            ThreadKind::Flusher
            | ThreadKind::Pages
            | ThreadKind::Windows
            | ThreadKind::Watchdog
            | ThreadKind::Relay => &[],
        }
    }

    /// The calls that it makes itself, beside those of every thread.
    fn own(self) -> &'static [&'static [&'static [Call]]] {
        match self {
            ThreadKind::Process => &[],
            ThreadKind::Main => &[END],
            ThreadKind::Device => &[CONNECTION, OPENING, FILE, &[UNLINK]],
            ThreadKind::Queue => &[QUEUE, FILE, READING],
            ThreadKind::Flusher => &[FILE],
            ThreadKind::Pages => &[PAGES],
            ThreadKind::Windows => &[WINDOWS],
            ThreadKind::Control => &[CONTROL, FILE, READING, OPENING, GROWING, ADDING],
            ThreadKind::Signals => &[NOTIFYING, SIGNALS, END],
            ThreadKind::Watchdog => &[NOTIFYING],
            ThreadKind::Relay => &[RELAYING],
        }
    }
}

/// A system call that is allowed.
#[derive(Debug)]
pub(super) struct Call {
    pub name: &'static str,
    pub number: c_long,
    pub only: Only,
}

/// On which condition it is.
#[derive(Debug)]
pub(super) enum Only {
    /// On none.
    Any,
    /// None of `bits` are set in an argument.
    WithoutBits { argument: u8, bits: u64 },
    /// An argument has one of some values.
    OneOf { argument: u8, values: &'static [u64] },
}

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        &[$(Call { name: stringify!($name), number: libc::$name, only: Only::Any }),*]
    };
}

macro_rules! only {
    ($name:ident, $only:expr) => {
        Call { name: stringify!($name), number: libc::$name, only: $only }
    };
}

/// Names that architectures without old system calls do not have.
#[cfg(target_arch = "x86_64")]
const POLL: &[Call] = calls![SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const POLL: &[Call] = calls![SYS_ppoll];
#[cfg(target_arch = "x86_64")]
const READLINK: &[Call] = calls![SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const READLINK: &[Call] = calls![SYS_readlinkat];
#[cfg(target_arch = "x86_64")]
const UNLINK: &[Call] = calls![SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const UNLINK: &[Call] = calls![SYS_unlinkat];

/// Bits and values of arguments.
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const F_DUPFD_CLOEXEC: u64 = libc::F_DUPFD_CLOEXEC as u64;
const F_GETFD: u64 = libc::F_GETFD as u64;
const F_GETFL: u64 = libc::F_GETFL as u64;
const F_SETFL: u64 = libc::F_SETFL as u64;
const F_OFD_GETLK: u64 = libc::F_OFD_GETLK as u64;
const F_OFD_SETLK: u64 = libc::F_OFD_SETLK as u64;
const SET_NAME: u64 = libc::PR_SET_NAME as u64;
const SET_NO_NEW_PRIVS: u64 = libc::PR_SET_NO_NEW_PRIVS as u64;
const AF_UNIX: u64 = libc::AF_UNIX as u64;
const SET_MODE_FILTER: u64 = libc::SECCOMP_SET_MODE_FILTER as u64;

/// What the C libraries give to `clone` where there is no `clone3`: systemd's `RestrictNamespaces=` denies that
/// one, since a filter cannot see its flags; and musl has never used it.
const NEW_THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
const NEW_THREAD_OF_MUSL: u64 = NEW_THREAD | libc::CLONE_DETACHED as u64;

/// Memory, locks, the log, the end of a thread, and what the handler of a signal does: of every thread.
const COMMON: &[&[Call]] = &[
    calls![
        SYS_brk,
        SYS_clock_gettime,
        SYS_clock_nanosleep,
        SYS_close,
        SYS_exit,
        SYS_futex,
        SYS_getrandom,
        SYS_gettid,
        SYS_madvise,
        SYS_mremap,
        SYS_munmap,
        SYS_restart_syscall,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sched_getaffinity,
        SYS_sched_yield,
        SYS_sendto,
        SYS_sigaltstack,
        SYS_write,
    ],
    &[
        only!(SYS_fcntl, Only::OneOf { argument: 1, values: &[F_GETFD] }),
        only!(SYS_mmap, Only::WithoutBits { argument: 2, bits: PROT_EXEC }),
        only!(SYS_mprotect, Only::WithoutBits { argument: 2, bits: PROT_EXEC }),
    ],
];

/// The start of a thread, up to its own filter.
const STARTING: &[&[Call]] = &[
    calls![SYS_clone3, SYS_rseq, SYS_set_robust_list],
    &[
        only!(SYS_clone, Only::OneOf { argument: 0, values: &[NEW_THREAD, NEW_THREAD_OF_MUSL] }),
        only!(SYS_prctl, Only::OneOf { argument: 0, values: &[SET_NAME, SET_NO_NEW_PRIVS] }),
        only!(SYS_seccomp, Only::OneOf { argument: 0, values: &[SET_MODE_FILTER] }),
    ],
];

/// Connections, memory and rings of a frontend.
const CONNECTION: &[&[Call]] = &[
    POLL,
    READLINK,
    calls![
        SYS_accept4,
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_eventfd2,
        SYS_fstatfs,
        SYS_getpid,
        SYS_getsockopt,
        SYS_ioctl,
        SYS_recvmsg,
        SYS_rt_sigaction,
        SYS_sendmsg,
        SYS_shutdown,
        SYS_statx,
        SYS_tgkill,
    ],
    &[only!(SYS_fcntl, Only::OneOf { argument: 1, values: &[F_GETFL, F_SETFL, F_DUPFD_CLOEXEC] })],
];

/// Opening a namespace again that has grown.
const OPENING: &[&[Call]] = &[
    calls![SYS_fadvise64, SYS_fallocate, SYS_msync, SYS_openat],
    &[only!(SYS_fcntl, Only::OneOf { argument: 1, values: &[F_OFD_GETLK, F_OFD_SETLK] })],
];

/// Growing a namespace, or the file that it is in, and telling the frontend.
const GROWING: &[&[Call]] = &[
    calls![SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_sendmsg],
    &[only!(SYS_fcntl, Only::OneOf { argument: 1, values: &[F_DUPFD_CLOEXEC] })],
];

/// Syncing a file, and finding out why bytes of it cannot be read.
const FILE: &[&[Call]] = &[calls![SYS_fdatasync, SYS_lseek, SYS_mincore]];

/// Finding the pages of a file that are in memory.
const PAGES: &[&[Call]] = &[calls![SYS_lseek, SYS_mincore]];

/// Reading bytes of a file again that could not be read.
const READING: &[&[Call]] = &[calls![SYS_pread64]];

/// The rings' events, and syncs of parts of a file.
const QUEUE: &[&[Call]] = &[calls![SYS_epoll_pwait, SYS_msync, SYS_read]];

/// Requests to the frontend.
const WINDOWS: &[&[Call]] = &[POLL, calls![SYS_recvmsg, SYS_sendmsg, SYS_shutdown]];

/// Messages between frontends and the serving process, and the used indexes of rings.
const RELAYING: &[&[Call]] = &[
    POLL,
    calls![
        SYS_accept4,
        SYS_pread64,
        SYS_read,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_sendmsg,
        SYS_shutdown,
        SYS_socketpair,
    ],
    &[only!(SYS_fcntl, Only::OneOf { argument: 1, values: &[F_DUPFD_CLOEXEC] })],
];

/// Requests of an administrator.
const CONTROL: &[&[Call]] = &[
    POLL,
    READLINK,
    calls![
        SYS_accept4,
        SYS_fallocate,
        SYS_ioctl,
        SYS_openat,
        SYS_read,
        SYS_recvmsg,
        SYS_shutdown,
        SYS_statx
    ],
];

/// A disk that is added: its descriptors, or the socket that is bound for it.
const ADDING: &[&[Call]] = &[
    UNLINK,
    calls![
        SYS_bind,
        SYS_connect,
        SYS_eventfd2,
        SYS_fchmod,
        SYS_fchownat,
        SYS_getsockname,
        SYS_getsockopt,
        SYS_listen,
        SYS_umask,
    ],
    &[
        only!(SYS_socket, Only::OneOf { argument: 0, values: &[AF_UNIX] }),
        only!(SYS_fcntl, Only::OneOf { argument: 1, values: &[F_GETFL] }),
    ],
];

/// Signals, and the end of the process.
const SIGNALS: &[&[Call]] = &[calls![SYS_recvfrom]];
const END: &[&[Call]] = &[UNLINK, calls![SYS_exit_group]];

/// Messages to the service manager.
const NOTIFYING: &[&[Call]] =
    &[calls![SYS_connect], &[only!(SYS_socket, Only::OneOf { argument: 0, values: &[AF_UNIX] })]];

/// The calls of a thread of a kind; the same call may be there several times, on different conditions.
pub(super) fn allowed_calls(kind: ThreadKind) -> Vec<&'static Call> {
    let mut kinds = vec![kind];
    let mut next = 0;
    while let Some(kind) = kinds.get(next) {
        let new: Vec<_> = kind.starts().iter().filter(|kind| !kinds.contains(kind)).collect();
        kinds.extend(new);
        next += 1;
    }
    let starting = if kind.starts().is_empty() { &[][..] } else { STARTING };
    let own = kinds.iter().flat_map(|kind| kind.own()).flat_map(|groups| groups.iter());
    let groups = COMMON.iter().chain(starting).chain(own);
    groups.flat_map(|group| group.iter()).collect()
}

/// The names of the system calls of a thread of a kind, in alphabetical order.
#[must_use]
pub fn allowed(kind: ThreadKind) -> Vec<&'static str> {
    let mut names: Vec<_> =
        allowed_calls(kind).into_iter().map(|call| call.name.trim_start_matches("SYS_")).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_thread_may_do_what_the_threads_that_it_starts_may_do() {
        for kind in ThreadKind::ALL {
            for started in kind.starts() {
                let (own, theirs) = (allowed(kind), allowed(*started));
                let missing: Vec<_> = theirs.iter().filter(|name| !own.contains(name)).collect();
                assert!(missing.is_empty(), "{kind:?} starts {started:?}: {missing:?}");
            }
        }
    }

    #[test]
    fn no_call_is_allowed_with_conditions_and_without() {
        for kind in ThreadKind::ALL.into_iter().chain([ThreadKind::Relay]) {
            let mut conditional = BTreeMap::new();
            for call in allowed_calls(kind) {
                let is_conditional = !matches!(call.only, Only::Any);
                let first = conditional.insert(call.number, is_conditional);
                assert!(first.is_none_or(|first| first == is_conditional), "{}", call.name);
            }
        }
    }

    #[test]
    fn nothing_executes_or_gains_rights() {
        let (process, relay) = (allowed(ThreadKind::Process), allowed(ThreadKind::Relay));
        for name in ["execve", "execveat", "ptrace", "setuid", "mount", "open_by_handle_at", "bpf"]
        {
            assert!(!process.contains(&name) && !relay.contains(&name), "{name}");
        }
        for name in ["clone3", "connect", "openat", "socket"] {
            assert!(!relay.contains(&name), "{name}");
        }
    }
}
