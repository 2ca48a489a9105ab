//! Standard output, which may be a pipe that nobody reads to its end (`nvdimmctl list | head`).

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something could not be written, other than to a closed pipe.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line, as `println!` does, but never panics.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::cli::output::line(format_args!($($argument)*))
    };
}
pub(super) use say;

/// Prints a line. Once a pipe is closed, nobody wants to know; any other failure is complained of.
pub(super) fn line(text: fmt::Arguments<'_>) {
    let mut output = io::stdout().lock();
    if let Err(error) = writeln!(output, "{text}").and_then(|()| output.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
        && !HAS_FAILED.swap(true, Ordering::Relaxed)
    {
        eprintln!("cannot write to standard output: {error}");
    }
}

/// The lines of a table, the first of them its header.
pub(super) fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> Vec<String> {
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

/// Whether all that was printed arrived, or was not wanted.
pub(super) fn is_whole() -> bool {
    !HAS_FAILED.load(Ordering::Relaxed)
}
