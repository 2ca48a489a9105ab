//! The same file under Linux's own BTT driver, as an emulated NVDIMM, and served by us.

use std::io::Read as _;
use std::path::Path;

use crate::harness::{Daemon, Guest, Labels, Nvdimm, Tool, scratch, sha256_of_file};

const MIB: u64 = 1 << 20;

/// Writes, overwrites in pieces of odd sizes, and leaves a part of the disk as it never was written.
const WRITE: &str = r"
random 16m | dd of=/dev/pmem0s bs=64k seek=32 conv=notrunc
for piece in 1 2 3 4 5 6 7 8 9; do
    random $((piece * 44))k | dd of=/dev/pmem0s bs=4k seek=$((piece * 531)) \
        oflag=direct conv=notrunc iflag=fullblock
done
sync
";

/// Reports a disk's size and contents.
const REPORT: &str = r#"
say bytes "$(blockdev --getsize64 "$disk")"
say sector_size "$(blockdev --getss "$disk")"
read_sectors "$disk" | say_sha256 sectors
no_disk_errors
"#;

#[derive(Debug, PartialEq, Eq)]
struct Disk {
    bytes: String,
    sector_size: String,
    sectors: String,
}

impl Disk {
    #[track_caller]
    fn reported_by(guest: &mut Guest) -> Self {
        Self {
            bytes: guest.wait_for("bytes"),
            sector_size: guest.wait_for("sector_size"),
            sectors: guest.wait_for("sectors"),
        }
    }
}

/// `labels` decides the version: Linux makes a BTT 1.1 without labels, and 2.0 with labels 1.2.
fn a_disk_written_by_linux_is_served_with_the_same_contents(labels: Labels, sector_size: u32) {
    let scratch = scratch();
    let file = scratch.path().join("linux.nvdimm");
    let (label_bytes, create) = match labels {
        Labels::None => (0, "ndctl create-namespace -f -e namespace0.0 -m sector"),
        labels => (
            labels.bytes(),
            "ndctl disable-region all; ndctl init-labels -f -V 1.2 all; ndctl enable-region all
             ndctl create-namespace -f -m sector",
        ),
    };
    let blank = std::fs::File::create(&file).expect("a new file");
    blank.set_len(32 * MIB + label_bytes).expect("a sparse file");

    let nvdimm = Nvdimm { file: &file, labels };
    let script = format!("{create} -l {sector_size}\n{WRITE}\ndisk=/dev/pmem0s\n{REPORT}");
    let mut guest = Guest::machine(scratch.path()).nvdimm(&nvdimm).boot(&script);
    let by_linux = Disk::reported_by(&mut guest);
    guest.finish();
    assert_eq!(by_linux.sector_size, sector_size.to_string());

    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), by_linux.sectors);

    let daemon = Daemon::start(&file, 1);
    let script = format!("disk=/dev/vda\n{REPORT}");
    let mut guest = Guest::machine(scratch.path()).disk(&daemon).boot(&script);
    assert_eq!(Disk::reported_by(&mut guest), by_linux);
    guest.finish();
    daemon.stop();
}

