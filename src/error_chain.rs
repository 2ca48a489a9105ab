//! Formats an error and its chain of causes as one line for a log or a terminal.

use std::error::Error;

/// An error and what caused it, on one line.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A message that is wholly its cause's says nothing more.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
