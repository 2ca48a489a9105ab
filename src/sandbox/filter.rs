//! The filter of system calls, by seccomp.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use log::error;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::SandboxError;
use super::calls::{Call, Only, ThreadKind, allowed_calls};

/// The number, -1, of a call that a tracer has the kernel skip, as `strace --inject` does: it has no effect.
const SKIPPED: i64 = u32::MAX as i64;

/// What becomes of a thread that makes a system call which it is not to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    /// The process is killed (SIGSYS).
    Kill,
    /// The kernel logs the call, and carries it out.
    Log,
    /// Nothing; there is no filter.
    None,
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seccomp::Kill => "system calls filtered",
            Seccomp::Log => "other system calls logged",
            Seccomp::None => "system calls not filtered",
        })
    }
}

/// The filters of the threads that will be started; not set: there are none.
static FILTERS: OnceLock<BTreeMap<ThreadKind, BpfProgram>> = OnceLock::new();

/// Installs the filter of the whole process, and has threads install theirs.
pub(super) fn install(seccomp: Seccomp) -> Result<(), SandboxError> {
    if seccomp == Seccomp::None {
        return Ok(());
    }
    let build = |kind: ThreadKind| Ok((kind, program(kind, seccomp)?));
    let filters: BTreeMap<_, _> = ThreadKind::ALL
        .into_iter()
        .map(build)
        .collect::<Result<_, _>>()
        .map_err(SandboxError::Filter)?;
    if let Some(process) = filters.get(&ThreadKind::Process) {
        apply_filter(process).map_err(SandboxError::Install)?;
    }
    FILTERS.get_or_init(|| filters);
    Ok(())
}

/// Installs the filter of a thread of a kind, for the calling thread alone.
pub(super) fn install_for_thread(kind: ThreadKind, seccomp: Seccomp) -> Result<(), SandboxError> {
    if seccomp == Seccomp::None {
        return Ok(());
    }
    let filter = program(kind, seccomp).map_err(SandboxError::Filter)?;
    apply_filter(&filter).map_err(SandboxError::Install)
}

/// Restricts the calling thread to the system calls of its kind, if the process is in the sandbox.
///
/// The filter of the thread that has started it stays in force as well.
pub fn enter_thread(kind: ThreadKind) {
    if let Some(filter) = FILTERS.get().and_then(|filters| filters.get(&kind))
        && let Err(error) = apply_filter(filter)
    {
        error!("a thread has no filter of its own, but that of the process: {error}");
    }
}

/// The filter of threads of a kind.
fn program(kind: ThreadKind, seccomp: Seccomp) -> Result<BpfProgram, BackendError> {
    let action = match seccomp {
        Seccomp::Kill => SeccompAction::KillProcess,
        Seccomp::Log | Seccomp::None => SeccompAction::Log,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::from([(SKIPPED, Vec::new())]);
    for call in allowed_calls(kind) {
        let conditions = rules_of(call)?;
        let entry = rules.entry(call.number).or_default();
        entry.extend(conditions);
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, action, SeccompAction::Allow, architecture)?.try_into()
}

/// The conditions under which a call is allowed, one of which has to hold; none: always.
fn rules_of(call: &Call) -> Result<Vec<SeccompRule>, BackendError> {
    match call.only {
        Only::Any => Ok(Vec::new()),
        Only::WithoutBits { argument, bits } => {
            let without = SeccompCmpOp::MaskedEq(bits);
            Ok(vec![rule(argument, without, 0)?])
        }
        Only::OneOf { argument, values } => {
            values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
        }
    }
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}
