//! Windows of a virtio device, as a program of the guest uses them: a shared memory region is a part of a
//! BAR of the PCI device, which the kernel lets root map by way of sysfs.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};

use super::say;

/// Offset in the configuration space of the first capability's offset (PCI 3.0, 6.7).
const CAPABILITIES: usize = 0x34;
/// A capability that a vendor defines.
const VENDOR_SPECIFIC: u8 = 9;
/// `VIRTIO_PCI_CAP_SHARED_MEMORY_CFG` (VIRTIO 1.2, 4.1.4.7).
const SHARED_MEMORY: u8 = 8;

/// Where a shared memory region is.
#[derive(Debug)]
struct Region {
    /// The BAR, as a file to map.
    bar: PathBuf,
    offset: u64,
    length: u64,
}

/// Region `number` of the first virtio device that has one.
fn find(number: u8) -> Region {
    let mut devices = fs::read_dir("/sys/bus/pci/devices").unwrap();
    devices
        .find_map(|device| region_of(&device.unwrap().path(), number))
        .expect("a device with shared memory regions")
}

fn region_of(device: &Path, number: u8) -> Option<Region> {
    let config = fs::read(device.join("config")).unwrap();
    let word = |at: usize| {
        let bytes = config.get(at..at + 4).unwrap().try_into().unwrap();
        u64::from(u32::from_le_bytes(bytes))
    };
    let mut at = usize::from(*config.get(CAPABILITIES)?);
    while at != 0 {
        let [id, next, _, kind, bar, region] = *config.get(at..at + 6)? else { return None };
        if (id, kind, region) == (VENDOR_SPECIFIC, SHARED_MEMORY, number) {
            return Some(Region {
                bar: device.join(format!("resource{bar}")),
                offset: word(at + 8) | word(at + 16) << 32,
                length: word(at + 12) | word(at + 20) << 32,
            });
        }
        at = usize::from(next);
    }
    None
}

fn map(number: u8) -> MmapRaw {
    let region = find(number);
    let file = OpenOptions::new().read(true).write(true).open(&region.bar).unwrap();
    MmapOptions::new()
        .offset(region.offset)
        .len(region.length as usize)
        .map_raw(&file)
        .expect("a mapping of the BAR")
}

/// Says how long a window is: `window NUMBER LENGTH`.
pub fn length(number: u8) {
    say(&format!("window {number} {}", find(number).length));
}

/// Stores `text` in a window.
pub fn put(number: u8, offset: usize, text: &str) {
    let window = map(number);
    assert!(offset + text.len() <= window.len());
    for (byte, at) in text.bytes().zip(offset..) {
        // SAFETY: inside the mapping.
        unsafe { window.as_mut_ptr().add(at).write_volatile(byte) };
    }
    say(&format!("put {text}"));
}

/// Waits until `text` is in a window.
pub fn wait(number: u8, offset: usize, text: &str) {
    let window = map(number);
    assert!(offset + text.len() <= window.len());
    // SAFETY: inside the mapping.
    let byte = |at: usize| unsafe { window.as_ptr().add(at).read_volatile() };
    while !text.bytes().zip(offset..).all(|(wanted, at)| byte(at) == wanted) {
        thread::sleep(Duration::from_millis(20));
    }
    say(&format!("found {text}"));
}
