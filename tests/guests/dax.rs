//! Our programs inside a guest, on persistent memory as Linux gives it: a DAX file system, and device-DAX. What
//! is DAX is recognised, and what is written can be read, labels too.

use crate::harness::{Guest, Labels, Nvdimm, programs, scratch};

/// Makes a disk on $nvdimm, fills a part of it, reads it back, checks it, and serves it for a moment; then makes,
/// uses and destroys several with labels.
const USE: &str = r#"
PATH=$PATH:/opt
nvdimmctl create-namespace "$nvdimm"
say backing "$(nvdimmctl list --json "$nvdimm" | sed -n 's/.*"backing": "\(.*\)".*/\1/p')"
random 6m >/tmp/image
nvdimmctl import "$nvdimm" /tmp/image
nvdimmctl export "$nvdimm" /tmp/exported
cmp -n 6291456 /tmp/image /tmp/exported
nvdimmctl check-namespace "$nvdimm"
vhost-user-btt --socket-path /tmp/socket --blk-file "$nvdimm" 2>/tmp/log &
until grep -q serving /tmp/log; do sleep 0.1; done
say holder "$(nvdimmctl list "$nvdimm" | grep -c 'vhost-user-btt (')"
kill $!
wait $!
say log "$(grep -o '[a-z-]* durability' /tmp/log)"
nvdimmctl init-labels --force "$nvdimm"
# The old disk has left a BTT where the first namespace goes.
nvdimmctl create-namespace --force --name a --size 16M "$nvdimm"
nvdimmctl create-namespace --name b --size 16M --sector-size 512 "$nvdimm"
nvdimmctl rename-namespace "$nvdimm" b c
for name in a c; do
    nvdimmctl import --namespace $name "$nvdimm" /tmp/image
    rm /tmp/exported
    nvdimmctl export --namespace $name "$nvdimm" /tmp/exported
    cmp -n 6291456 /tmp/image /tmp/exported
    nvdimmctl check-namespace --namespace $name "$nvdimm"
done
nvdimmctl destroy-namespace --force "$nvdimm" a
say durability "$(nvdimmctl list --json "$nvdimm" | sed -n 's/.*"durability": "\(.*\)".*/\1/p')"
"#;

fn our_programs_find(backing: &str, make: &str) {
    let scratch = scratch();
    let file = scratch.path().join("nvdimm");
    std::fs::File::create(&file).expect("a new file").set_len(128 << 20).expect("a sparse file");
    let nvdimm = Nvdimm { file: &file, labels: Labels::None };
    let mut guest = Guest::machine(scratch.path())
        .nvdimm(&nvdimm)
        .initramfs(&programs())
        .boot(&format!("{make}\n{USE}"));
    assert_eq!(guest.wait_for("backing"), backing);
    assert_eq!(guest.wait_for("holder"), "1");
    assert_eq!(guest.wait_for("log"), "dax durability");
    // Of the one namespace that is left.
    assert_eq!(guest.wait_for("durability"), "dax");
    guest.finish();
}

#[test]
fn a_file_on_a_dax_file_system_is_recognised_and_used() {
    our_programs_find(
        "fs-dax",
        "ndctl create-namespace -f -e namespace0.0 -m fsdax --map=mem
        mkfs.ext4 -q -b 4096 /dev/pmem0
        mount -o dax /dev/pmem0 /mnt
        nvdimm=/mnt/nvdimm
        /opt/nvdimmctl create $nvdimm --size 64M",
    );
}

#[test]
fn a_device_dax_is_recognised_and_used() {
    our_programs_find(
        "device-dax",
        "modprobe device_dax
        modprobe dax_pmem
        ndctl create-namespace -f -e namespace0.0 -m devdax --map=mem
        nvdimm=/dev/dax0.0",
    );
}
