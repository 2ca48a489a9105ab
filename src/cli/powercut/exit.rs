//! Exit statuses of `powercut`, apart from 0 and from 2, which stands for a command line that makes no sense.

/// A state has failed the check.
pub(super) const STATE_FAILED: u8 = 1;
/// A log, an image or another file cannot be used.
pub(super) const BAD_INPUT: u8 = 4;
/// The command that checks states cannot be run.
pub(super) const NO_COMMAND: u8 = 5;
/// No state has failed, but the command has hung on one, which therefore has no verdict.
pub(super) const HUNG: u8 = 6;

/// The exit status when so many states have failed, and the command has hung on so many.
pub(super) fn status(failed: usize, hung: usize) -> u8 {
    match (failed, hung) {
        (0, 0) => 0,
        (0, _) => HUNG,
        _ => STATE_FAILED,
    }
}
