//! Requests and answers on the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::new_disk::NewDisk;
use super::report::{DeviceReport, RateReport};
use crate::btt::Position;

/// The version of the protocol: higher when something that was said before means something else.
pub const VERSION: u32 = 1;

/// Most bytes of a request, with its line feed.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// Most descriptors that come with a request.
pub(super) const MOST_DESCRIPTORS: usize = 2;

/// Most bytes of an answer, with its line feed: hundreds of devices with all their queues.
pub(super) const MOST_ANSWER_BYTES: u64 = 256 << 20;

/// How many seconds a device stays quiesced at most if no other limit is asked for.
pub const QUIESCE_SECONDS: u64 = 600;

/// Longest limit that can be asked for, in seconds.
pub const MOST_QUIESCE_SECONDS: u64 = 86_400;

fn quiesce_seconds() -> u64 {
    QUIESCE_SECONDS
}

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
    /// Say what version this is.
    Version,
    /// Say what there is to say of a device, or of all.
    Stat {
        /// The device: its name, namespace, uuid, or socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// Take nothing off a device's rings any more, and make durable what was written, until it is resumed.
    Quiesce {
        /// The device.
        device: String,
        /// Seconds after which it is resumed in any case.
        #[serde(default = "quiesce_seconds", rename = "time-limit")]
        time_limit: u64,
    },
    /// Go on with a device that was quiesced.
    Resume {
        /// The device.
        device: String,
    },
    /// Wait until what a device has in hand is done, and make it durable.
    Drain {
        /// The device.
        device: String,
    },
    /// Serve another disk. Its file, and its socket, may come with the request as descriptors.
    Add(Box<NewDisk>),
    /// Serve a device no more.
    Remove {
        /// The device.
        device: String,
        /// Also while a frontend is connected.
        #[serde(default)]
        force: bool,
    },
    /// Make a disk larger, and the namespace that it is in. The file of a disk that was handed over comes with the
    /// request as a descriptor, opened again for it.
    Resize {
        /// The disk.
        device: String,
        /// Bytes of the namespace in all; otherwise all that is free behind it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// Also where the free bytes hold something.
        #[serde(default)]
        force: bool,
    },
    /// Go on with moving the sectors of a disk to where they belong, for a moment.
    Defragment {
        /// The disk.
        device: String,
        /// How far it has come, by the last answer.
        #[serde(default)]
        position: Position,
    },
    /// Set the rate limits of a device, or of a group.
    Rate {
        /// The device, unless a group is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The limits, which replace all that there were.
        limit: RateReport,
    },
    /// Set which messages are logged.
    LogLevel {
        /// "off", "error", "warn", "info", "debug" or "trace".
        level: String,
    },
}

impl Request {
    /// How many descriptors may come with it.
    pub(super) fn most_descriptors(&self) -> usize {
        match self {
            Request::Add(_) => MOST_DESCRIPTORS,
            Request::Resize { .. } => 1,
            _ => 0,
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The version of the protocol, and of the program.
    Version {
        /// Of the protocol.
        protocol: u32,
        /// Of the program.
        program: String,
    },
    /// What there is to say of devices.
    Stat {
        /// The devices.
        devices: Vec<DeviceReport>,
    },
    /// The disk is served.
    Added {
        /// The name that it goes by.
        name: String,
    },
    /// It is done.
    Done,
    /// The disk has its new size.
    Grown {
        /// Bytes that it had before.
        before: u64,
        /// Bytes that it has.
        size: u64,
        /// The frontend was told; otherwise it sees the size when it reads the configuration again.
        told: bool,
    },
    /// Some sectors were moved.
    Defragmented {
        /// How far it has come.
        position: Position,
        /// There is nothing more to do.
        is_done: bool,
    },
    /// Nothing has changed.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::super::new_disk::Handed;
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
        let quiesce = |limit| format!(r#"{{"command":"quiesce","device":"a"{limit}}}"#);
        for (limit, time_limit) in [("", QUIESCE_SECONDS), (r#","time-limit":7"#, 7)] {
            let request = Request::Quiesce { device: "a".into(), time_limit };
            assert_eq!(serde_json::from_str::<Request>(&quiesce(limit)).unwrap(), request);
        }
        let line = r#"{"command":"add","nvdimm":"/f","socket":"/s","descriptors":["nvdimm","socket"],"read-only":true}"#;
        let disk = NewDisk {
            nvdimm: "/f".into(),
            socket: "/s".into(),
            descriptors: vec![Handed::Nvdimm, Handed::Socket],
            read_only: Some(true),
            ..NewDisk::default()
        };
        let request = Request::Add(Box::new(disk));
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        assert!(serde_json::from_str::<Request>(&line.replace("read-only", "rw")).is_err());
        let answer = Answer::Added { name: "b".into() };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"added":{"name":"b"}}"#);
        let answer = Answer::Resized { before: 1, size: 2, windows: 3 };
        let line = r#"{"resized":{"before":1,"size":2,"windows":3}}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), line);
        let answer = Answer::Refused { reason: "busy".into() };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"refused":{"reason":"busy"}}"#);
    }
}
