//! Reading a program's command line.

use clap::Parser;

use super::escape;

/// Reads the arguments of this process. Where they are not right, or ask for help, says so and ends the process, as
/// [`Parser::parse`] does.
///
/// A message may quote an argument, which may come from a pattern that has matched foreign names of files.
#[must_use]
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        let text = error.render().to_string();
        if !error.use_stderr() && super::output::standard_output().is_err() {
            super::output::document(&text);
            std::process::exit(1);
        }
        let escaped = escape::lines(&text);
        if escaped == text || !error.use_stderr() {
            // With its colours.
            error.exit();
        }
        super::output::complain_in_lines(&escaped);
        std::process::exit(error.exit_code());
    })
}