#[test]
fn a_label_less_disk_written_by_linux_is_served_with_the_same_contents_512() {
    a_disk_written_by_linux_is_served_with_the_same_contents(Labels::None, 512);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_label_less_disk_written_by_linux_is_served_with_the_same_contents_4096() {
    a_disk_written_by_linux_is_served_with_the_same_contents(Labels::None, 4096);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_labelled_disk_written_by_linux_is_served_with_the_same_contents_512() {
    a_disk_written_by_linux_is_served_with_the_same_contents(Labels::Last128KiB, 512);
}

#[test]
fn a_labelled_disk_written_by_linux_is_served_with_the_same_contents_4096() {
    a_disk_written_by_linux_is_served_with_the_same_contents(Labels::Last128KiB, 4096);
}

fn a_disk_of_ours_is_read_and_written_by_linux(sector_size: u32) {
    let scratch = scratch();
    let file = scratch.path().join("ours.nvdimm");
    let raw = scratch.path().join("raw");
    let mut random = std::fs::File::open("/dev/urandom").expect("random bytes").take(20 * MIB);
    let mut imported = std::fs::File::create(&raw).expect("a new file");
    std::io::copy(&mut random, &mut imported).expect("random bytes");
    Tool::on(&file).create_disk("32M", sector_size);
    Tool::on(&file).import(&raw);
    let ours = Tool::on(&file).sha256_of_export();

    let nvdimm = Nvdimm { file: &file, labels: Labels::None };
    // Linux has found the namespace by itself, or /dev/pmem0s would not be there.
    let script = format!(
        "disk=/dev/pmem0s
        dd if=$disk bs=1M count=20 2>/dev/null | say_sha256 imported
        {REPORT}
        {WRITE}
        {REPORT}
        ndctl disable-namespace namespace0.0
        ndctl check-namespace namespace0.0"
    );
    let mut guest = Guest::machine(scratch.path()).nvdimm(&nvdimm).boot(&script);
    assert_eq!(guest.wait_for("imported"), sha256_of_file(&raw));
    assert_eq!(Disk::reported_by(&mut guest).sectors, ours);
    let by_linux = Disk::reported_by(&mut guest);
    guest.finish();

    assert_eq!(by_linux.sector_size, sector_size.to_string());
    assert_ne!(by_linux.sectors, ours);
    Tool::on(&file).assert_clean();
    assert_eq!(Tool::on(&file).sha256_of_export(), by_linux.sectors);
}

#[test]
fn a_disk_of_ours_is_read_and_written_by_linux_512() {
    a_disk_of_ours_is_read_and_written_by_linux(512);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_disk_of_ours_is_read_and_written_by_linux_4096() {
    a_disk_of_ours_is_read_and_written_by_linux(4096);
}

/// Fills the disk, from its first sector to its last, and returns how many bytes that were.
fn fill(scratch: &Path, file: &Path) -> u64 {
    let size = Tool::on(file).list()[0]["size"].as_u64().expect("the size of a disk");
    let raw = scratch.join("raw");
    let mut random = std::fs::File::open("/dev/urandom").expect("random bytes").take(size);
    let mut imported = std::fs::File::create(&raw).expect("a new file");
    std::io::copy(&mut random, &mut imported).expect("random bytes");
    Tool::on(file).import(&raw);
    size
}

/// A BTT of three arenas of different sizes, the second and third of which were appended.
fn a_disk_that_has_grown_is_read_and_written_by_linux(
    labels: Labels,
    sector_size: u32,
    sizes: [&str; 3],
) {
    let scratch = scratch();
    let file = scratch.path().join("grown.nvdimm");
    let [first, larger @ ..] = sizes;
    let tool = Tool::on(&file);
    if labels == Labels::None {
        tool.create_disk(first, sector_size);
    } else {
        tool.create_labelled("128M", labels.bytes());
        tool.create_namespace(&["--size", first, "--sector-size", &sector_size.to_string()]);
    }
    let mut bytes = fill(scratch.path(), &file);
    for size in larger {
        tool.grow(size);
        let more = fill(scratch.path(), &file);
        assert!(more > bytes);
        bytes = more;
    }
    let ours = tool.sha256_of_export();

    let nvdimm = Nvdimm { file: &file, labels };
    // The last sectors are those of the last arena.
    let script = format!(
        "disk=/dev/pmem0s
        {REPORT}
        {WRITE}
        random 1m | dd of=$disk bs=4k seek=$(($(blockdev --getsize64 $disk) / 4096 - 256)) oflag=direct conv=notrunc \
            iflag=fullblock
        {REPORT}
        ndctl disable-namespace namespace0.0
        ndctl check-namespace namespace0.0"
    );
    let mut guest = Guest::machine(scratch.path()).nvdimm(&nvdimm).boot(&script);
    let seen = Disk::reported_by(&mut guest);
    let by_linux = Disk::reported_by(&mut guest);
    guest.finish();

    assert_eq!(seen.bytes, bytes.to_string());
    assert_eq!(seen.sector_size, sector_size.to_string());
    assert_eq!(seen.sectors, ours);
    assert_ne!(by_linux.sectors, ours);
    tool.assert_clean();
    assert_eq!(tool.sha256_of_export(), by_linux.sectors);
}

#[test]
fn a_labelled_disk_that_has_grown_is_read_and_written_by_linux() {
    let sizes = ["16M", "32M", "64M"];
    a_disk_that_has_grown_is_read_and_written_by_linux(Labels::Last128KiB, 512, sizes);
}

#[test]
#[ignore = "takes minutes; scripts/test --deep runs it"]
fn a_label_less_disk_that_has_grown_is_read_and_written_by_linux() {
    let sizes = ["32M", "64M", "96M"];
    a_disk_that_has_grown_is_read_and_written_by_linux(Labels::None, 4096, sizes);
}
