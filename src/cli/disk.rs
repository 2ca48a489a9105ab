//! The value of `--disk`: one of several disks.

use std::path::PathBuf;
use std::str::FromStr;

use super::key_value::{self, KeyValueError, ValueError, given, parsed, switch};
use crate::vhost_user::{SocketSource, is_logical_block_size, is_queue_count};
use crate::virtio::block::Serial;

/// One of several disks: `socket=PATH,namespace=NAME[,queues=N][,logical-block-size=N][,read-only][,serial=S]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskArg {
    pub socket: SocketSource,
    /// The file, where it is another than the others'.
    pub file: Option<PathBuf>,
    pub namespace: Option<String>,
    pub queues: Option<u16>,
    pub logical_block_size: Option<u32>,
    pub read_only: bool,
    pub serial: Option<Serial>,
    /// The group of disks with which it shares rate limits.
    pub rate_group: Option<String>,
}

/// The keys that there are.
const KEYS: [&str; 9] = [
    "socket",
    "fd",
    "namespace",
    "nvdimm",
    "queues",
    "logical-block-size",
    "read-only",
    "serial",
    "rate-group",
];

impl FromStr for DiskArg {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<DiskArg, KeyValueError> {
        let [socket, fd, namespace, file, queues, block, read_only, serial_text, rate_group] =
            key_value::values(text, &KEYS)?;
        Ok(DiskArg {
            socket: key_value::socket(socket, fd)?,
            file: given("nvdimm", file)?.map(PathBuf::from),
            namespace: given("namespace", namespace)?,
            queues: parsed("queues", queues, queue_count)?,
            logical_block_size: parsed("logical-block-size", block, logical_block_size)?,
            read_only: switch("read-only", read_only.as_deref())?,
            serial: parsed("serial", serial_text, serial)?,
            rate_group: given("rate-group", rate_group)?,
        })
    }
}

/// A number of queues.
pub(super) fn queue_count(text: &str) -> Result<u16, ValueError> {
    match text.parse() {
        Ok(count) if is_queue_count(count) => Ok(count),
        _ => Err(ValueError::Queues),
    }
}

/// The block that a guest addresses, in bytes.
pub(super) fn logical_block_size(text: &str) -> Result<u32, ValueError> {
    match text.parse() {
        Ok(size) if is_logical_block_size(size) => Ok(size),
        _ => Err(ValueError::LogicalBlockSize),
    }
}

/// A serial number.
pub(super) fn serial(text: &str) -> Result<Serial, ValueError> {
    Serial::new(text).ok_or(ValueError::Serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_its_socket_and_what_else_is_said() {
        let disk: DiskArg =
            "socket=/run/a.sock,namespace=root,queues=4,read-only,serial=S1".parse().unwrap();
        assert_eq!(disk.socket, SocketSource::Path("/run/a.sock".into()));
        assert_eq!((disk.namespace.as_deref(), disk.queues), (Some("root"), Some(4)));
        assert_eq!((disk.read_only, disk.serial), (true, Serial::new("S1")));
        assert_eq!(disk.logical_block_size, None);
        let text = "fd=7,read-only=off,nvdimm=/pmem/b,logical-block-size=512";
        let disk: DiskArg = text.parse().unwrap();
        assert_eq!((disk.socket, disk.read_only), (SocketSource::Descriptor(7), false));
        assert_eq!((disk.file, disk.queues), (Some("/pmem/b".into()), None));
        assert_eq!(disk.logical_block_size, Some(512));
    }

    #[test]
    fn a_disk_without_a_socket_gets_that_of_the_service_manager() {
        assert_eq!("namespace=a".parse::<DiskArg>().unwrap().socket, SocketSource::Passed);
    }

    #[test]
    fn two_commas_are_one() {
        let disk: DiskArg = "socket=/a,,b,,,namespace=x,,,,y".parse().unwrap();
        assert_eq!(disk.socket, SocketSource::Path("/a,b,".into()));
        assert_eq!(disk.namespace.as_deref(), Some("x,,y"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let unknown =
            |key: &str| KeyValueError::UnknownKey { key: key.into(), known: KEYS.join(", ") };
        for (text, error) in [
            ("", unknown("")),
            ("socket=/a,size=1", unknown("size")),
            ("socket=/a,socket=/b", KeyValueError::Twice("socket")),
            ("socket", KeyValueError::NoValue("socket")),
            ("socket=/a,namespace=", KeyValueError::NoValue("namespace")),
            ("socket=/a,fd=1", KeyValueError::Both("socket", "fd")),
        ] {
            assert_eq!(text.parse::<DiskArg>(), Err(error), "{text:?}");
        }
        for (key, value) in [
            ("queues", "0"),
            ("queues", "65"),
            ("logical-block-size", "1024"),
            ("fd", "-1"),
            ("read-only", "yes"),
            ("serial", "ü"),
        ] {
            let text = format!("{key}={value}{}", if key == "fd" { "" } else { ",socket=/a" });
            let error = text.parse::<DiskArg>().unwrap_err();
            assert!(matches!(error, KeyValueError::BadValue { .. }), "{text}: {error}");
        }
    }
}
