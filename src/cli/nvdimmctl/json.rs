//! Options that print a listing as JSON.

use clap::Args;
use serde::Serialize;

use super::{Error, io_error, say_json};
use crate::cli::human::humanize;

/// The options of listings that ask for JSON.
#[derive(Debug, Args)]
pub(super) struct JsonArgs {
    /// Print JSON
    #[arg(short, long)]
    json: bool,

    /// Sizes in JSON as texts for people, as ndctl and daxctl have them; implies --json
    #[arg(short = 'u', long)]
    human: bool,
}

impl JsonArgs {
    /// Returns whether JSON is to be printed.
    pub(super) fn is_wanted(&self) -> bool {
        self.json || self.human
    }

    /// Prints a listing.
    pub(super) fn say(&self, listing: &impl Serialize) -> Result<(), Error> {
        if !self.human {
            return say_json(listing);
        }
        let fails = |error: serde_json::Error| io_error("write JSON")(error.into());
        let mut value = serde_json::to_value(listing).map_err(fails)?;
        humanize(&mut value);
        say_json(&value)
    }
}
