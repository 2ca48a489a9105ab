//! QEMU's arguments that map a device, in the form that a shell or libvirt takes.

use std::fmt::Write as _;

use crate::cli::escape::shell_word;
use crate::cli::xml::Escaped;
use crate::dax::DeviceInfo;

/// What the guest sees of a piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frontend {
    /// A virtio-pmem device.
    VirtioPmem,
    /// An NVDIMM.
    Nvdimm,
}

/// The arguments for a device in the namespace that begins at byte `start` of the file `path`: a memory
/// back end and a device for each of its extents. QEMU has `offset` since 8.1.
pub(super) fn qemu_arguments(
    path: &str,
    start: u64,
    device: &DeviceInfo,
    frontend: Frontend,
) -> Vec<String> {
    let id = identifier(device);
    // In QEMU's option syntax, two commas are one that is meant.
    let path = path.replace(',', ",,");
    let kind = match frontend {
        Frontend::VirtioPmem => "virtio-pmem-pci",
        Frontend::Nvdimm => "nvdimm",
    };
    let mut arguments = Vec::new();
    for (number, extent) in device.extents.iter().enumerate() {
        let (offset, size) = (start + extent.start, extent.end - extent.start);
        arguments.push("-object".into());
        arguments.push(format!(
            "memory-backend-file,id={id}-{number},share=on,mem-path={path},offset={offset},size={size}"
        ));
        arguments.push("-device".into());
        arguments.push(format!("{kind},memdev={id}-{number}"));
    }
    arguments
}

/// What QEMU calls the device: letters, digits, and `-._`, the first a letter.
fn identifier(device: &DeviceInfo) -> String {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if device.name.chars().all(is_legal) {
        format!("dax-{}", device.name)
    } else {
        format!("dax-{}", device.uuid)
    }
}

/// Arguments as a shell reads them, an option and its value on each line.
pub(super) fn shell_line(arguments: &[String]) -> String {
    let words: Vec<String> = arguments.iter().map(shell_word).collect();
    let lines: Vec<String> = words.chunks(2).map(|words| words.join(" ")).collect();
    lines.join(" \\\n")
}

/// Arguments as an element of a libvirt domain, which itself knows no offset.
pub(super) fn virt_xml(arguments: &[String]) -> String {
    let mut xml = String::from(
        "<qemu:commandline xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\">\n",
    );
    for argument in arguments {
        let _ = writeln!(xml, "  <qemu:arg value=\"{}\"/>", Escaped(argument));
    }
    xml.push_str("</qemu:commandline>");
    xml
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::dax::Align;

    fn device(name: &str) -> DeviceInfo {
        DeviceInfo {
            name: name.into(),
            uuid: Uuid::from_u128(7),
            label: String::new(),
            size: 12 << 20,
            align: Align::Huge,
            contiguous: false,
            held: false,
            extents: vec![32 << 20..40 << 20, 16 << 20..20 << 20],
        }
    }

    #[test]
    fn every_extent_is_a_piece_of_memory_at_its_place_in_the_file() {
        let arguments = qemu_arguments("/a,b", 1 << 20, &device("x"), Frontend::VirtioPmem);
        let expected = [
            "-object",
            "memory-backend-file,id=dax-x-0,share=on,mem-path=/a,,b,offset=34603008,size=8388608",
            "-device",
            "virtio-pmem-pci,memdev=dax-x-0",
            "-object",
            "memory-backend-file,id=dax-x-1,share=on,mem-path=/a,,b,offset=17825792,size=4194304",
            "-device",
            "virtio-pmem-pci,memdev=dax-x-1",
        ];
        assert_eq!(arguments, expected);
        assert_eq!(
            qemu_arguments("/a", 0, &device("x"), Frontend::Nvdimm)[3],
            "nvdimm,memdev=dax-x-0"
        );
    }

    #[test]
    fn names_that_qemu_does_not_take_are_replaced_by_the_uuid() {
        let arguments = qemu_arguments("/a", 0, &device("x y"), Frontend::VirtioPmem);
        let id = "virtio-pmem-pci,memdev=dax-00000000-0000-0000-0000-000000000007-0";
        assert_eq!(arguments[3], id);
    }

    #[test]
    fn paths_cannot_break_out_of_their_argument() {
        let arguments = qemu_arguments("/it's $HOME\"<", 0, &device("x"), Frontend::VirtioPmem);
        assert!(shell_line(&arguments).contains(r#"mem-path=/it'\''s $HOME"<,offset"#));
        assert!(virt_xml(&arguments).contains("mem-path=/it's $HOME&quot;&lt;,offset"));
    }
}
