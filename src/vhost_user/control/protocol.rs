//! Requests and answers on the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most bytes of a line, with its line feed.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make a DAX device larger or smaller, and the windows that guests have to it.
    ResizeDevice {
        /// The NVDIMM file that it is in; not needed where the daemon has one device of the name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
        /// The namespace that it is in, by name, uuid or device name; likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Its name.
        device: String,
        /// Its new size in bytes.
        size: u64,
        /// Also where data go with what goes, and where a guest's driver is not prepared for it.
        #[serde(default)]
        force: bool,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The device has its new size.
    Resized {
        /// Bytes that it had before.
        before: u64,
        /// Bytes that it has.
        size: u64,
        /// Number of windows that guests have to it.
        windows: usize,
    },
    /// Nothing has changed.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_what_other_programs_have_been_told() {
        let (file, namespace) = (Some("/pmem/x".into()), Some("pool".into()));
        let request =
            Request::ResizeDevice { file, namespace, device: "data".into(), size: 7, force: true };
        let line = r#"{"command":"resize-device","file":"/pmem/x","namespace":"pool","device":"data","size":7,"force":true}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        let short = r#"{"command":"resize-device","device":"a","size":0}"#;
        let (file, namespace, device) = (None, None, "a".into());
        let request = Request::ResizeDevice { file, namespace, device, size: 0, force: false };
        assert_eq!(serde_json::from_str::<Request>(short).unwrap(), request);
        for bad in ["", "{}", r#"{"command":"format"}"#, &line.replace("force", "farce")] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
        let answer = Answer::Resized { before: 1, size: 2, windows: 3 };
        let line = r#"{"resized":{"before":1,"size":2,"windows":3}}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), line);
        let answer = Answer::Refused { reason: "busy".into() };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"refused":{"reason":"busy"}}"#);
    }
}
