//! The values of `--pmem` and `--window`: DAX devices that a guest maps.

use std::path::PathBuf;
use std::str::FromStr;

use super::key_value::{self, KeyValueError, ValueError, given, parsed, switch};
use super::size::Size;
use crate::vhost_user::SocketSource;

/// A device that is a guest's persistent memory:
/// `socket=PATH,device=NAME[,namespace=NAME][,nvdimm=FILE][,read-only][,expose-file][,share-rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PmemArg {
    pub socket: SocketSource,
    pub device: DeviceArg,
}

/// A device that is a window of a disk: `device=NAME[,reserve=SIZE][,disk=NAME][,namespace=NAME]
/// [,nvdimm=FILE][,read-only][,expose-file][,share-rw]`, or `NAME[,...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WindowArg {
    pub device: DeviceArg,
    pub reserve: Option<u64>,
    /// Which of several disks it belongs to, by its namespace.
    pub disk: Option<String>,
}

/// A DAX device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceArg {
    pub name: String,
    /// The namespace that it is in; `None`: the only one in dax mode.
    pub namespace: Option<String>,
    /// The file, where it is another than the others'.
    pub file: Option<PathBuf>,
    pub read_only: bool,
    /// The frontend may reach other guests' namespaces of the file.
    pub expose_file: bool,
    /// Other guests may have the device as well, though one of them can write to it.
    pub share_rw: bool,
}

impl DeviceArg {
    fn new(
        name: Option<String>,
        namespace: Option<String>,
        file: Option<String>,
        [read_only, expose_file, share_rw]: [Option<String>; 3],
    ) -> Result<DeviceArg, KeyValueError> {
        Ok(DeviceArg {
            name: given("device", name)?
                .ok_or(KeyValueError::Missing { key: "device", what: "DAX device" })?,
            namespace: given("namespace", namespace)?,
            file: given("nvdimm", file)?.map(PathBuf::from),
            read_only: switch("read-only", read_only.as_deref())?,
            expose_file: switch("expose-file", expose_file.as_deref())?,
            share_rw: switch("share-rw", share_rw.as_deref())?,
        })
    }
}

impl FromStr for PmemArg {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<PmemArg, KeyValueError> {
        let keys = [
            "socket",
            "fd",
            "device",
            "namespace",
            "nvdimm",
            "read-only",
            "expose-file",
            "share-rw",
        ];
        let [socket, fd, name, namespace, file, switches @ ..] = key_value::values(text, &keys)?;
        Ok(PmemArg {
            socket: key_value::socket(socket, fd)?,
            device: DeviceArg::new(name, namespace, file, switches)?,
        })
    }
}

impl FromStr for WindowArg {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<WindowArg, KeyValueError> {
        let keys = [
            "device",
            "reserve",
            "disk",
            "namespace",
            "nvdimm",
            "read-only",
            "expose-file",
            "share-rw",
        ];
        // The name alone, in front, is what most people need.
        let first = text.split(',').next().unwrap_or_default();
        let is_name = !first.is_empty() && !first.contains('=') && !keys.contains(&first);
        let text = if is_name { format!("device={text}") } else { text.to_owned() };
        let [name, reserve, disk, namespace, file, switches @ ..] =
            key_value::values(&text, &keys)?;
        Ok(WindowArg {
            device: DeviceArg::new(name, namespace, file, switches)?,
            reserve: parsed("reserve", reserve, size)?,
            disk: given("disk", disk)?,
        })
    }
}

fn size(text: &str) -> Result<u64, ValueError> {
    let Size(bytes) = text.parse()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_name_or_keys() {
        let short: WindowArg = "scratch,reserve=1G".parse().unwrap();
        let long: WindowArg = "reserve=1G,device=scratch".parse().unwrap();
        assert_eq!(short, long);
        assert_eq!((short.device.name.as_str(), short.reserve), ("scratch", Some(1 << 30)));
        let all: WindowArg =
            "a,,b,disk=root,namespace=pool,nvdimm=/pmem/x,read-only,expose-file,share-rw"
                .parse()
                .unwrap();
        assert_eq!((all.device.name.as_str(), all.disk.as_deref()), ("a,b", Some("root")));
        assert_eq!(all.device.namespace.as_deref(), Some("pool"));
        assert_eq!((all.device.file, all.device.read_only), (Some("/pmem/x".into()), true));
        assert!(all.device.expose_file && !short.device.expose_file);
        assert!(all.device.share_rw && !short.device.share_rw);
    }

    #[test]
    fn persistent_memory_needs_a_device() {
        let pmem: PmemArg = "socket=/run/p,device=data,read-only=off".parse().unwrap();
        assert_eq!(pmem.socket, SocketSource::Path("/run/p".into()));
        assert_eq!((pmem.device.name.as_str(), pmem.device.read_only), ("data", false));
        assert_eq!("device=data".parse::<PmemArg>().unwrap().socket, SocketSource::Passed);
        let missing = KeyValueError::Missing { key: "device", what: "DAX device" };
        assert_eq!("socket=/run/p".parse::<PmemArg>(), Err(missing.clone()));
        assert_eq!("read-only".parse::<WindowArg>(), Err(missing));
        let bad = "scratch,reserve=much".parse::<WindowArg>();
        assert!(matches!(bad, Err(KeyValueError::BadValue { key: "reserve", .. })), "{bad:?}");
    }
}
