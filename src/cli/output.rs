//! Standard output, which may be a pipe whose reader ends early (`nvdimmctl list | head`), and standard
//! error. What is printed may quote text of foreign origin, and both may be terminals.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::escape;

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

/// Prints a line to standard error; where that is closed, nothing can be done.
pub fn complain(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", escape::one_line(&text));
}

/// Prints lines that are escaped already to standard error.
pub(super) fn complain_in_lines(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
}

/// Prints text and the end of a line. A pipe whose reader has ended is no error; any other failure is reported.
fn print(text: &str) {
    let mut output = io::stdout().lock();
    if let Err(error) = writeln!(output, "{text}").and_then(|()| output.flush())
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
