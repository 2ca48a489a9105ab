//! Files that were damaged and repaired are clean to Linux's own `ndctl check-namespace`, too.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::damage::{self, Image};
use crate::harness::{Guest, Labels, Nvdimm, Tool, scratch};

/// Damage that is repaired before the guest sees it, and whether by force. The last is left as it is.
const SAMPLE: [(&str, &[&str]); 9] = [
    ("first info block zeroed", &["--repair"]),
    ("wrong checksum in the second", &["--repair"]),
    ("an entry names a block that does not exist", &["--repair", "--force"]),
    ("two sectors have one block", &["--repair", "--force"]),
    ("an interrupted write", &["--repair"]),
    ("all lanes zeroed", &["--repair"]),
    ("two lanes have one free block", &["--repair"]),
    ("all lanes in the old layout", &["--repair", "--rewrite-log"]),
    ("two sectors have one block", &[]),
];

/// A file with one damaged namespace, repaired by `repair`.
fn damaged(folder: &Path, template: &Image, index: usize, name: &str, repair: &[&str]) -> PathBuf {
    let all = damage::sections().into_iter().flat_map(|(_, damage)| damage);
    let damage = all.into_iter().find(|damage| damage.name == name).expect("it is in the table");
    let mut image = template.clone();
    (damage.inflict)(&mut image);
    let path = folder.join(format!("damaged{index}"));
    image.write(&path);
    if !repair.is_empty() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
        command.arg("check-namespace").arg(&path).args(repair);
        let output = command.output().expect("nvdimmctl");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
    }
    path
}

#[test]
fn repaired_namespaces_are_clean_to_ndctl() {
    let scratch = scratch();
    let template = scratch.path().join("template");
    Tool::on(&template).create_disk("32M", 4096);
    let raw = scratch.path().join("raw");
    let sectors: Vec<u8> = (0..40 * 4096u32).map(|i| (i / 4096) as u8 + 1).collect();
    std::fs::write(&raw, sectors).expect("a new file");
    Tool::on(&template).import(&raw);
    let template = Image::read(&template);
    let files: Vec<PathBuf> = (0..)
        .zip(SAMPLE)
        .map(|(index, (name, repair))| damaged(scratch.path(), &template, index, name, repair))
        .collect();
    let nvdimms: Vec<Nvdimm<'_>> =
        files.iter().map(|file| Nvdimm { file, labels: Labels::None }).collect();
    let machine = Guest::machine(scratch.path());
    let machine = nvdimms.iter().fold(machine, |machine, nvdimm| machine.nvdimm(nvdimm));
    // Which region of Linux's is which file cannot be told: the clean ones are counted.
    let mut guest = machine.boot(
        r#"
        clean=0
        ndctl list -N >&2
        for index in $(seq 0 8); do
            ndctl disable-namespace "namespace$index.0"
            if ndctl check-namespace "namespace$index.0" >&2; then
                clean=$((clean + 1))
            else
                say unclean "$index"
            fi
        done
        say clean "$clean"
        "#,
    );
    assert_eq!(
        guest.wait_for("clean"),
        "8",
        "all that were repaired, and not the one that was not"
    );
    guest.finish();
}
