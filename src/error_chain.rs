//! Formats an error and its chain of causes as one line for a log or a terminal.

use std::error::Error;

/// An error and what caused it, on one line. No message repeats that of its source.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::nvdimm;
    use crate::vhost_user::Error;

    #[test]
    fn each_message_of_a_chain_is_there_once() {
        let source = io::Error::other("no such luck");
        let file = nvdimm::Error::File { action: "open", path: PathBuf::from("/pmem"), source };
        assert_eq!(in_one_line(&Error::from(file)), "cannot open /pmem: no such luck");
    }
}
