//! DAX devices in guests: as persistent memory, and as windows of a disk. QEMU knows the shared memory
//! regions of a vhost-user device since 11.1: `qemu/fetch-qemu --suite trixie-backports --suite trixie`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Daemon, Guest, Tool, programs, scratch, sha256_of_file};

const M: u64 = 1 << 20;

/// A file with a namespace `disk` in sector mode, and a device `data` of 16 MiB and 44 MiB in `pool`.
pub fn make(folder: &Path) -> PathBuf {
    let file = folder.join("pool.nvdimm");
    let tool = Tool::on(&file);
    tool.create_labelled("224M", 128 << 10);
    tool.create_namespace(&["--name", "disk", "--size", "32M"]);
    tool.create_namespace(&["--name", "pool", "--mode", "dax", "--size", "192M"]);
    tool.dax("create-device", &["data", "--size", "16M"]);
    tool.dax("create-device", &["between", "--size", "2M"]);
    tool.dax("resize-device", &["data", "--size", "60M"]);
    assert_eq!(extents(&file).len(), 2);
    file
}

/// QEMU's arguments for `data`, as `dax export` prints them: an NVDIMM slot for each of its two extents.
pub fn exported_arguments(file: &Path) -> Vec<String> {
    let exported = Tool::on(file).dax("export", &["data", "--format", "qemu"]);
    let exported = String::from_utf8(exported).expect("text");
    let words = exported.split_whitespace().filter(|word| *word != "\\");
    ["-m", "512M,slots=2,maxmem=4G"].into_iter().chain(words).map(str::to_owned).collect()
}

/// The SHA-256 of all bytes of `data`.
pub fn sha256_of_data(file: &Path) -> String {
    let image = file.with_extension("image");
    let output = image.to_str().expect("a name in UTF-8");
    Tool::on(file).dax("export", &["data", "--format", "raw", "--output", output]);
    let hash = sha256_of_file(&image);
    fs::remove_file(image).expect("the image");
    hash
}

/// The bytes of the file that are `data`'s.
fn extents(file: &Path) -> Vec<std::ops::Range<u64>> {
    let list: Value = serde_json::from_slice(&Tool::on(file).dax("list", &["--json"])).unwrap();
    let devices = list["devices"].as_array().expect("devices");
    let data = devices.iter().find(|device| device["name"] == "data").expect("the device");
    let extents = data["mappings"].as_array().expect("extents").iter();
    extents
        .map(|extent| extent["start"].as_u64().unwrap()..extent["end"].as_u64().unwrap())
        .collect()
}

/// Byte of the file that is byte `offset` of `data`.
pub fn place(file: &Path, mut offset: u64) -> u64 {
    for extent in extents(file) {
        let length = extent.end - extent.start;
        if offset < length {
            return extent.start + offset;
        }
        offset -= length;
    }
    panic!("behind the end");
}

fn serve(file: &Path, options: &[&str]) -> Daemon {
    let (disk, pmem) = (file.with_extension("disk"), file.with_extension("pmem"));
    let mut arguments = vec![format!("--disk=socket={},namespace=disk", disk.display())];
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    let mut sockets = vec![disk];
    if options.is_empty() {
        arguments.push(format!("--pmem=socket={},device=data,expose-file", pmem.display()));
        sockets.push(pmem);
    }
    Daemon::start_devices(file, &arguments, sockets)
}

/// A file system on the device, with a file that is written through mappings, in more than one way.
const WRITE: &str = r"
mkfs.ext4 -q -b 4096 -E stride=512,stripe_width=512 -O ^has_journal /dev/pmem0
mount -o dax=always /dev/pmem0 /mnt
fallocate -l 8M /mnt/mapped
/opt/guest-load fill-mapped /mnt/mapped 7
say_sha256 mapped </mnt/mapped
random 30m >/mnt/written
fallocate -l 8k /mnt/direct
random 4k | dd of=/mnt/direct conv=notrunc 2>/dev/null
/opt/guest-load direct-mapped /mnt/direct /dev/vda
dd if=/dev/vda iflag=direct bs=4k count=1 2>/dev/null | cmp - /mnt/direct -n 4096
sync
say_sha256 written </mnt/written
dmesg | grep -i 'virtio_pmem\|pmem0' >&2
no_disk_errors
say durable
sleep 100
";

const VERIFY: &str = r"
e2fsck -f -p /dev/pmem0 || [ $? -eq 1 ]
mount -o dax=always /dev/pmem0 /mnt
say_sha256 mapped </mnt/mapped
say_sha256 written </mnt/written
umount /mnt
say_sha256 device </dev/pmem0
no_disk_errors
";

