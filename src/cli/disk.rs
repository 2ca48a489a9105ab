//! The value of `--disk`: one of several disks.

use std::path::PathBuf;
use std::str::FromStr;

use super::daemon::{queue_count, serial};
use crate::vhost_user::SocketSource;
use crate::virtio::block::Serial;

/// One of several disks: `socket=PATH,namespace=NAME[,queues=N][,read-only][,serial=S]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskArg {
    pub socket: SocketSource,
    /// The file, where it is another than the others'.
    pub file: Option<PathBuf>,
    pub namespace: Option<String>,
    pub queues: Option<u16>,
    pub read_only: bool,
    pub serial: Option<Serial>,
}

/// Why a text is not a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiskArgError {
    #[error("{0:?} is none of socket, fd, namespace, nvdimm, queues, read-only, serial")]
    UnknownKey(String),
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("{0} needs a value: {0}=VALUE")]
    NoValue(&'static str),
    #[error("{key}={value}: {reason}")]
    BadValue { key: &'static str, value: String, reason: String },
    #[error("say where to listen: socket=PATH, or fd=N")]
    NoSocket,
    #[error("socket and fd exclude each other")]
    TwoSockets,
}

/// The keys that there are.
const KEYS: [&str; 7] = ["socket", "fd", "namespace", "nvdimm", "queues", "read-only", "serial"];

impl FromStr for DiskArg {
    type Err = DiskArgError;

    fn from_str(text: &str) -> Result<DiskArg, DiskArgError> {
        // Empty: the key stands alone.
        let mut values: [Option<String>; KEYS.len()] = Default::default();
        for part in split(text) {
            let (key, value) = part.split_once('=').unwrap_or((&part, ""));
            let Some(index) = KEYS.iter().position(|known| *known == key) else {
                return Err(DiskArgError::UnknownKey(key.to_owned()));
            };
            if values[index].replace(value.to_owned()).is_some() {
                return Err(DiskArgError::Twice(KEYS[index]));
            }
        }
        let [socket, fd, namespace, file, queues, read_only, serial_text] = values;
        let socket = match (given("socket", socket)?, given("fd", fd)?) {
            (Some(_), Some(_)) => return Err(DiskArgError::TwoSockets),
            (Some(path), None) => SocketSource::Path(path.into()),
            (None, Some(number)) => SocketSource::Descriptor(parse("fd", &number, descriptor)?),
            (None, None) => return Err(DiskArgError::NoSocket),
        };
        Ok(DiskArg {
            socket,
            file: given("nvdimm", file)?.map(PathBuf::from),
            namespace: given("namespace", namespace)?,
            queues: given("queues", queues)?
                .map(|value| parse("queues", &value, queue_count))
                .transpose()?,
            read_only: match read_only.as_deref() {
                None => false,
                Some("") => true,
                Some(value) => parse("read-only", value, on_or_off)?,
            },
            serial: given("serial", serial_text)?
                .map(|value| parse("serial", &value, serial))
                .transpose()?,
        })
    }
}

/// The parts between commas; two commas stand for one inside a part, as in QEMU.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let is_end = character == ',' && characters.next_if_eq(&',').is_none();
        match parts.last_mut() {
            Some(part) if !is_end => part.push(character),
            _ => parts.push(String::new()),
        }
    }
    parts
}

/// The value of a key that cannot do without.
fn given(key: &'static str, value: Option<String>) -> Result<Option<String>, DiskArgError> {
    if value.as_deref() == Some("") { Err(DiskArgError::NoValue(key)) } else { Ok(value) }
}

fn parse<T>(
    key: &'static str,
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, DiskArgError> {
    parse(value).map_err(|reason| DiskArgError::BadValue { key, value: value.into(), reason })
}

fn descriptor(text: &str) -> Result<i32, String> {
    text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| "not a descriptor".into())
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither on nor off".into()),
    }
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
        let disk: DiskArg = "fd=7,read-only=off,nvdimm=/pmem/b".parse().unwrap();
        assert_eq!((disk.socket, disk.read_only), (SocketSource::Descriptor(7), false));
        assert_eq!((disk.file, disk.queues), (Some("/pmem/b".into()), None));
    }

    #[test]
    fn two_commas_are_one() {
        let disk: DiskArg = "socket=/a,,b,,,namespace=x,,,,y".parse().unwrap();
        assert_eq!(disk.socket, SocketSource::Path("/a,b,".into()));
        assert_eq!(disk.namespace.as_deref(), Some("x,,y"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("", DiskArgError::UnknownKey(String::new())),
            ("socket=/a,size=1", DiskArgError::UnknownKey("size".into())),
            ("socket=/a,socket=/b", DiskArgError::Twice("socket")),
            ("socket", DiskArgError::NoValue("socket")),
            ("socket=/a,namespace=", DiskArgError::NoValue("namespace")),
            ("namespace=a", DiskArgError::NoSocket),
            ("socket=/a,fd=1", DiskArgError::TwoSockets),
        ] {
            assert_eq!(text.parse::<DiskArg>(), Err(error), "{text:?}");
        }
        for (key, value) in
            [("queues", "0"), ("queues", "65"), ("fd", "-1"), ("read-only", "yes"), ("serial", "ü")]
        {
            let text = format!("{key}={value}{}", if key == "fd" { "" } else { ",socket=/a" });
            let error = text.parse::<DiskArg>().unwrap_err();
            assert!(matches!(error, DiskArgError::BadValue { .. }), "{text}: {error}");
        }
    }
}
