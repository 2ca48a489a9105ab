//! Content of foreign origin: file systems, partition tables, disk images, compressed data.
//!
//! A file that is to become an NVDIMM, or a namespace, may contain data that this project did not write.
//! [`first_stored`] tells whether there are any, and [`Content::find`] identifies them by the signatures
//! that `libblkid`, `file` and QEMU look for.

use std::fmt;

use crate::pmem::{MediaError, PersistentMemory};

/// Bytes at the start of a disk or an image that [`Content::find`] looks at: up to the superblock of
/// Btrfs, and after it.
pub const HEAD_SIZE: usize = 128 << 10;

/// Bytes that are read at a time.
const STEP: usize = 1 << 20;

/// What a disk, or an image of one, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An image in a format of QEMU's or another virtual machine monitor's, by QEMU's name for it.
    Image(&'static str),
    /// Compressed or packed data, with the program that unpacks them to standard output.
    Packed {
        /// What it is.
        what: &'static str,
        /// The command that unpacks it, without the file.
        unpack: &'static str,
    },
    /// A partition table, made for sectors of so many bytes.
    Partitions {
        /// Its kind.
        what: &'static str,
        /// Bytes of a sector.
        sector_size: u32,
    },
    /// A file system.
    FileSystem {
        /// Its name.
        what: &'static str,
        /// Bytes of the largest sector that it works on; `None`: any that are usual.
        most_sector_size: Option<u32>,
    },
    /// Something else.
    Other(&'static str),
}

/// A signature: offset, bytes, and what it says.
type Signature = (usize, &'static [u8], Content);

const fn packed(what: &'static str, unpack: &'static str) -> Content {
    Content::Packed { what, unpack }
}

const fn file_system(what: &'static str) -> Content {
    Content::FileSystem { what, most_sector_size: None }
}

/// Signatures that need no second look, the longer and the surer ones first.
const SIGNATURES: &[Signature] = &[
    (0, b"QFI\xfb", Content::Image("qcow2")),
    (0, b"QED\0", Content::Image("qed")),
    (0, b"KDMV", Content::Image("vmdk")),
    (0, b"COWD", Content::Image("vmdk")),
    (0, b"# Disk DescriptorFile", Content::Image("vmdk")),
    (0, b"vhdxfile", Content::Image("vhdx")),
    (0, b"conectix", Content::Image("vpc")),
    (64, b"\x7f\x10\xda\xbe", Content::Image("vdi")),
    (0, b"WithoutFreeSpace", Content::Image("parallels")),
    (0, b"WithouFreSpacExt", Content::Image("parallels")),
    (0, b"\xfd7zXZ\0", packed("xz-compressed data", "xz -dc")),
    (0, b"\x28\xb5\x2f\xfd", packed("zstd-compressed data", "zstd -dc")),
    (0, b"\x1f\x8b\x08", packed("gzip-compressed data", "gzip -dc")),
    (0, b"BZh", packed("bzip2-compressed data", "bzip2 -dc")),
    (0, b"\x04\x22\x4d\x18", packed("lz4-compressed data", "lz4 -dc")),
    (0, b"LZIP", packed("lzip-compressed data", "lzip -dc")),
    (0, b"\x89LZO\0\r\n\x1a\n", packed("lzop-compressed data", "lzop -dc")),
    (0, b"\x1f\x9d", packed("compressed data", "zcat")),
    (0, b"PK\x03\x04", packed("a zip archive", "unzip -p")),
    (0, b"7z\xbc\xaf\x27\x1c", packed("a 7-Zip archive", "7z x -so")),
    (257, b"ustar", packed("a tar archive", "tar -xOf")),
    (0, b"BTT_ARENA_INFO\0\0", Content::Other("a BTT: the NVDIMM file of a disk")),
    (4096, b"BTT_ARENA_INFO\0\0", Content::Other("a BTT: the NVDIMM file of a disk")),
    (0, b"LUKS\xba\xbe", Content::Other("a LUKS volume")),
    (512, b"LABELONE", Content::Other("an LVM physical volume")),
    (4096, b"\xfc\x4e\x2b\xa9", Content::Other("a member of an MD array")),
    (0, b"\xfc\x4e\x2b\xa9", Content::Other("a member of an MD array")),
    (4086, b"SWAPSPACE2", Content::Other("swap space")),
    (65600, b"_BHRfS_M", file_system("a Btrfs file system")),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", file_system("a bcachefs file system")),
    (1024, b"\x10\x20\xf5\xf2", file_system("an F2FS file system")),
    (1024, b"\xe2\xe1\xf5\xe0", file_system("an EROFS file system")),
    (0, b"hsqs", file_system("a SquashFS file system")),
    (32769, b"CD001", file_system("an ISO 9660 file system")),
    (0, b"-rom1fs-", file_system("a ROMFS file system")),
    (0, b"\x7fELF", Content::Other("an ELF program")),
    (0, b"%PDF-", Content::Other("a PDF document")),
];

impl Content {
    /// Returns what begins with the bytes `head`, as far as a known signature tells;
    /// [`HEAD_SIZE`] bytes are enough.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Content> {
        let by_signature = SIGNATURES.iter().find(|(at, bytes, _)| has(head, *at, bytes));
        by_signature
            .map(|(_, _, content)| *content)
            .or_else(|| partition_table(head))
            .or_else(|| ext(head))
            .or_else(|| xfs(head))
            .or_else(|| boot_sector(head))
    }

    /// Returns what `medium` begins with, as far as a known signature tells.
    ///
    /// # Errors
    ///
    /// The medium cannot be read.
    pub fn find_in<M: PersistentMemory>(medium: &M) -> Result<Option<Content>, MediaError> {
        let mut head = vec![0; HEAD_SIZE.min(medium.size() as usize)];
        read_stored(medium, 0, &mut head)?;
        Ok(Content::find(&head))
    }

    /// Returns the size in bytes of the sectors that this works on, if it does not work on sectors of
    /// `sector_size` bytes.
    #[must_use]
    pub fn unfit_for(self, sector_size: u32) -> Option<u32> {
        match self {
            Content::Partitions { sector_size: made_for, .. } if made_for != sector_size => {
                Some(made_for)
            }
            Content::FileSystem { most_sector_size: Some(most), .. } if most < sector_size => {
                Some(512)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Image(format) => write!(f, "a {format} image"),
            Content::Packed { what, .. }
            | Content::FileSystem { what, .. }
            | Content::Other(what) => f.write_str(what),
            Content::Partitions { what, sector_size } => {
                write!(f, "{what} partition table for sectors of {sector_size} bytes")
            }
        }
    }
}

/// Returns the offset of the first byte of `medium` that is not zero, or `None`. Holes of a sparse file
/// are not read.
///
/// # Errors
///
/// The medium cannot be read.
pub fn first_stored<M: PersistentMemory>(medium: &M) -> Result<Option<u64>, MediaError> {
    first_stored_from(medium, 0)
}

/// As [`first_stored`], from the byte at `start` on.
///
/// # Errors
///
/// The medium cannot be read.
pub fn first_stored_from<M: PersistentMemory>(
    medium: &M,
    start: u64,
) -> Result<Option<u64>, MediaError> {
    let mut chunk = vec![0; STEP];
    let mut position = medium.next_stored(start).max(start);
    while position < medium.size() {
        let part = &mut chunk[..(medium.size() - position).min(STEP as u64) as usize];
        read_stored(medium, position, part)?;
        if let Some(index) = part.iter().position(|byte| *byte != 0) {
            return Ok(Some(position + index as u64));
        }
        position = medium.next_stored(position + part.len() as u64);
    }
    Ok(None)
}

/// Reads bytes of `medium`, without touching the holes among them.
fn read_stored<M: PersistentMemory>(
    medium: &M,
    start: u64,
    into: &mut [u8],
) -> Result<(), MediaError> {
    for (page, at) in into.chunks_mut(PAGE_BYTES).zip((start..).step_by(PAGE_BYTES)) {
        if medium.next_stored(at) < at + page.len() as u64 {
            medium.read_bytes(at, page)?;
        } else {
            page.fill(0);
        }
    }
    Ok(())
}

const PAGE_BYTES: usize = crate::pmem::PAGE as usize;

fn has(head: &[u8], at: usize, bytes: &[u8]) -> bool {
    head.get(at..at + bytes.len()) == Some(bytes)
}

fn little_endian(head: &[u8], at: usize) -> Option<u32> {
    head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
}

/// A GPT, whose header is in sector 1 and tells the size of a sector by its place, or an MBR.
fn partition_table(head: &[u8]) -> Option<Content> {
    for sector_size in [512, 4096] {
        if has(head, sector_size, b"EFI PART") {
            let sector_size = sector_size as u32;
            return Some(Content::Partitions { what: "a GPT", sector_size });
        }
    }
    if !has(head, 510, b"\x55\xaa") {
        return None;
    }
    let entries = head.get(446..510)?.as_chunks::<16>().0;
    let is_free = |entry: &[u8; 16]| entry.iter().all(|byte| *byte == 0);
    let is_partition = |entry: &[u8; 16]| {
        let count = little_endian(entry, 12).unwrap_or(0);
        matches!(entry[0], 0 | 0x80) && entry[4] != 0 && count != 0
    };
    let is_table = entries.iter().all(|entry| is_free(entry) || is_partition(entry))
        && entries.iter().any(is_partition);
    // Linux reads the table's numbers in sectors of the disk; nearly all are made for 512 bytes.
    is_table.then_some(Content::Partitions { what: "an MBR", sector_size: 512 })
}

/// Ext2, ext3 and ext4: their blocks have 1024 << n bytes, and no fewer than a sector.
fn ext(head: &[u8]) -> Option<Content> {
    const SUPERBLOCK: usize = 1024;
    if !has(head, SUPERBLOCK + 0x38, b"\x53\xef") {
        return None;
    }
    let shift = little_endian(head, SUPERBLOCK + 0x18).filter(|shift| *shift <= 6)?;
    Some(Content::FileSystem {
        what: "an ext2, ext3 or ext4 file system",
        most_sector_size: Some(1024 << shift),
    })
}

/// XFS, whose superblock has the size of its sectors as a big-endian number.
fn xfs(head: &[u8]) -> Option<Content> {
    if !has(head, 0, b"XFSB") {
        return None;
    }
    let sector_size =
        head.get(102..104).map(|bytes| u32::from(bytes[0]) << 8 | u32::from(bytes[1]));
    Some(Content::FileSystem { what: "an XFS file system", most_sector_size: sector_size })
}

/// FAT, exFAT and NTFS, whose boot sectors have the size of a sector.
fn boot_sector(head: &[u8]) -> Option<Content> {
    if !has(head, 510, b"\x55\xaa") {
        return None;
    }
    let bytes_per_sector =
        head.get(11..13).map(|bytes| u32::from(bytes[0]) | u32::from(bytes[1]) << 8);
    let (what, most_sector_size) = if has(head, 3, b"NTFS    ") {
        ("an NTFS file system", bytes_per_sector)
    } else if has(head, 3, b"EXFAT   ") {
        ("an exFAT file system", head.get(108).filter(|shift| **shift < 16).map(|shift| 1 << shift))
    } else if has(head, 54, b"FAT") || has(head, 82, b"FAT32") {
        ("a FAT file system", bytes_per_sector)
    } else {
        ("a boot sector", None)
    };
    Some(Content::FileSystem { what, most_sector_size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmem::simulated::Simulated;

    fn head_with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD_SIZE];
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    }

    #[test]
    fn every_signature_is_known_by_itself() {
        for (at, bytes, content) in SIGNATURES {
            assert_eq!(Content::find(&head_with(*at, bytes)), Some(*content));
            assert_eq!(Content::find(&head_with(*at, bytes)[..*at + bytes.len() - 1]), None);
        }
        assert_eq!(Content::find(&vec![0; HEAD_SIZE]), None);
        assert_eq!(Content::find(&[]), None);
    }

    #[test]
    fn a_partition_table_tells_the_sectors_that_it_was_made_for() {
        for (size, other) in [(512, 4096), (4096, 512)] {
            let found = Content::find(&head_with(size as usize, b"EFI PART")).unwrap();
            assert_eq!((found.unfit_for(size), found.unfit_for(other)), (None, Some(size)));
        }
        let mut head = head_with(510, b"\x55\xaa");
        head[446 + 4] = 0x83;
        head[446 + 12] = 1;
        assert_eq!(Content::find(&head).unwrap().unfit_for(4096), Some(512));
    }

    #[test]
    fn file_systems_with_small_blocks_do_not_fit_large_sectors() {
        for (shift, unfit) in [(0, Some(512)), (1, Some(512)), (2, None)] {
            let mut head = head_with(1024 + 0x38, b"\x53\xef");
            head[1024 + 0x18] = shift;
            assert_eq!(Content::find(&head).unwrap().unfit_for(4096), unfit);
            assert_eq!(Content::find(&head).unwrap().unfit_for(512), None);
        }
        let mut head = head_with(0, b"XFSB");
        head[102] = 2;
        assert_eq!(Content::find(&head).unwrap().unfit_for(4096), Some(512));
    }

    #[test]
    fn the_first_byte_that_is_not_zero_is_found_wherever_it_is() {
        for place in [None, Some(0), Some((1 << 20) - 1), Some((3 << 20) + 4095)] {
            let medium = Simulated::new(4 << 20);
            if let Some(place) = place {
                medium.write_bytes(place, &[1]).unwrap();
            }
            assert_eq!(first_stored(&medium), Ok(place));
        }
    }
}