#[test]
fn persistent_memory_of_two_extents_keeps_a_file_system_when_its_guest_is_killed() {
    let scratch = scratch();
    let file = make(scratch.path());
    let daemon = serve(&file, &[]);
    let machine = || Guest::windows_machine(scratch.path()).initramfs(&programs());
    let served =
        |daemon: &Daemon| machine().disk_at(&daemon.sockets()[0]).pmem_at(&daemon.sockets()[1]);
    let mut guest = served(&daemon).boot(WRITE);
    // Pages of 2 MiB: a handful of faults for 2048 pages of 4 KiB.
    let faults = guest.wait_for("faults");
    let faults: u64 = faults.split(' ').next().unwrap().parse().expect("a number");
    assert!(faults < 64, "{faults} faults");
    let mapped = guest.wait_for("mapped");
    guest.wait_for("direct");
    let written = guest.wait_for("written");
    guest.wait_for("durable");
    guest.kill();

    let mut guest = served(&daemon).boot(VERIFY);
    assert_eq!((guest.wait_for("mapped"), guest.wait_for("written")), (mapped, written));
    let device = guest.wait_for("device");
    guest.finish();
    daemon.stop();

    // The same bytes for the host ...
    assert_eq!(sha256_of_data(&file), device);
    // ... and for a guest whose QEMU maps them itself.
    let arguments = exported_arguments(&file);
    let script = "cat /dev/pmem0 /dev/pmem1 >/tmp/all\n say_sha256 device </tmp/all";
    let mut guest = machine().arguments(&arguments).boot(script);
    assert_eq!(guest.wait_for("device"), device);
    guest.finish();
}

/// Exchanges words with the host through window 0, up to the end of its first extent and behind that of its
/// second, before and after growth, and when most of it
/// is gone.
const EXCHANGE: &str = r"
/opt/guest-load window 0 length
/opt/guest-load window 1 length
/opt/guest-load window 0 put 16777214 across
/opt/guest-load window 0 wait 62914552 fromhost
/opt/guest-load window 1 wait 0 second
/opt/guest-load window 0 wait 71303160 fromgrew
/opt/guest-load window 0 put 71303168 fromguest
/opt/guest-load window 0 wait 4194304 fromless
/opt/guest-load window 0 put 8388600 thelast8
random 64k >/tmp/sectors
dd if=/tmp/sectors of=/dev/vda oflag=direct bs=64k 2>/dev/null
dd if=/dev/vda iflag=direct bs=64k count=1 2>/dev/null | cmp - /tmp/sectors
no_disk_errors
";

#[test]
fn a_disk_and_two_windows_on_one_connection_talk_to_the_host_before_and_after_growth() {
    let scratch = scratch();
    let file = make(scratch.path());
    let control = format!("--control={}", file.with_extension("control").display());
    let daemon = serve(&file, &["--window=data,reserve=128M", "--window=between", &control]);
    let mut guest = Guest::windows_machine(scratch.path())
        .initramfs(&programs())
        .windows_at(&daemon.sockets()[0])
        .boot(EXCHANGE);
    assert_eq!(guest.wait_for("window"), format!("0 {} .", 128 * M));
    assert_eq!(guest.wait_for("window"), format!("1 {} .", 2 * M));
    guest.wait_for("put");
    let open = File::options().read(true).write(true).open(&file).expect("the file");
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        open.read_exact_at(&mut bytes, place(&file, offset)).expect("bytes");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let write = |offset: u64, text: &str| {
        open.write_all_at(text.as_bytes(), place(&file, offset)).expect("written bytes");
    };
    // Over the border between the extents, which are far from each other in the file.
    assert_eq!(read(16 * M - 2, 2) + &read(16 * M, 4), "across");
    write(60 * M - 8, "fromhost");
    guest.wait_for("found");
    let list: Value = serde_json::from_slice(&Tool::on(&file).dax("list", &["--json"])).unwrap();
    let between = list["devices"].as_array().unwrap().iter().find(|one| one["name"] == "between");
    let between = between.unwrap()["mappings"][0]["start"].as_u64().unwrap();
    open.write_all_at(b"second", between).expect("written bytes");
    guest.wait_for("found");
    Tool::on(&file).dax("resize-device", &["data", "--size", "80M", &control]);
    write(68 * M - 8, "fromgrew");
    guest.wait_for("found");
    guest.wait_for("put");
    assert_eq!(read(68 * M, 9), "fromguest");
    // QEMU lets go of all pieces but the first, and of that one for the moment that it takes to map half of it.
    Tool::on(&file).dax("resize-device", &["data", "--size", "8M", "--force", &control]);
    assert_eq!(extents(&file).len(), 1);
    write(4 * M, "fromless");
    guest.wait_for("found");
    guest.wait_for("put");
    assert_eq!(read(8 * M - 8, 8), "thelast8");
    guest.finish();
    daemon.stop();
    Tool::on(&file).namespace("disk").assert_clean();
    Tool::on(&file).dax("check", &[]);
}
