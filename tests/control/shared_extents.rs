//! Copies that share the extents of their original, on a file system that can do that: XFS, on a loop device that only
//! this test sees.

use std::path::Path;
use std::process::{Command, Output};

use crate::setup::pattern;

/// Arguments: nvdimmctl, an empty folder, an image of the disk. Ends with status 77 where there is no such file system.
const CLONE: &str = r#"
    truncate -s 320M "$2/xfs"
    mkfs.xfs -q "$2/xfs" || exit 77
    mkdir "$2/mount"
    mount -o loop "$2/xfs" "$2/mount" || exit 77
    cd "$2/mount"
    "$1" create nvdimm --size 128M --label-size 128K >&2
    "$1" create-namespace nvdimm --name first --size 64M >&2
    "$1" create-namespace nvdimm --name second --size 32M >&2
    "$1" import nvdimm "$3" --namespace first >&2
    sync
    before=$(df --output=avail -k . | tail -1)
    "$1" clone nvdimm copy --namespace first --reflink=always >&2
    sync
    after=$(df --output=avail -k . | tail -1)
    "$1" check-namespace copy first >&2
    "$1" export copy - --namespace first | cmp -n "$(stat -c %s "$3")" - "$3" >&2
    "$1" export nvdimm - --namespace first | cmp -n "$(stat -c %s "$3")" - "$3" >&2
    echo "$before $after"
"#;

fn run(folder: &Path, image: &Path) -> Output {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", CLONE, "sh", env!("CARGO_BIN_EXE_nvdimmctl")]);
    command.args([folder, image]).output().unwrap()
}

#[test]
fn a_copy_that_shares_extents_takes_no_space_for_its_data() {
    const SECTORS: u64 = 6000;
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, (0..SECTORS).flat_map(pattern).collect::<Vec<u8>>()).unwrap();
    let output = run(folder.path(), &image);
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        // Not root, no loop device, or no XFS: scripts/test installs its tools.
        eprintln!("nothing was cloned: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let space = String::from_utf8(output.stdout).unwrap();
    let space: Vec<u64> = space.split_whitespace().map(|kib| kib.parse().unwrap()).collect();
    // The data are 24 MiB; info blocks and labels are the copy's own.
    assert!(space[0] - space[1] < 2048, "{space:?}");
}
