//! Standard output, which may be a pipe whose reader ends early (`nvdimmctl list | head`), and standard
//! error. What is printed may quote text of foreign origin, and both may be terminals.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::escape;
use crate::pmem::StandardStream;

/// Set when something could not be written, other than to a closed pipe.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints one line, as `println!` does, but never panics, and escapes what a terminal would not print.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::cli::output::line(format_args!($($argument)*))
    };
}
pub(super) use say;

/// Prints one line to standard error, as [`say!`] does to standard output.
macro_rules! remark {
    ($($argument:tt)*) => {
        $crate::cli::output::complain(format_args!($($argument)*))
    };
}
pub(super) use remark;

/// Prints a line to standard output.
pub(super) fn line(text: fmt::Arguments<'_>) {
    print(&escape::one_line(&text.to_string()));
}

/// Prints a text of several lines, in which everything that was quoted is escaped already.
pub(super) fn document(text: &str) {
    print(&escape::lines(text.trim_end_matches('\n')));
}

/// Prints a text of several lines to standard output, and returns whether it arrived or was not wanted.
#[must_use]
pub fn print_document(text: &str) -> bool {
    document(text);
    is_whole()
}

/// Prints a line to standard error; where that is closed, nothing can be done.
pub fn complain(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", escape::one_line(&text));
}

/// Prints lines that are escaped already to standard error.
pub(super) fn complain_in_lines(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
}

/// Standard input as a file of its own.
///
/// # Errors
///
/// It was closed when the process started.
pub(super) fn standard_input() -> io::Result<File> {
    duplicate(StandardStream::Input, &io::stdin())
}

/// Standard output as a file of its own. Unlike [`io::stdout`], it does not take a descriptor that cannot
/// be written to for one that takes everything.
///
/// # Errors
///
/// It was closed when the process started.
pub(super) fn standard_output() -> io::Result<File> {
    duplicate(StandardStream::Output, &io::stdout())
}

/// Returns whether standard output was closed when the process started.
pub(super) fn was_closed() -> bool {
    StandardStream::Output.was_closed()
}

fn duplicate(stream: StandardStream, descriptor: &impl AsFd) -> io::Result<File> {
    if stream.was_closed() {
        return Err(Errno::EBADF.into());
    }
    let duplicate: OwnedFd = descriptor.as_fd().try_clone_to_owned()?;
    Ok(File::from(duplicate))
}

/// Prints text and the end of a line. A pipe whose reader has ended is no error; any other failure is reported.
fn print(text: &str) {
    let written = standard_output().and_then(|mut output| {
        // The lines of several threads do not mix.
        let _lock = io::stdout().lock();
        output.write_all(format!("{text}\n").as_bytes())
    });
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
        && !HAS_FAILED.swap(true, Ordering::Relaxed)
    {
        complain(format_args!("cannot write to standard output: {error}"));
    }
}

/// The lines of a table, the first of them its header, with what is in the cells escaped.
pub(super) fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> Vec<String> {
    let escaped =
        |row: &[String; N]| row.each_ref().map(|cell| escape::one_line(cell).into_owned());
    let rows: Vec<[String; N]> = rows.iter().map(escaped).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(&row.each_ref().map(String::as_str)));
    std::iter::once(line(header)).chain(rows).collect()
}

/// Returns whether everything that was printed arrived, or was not wanted.
pub(super) fn is_whole() -> bool {
    !HAS_FAILED.load(Ordering::Relaxed)
}
