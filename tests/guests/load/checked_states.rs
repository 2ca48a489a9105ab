//! Records operations on files, and checks what a power failure has left of them: the two halves of a scenario for
//! `powercut`, whose disk is /dev/vda, and whose disk of marks is /dev/vdb.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::operations::{Files, find, operations, wrong};

const DISK: &str = "/dev/vda";
const MARKS: &str = "/dev/vdb";
/// Where the disk is mounted.
const FOLDER: &str = "/mnt";
/// `BLKFLSBUF` of linux/fs.h: drops what is cached of a block device.
const DROP_CACHED: libc::Ioctl = 0x1261;
/// The most marks that are read.
const MOST_MARKS: usize = 64 << 10;

/// What a buffer is aligned to that `O_DIRECT` takes.
const ALIGNMENT: usize = 4096;

/// A buffer that `O_DIRECT` takes.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new(length: usize) -> Buffer {
        let bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Buffer { bytes, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.length]
    }
}

/// The disk of marks.
struct Marks {
    disk: File,
    text: Buffer,
    set: Buffer,
}

impl Marks {
    fn open() -> Marks {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        let disk = options.open(MARKS).unwrap();
        Marks { disk, text: Buffer::new(512), set: Buffer::new(MOST_MARKS) }
    }

    /// Returns whether there is anybody to hear it.
    fn tell(&mut self, text: &str) -> bool {
        let sector = self.text.bytes();
        let length = text.len().min(sector.len());
        sector.fill(b' ');
        sector[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.disk.write_all_at(sector, 0).is_ok()
    }

    /// How many operations are marked as done.
    fn done(&mut self) -> usize {
        let marks = self.set.bytes();
        self.disk.read_exact_at(marks, 0).unwrap();
        let text = String::from_utf8_lossy(marks);
        let done = text.lines().filter_map(|mark| mark.strip_prefix("done-")?.parse().ok());
        done.max().unwrap_or(0)
    }
}

/// Does `count` operations to the files in `folder`, and marks each.
pub fn record(folder: &Path, seed: u64, count: usize) {
    let mut marks = Marks::open();
    for (number, operation) in (1..).zip(operations(seed, count).0) {
        operation.run(folder).unwrap_or_else(|error| panic!("{operation:?}: {error}"));
        assert!(marks.tell(&format!("done-{number}")));
    }
}

/// Checks one state after another of a disk with a file system of this kind.
pub fn check(kind: &str, options: &str, seed: u64, count: usize) {
    let (operations, states) = operations(seed, count);
    let mut marks = Marks::open();
    loop {
        let disk = File::open(DISK).unwrap();
        // SAFETY: the request takes no argument, and the descriptor is open.
        let dropped = unsafe { libc::ioctl(disk.as_raw_fd(), DROP_CACHED, 0) };
        assert_eq!(dropped, 0, "BLKFLSBUF");
        drop(disk);
        if !marks.tell("NEXT") {
            return;
        }
        let done = marks.done();
        let found = mounted(kind, options);
        let verdict = match found.map(|found| wrong(&operations, &states, done, &found)) {
            Ok(None) => "PASS".into(),
            Ok(Some(wrong)) => format!("FAIL {wrong}, after {done} operations"),
            Err(error) => format!("FAIL {error}, after {done} operations"),
        };
        assert!(marks.tell(&verdict));
    }
}

/// Mounts the disk, reads all files, and unmounts it.
fn mounted(kind: &str, options: &str) -> io::Result<Files> {
    let [disk, folder, kind, options] = [DISK, FOLDER, kind, options].map(CString::new);
    let (disk, folder, kind, options) = (disk?, folder?, kind?, options?);
    let result = |status| if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the arguments are strings that live until the call returns.
    result(unsafe {
        let (disk, folder, kind) = (disk.as_ptr(), folder.as_ptr(), kind.as_ptr());
        libc::mount(disk, folder, kind, 0, options.as_ptr().cast())
    })?;
    let found = find(Path::new(FOLDER));
    // SAFETY: the argument is a string that lives until the call returns.
    result(unsafe { libc::umount(folder.as_ptr()) })?;
    found
}
