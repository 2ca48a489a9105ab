//! Devices handed to virtual machine monitors, or copied.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};

use super::common::daemon::nvdimmctl_ok;
use super::setup::{M, dax_json, dax_ok, dax_refused, fill, region, text};

#[test]
fn the_bytes_of_a_device_come_out_in_its_order() {
    let (folder, path) = region();
    dax_ok(&path, "create-device", &["a", "-s", "2M"]);
    dax_ok(&path, "create-device", &["b", "-s", "2M"]);
    let a = dax_json(&path, "resize-device", &["a", "-s", "6M"]);
    assert_eq!(a["mappings"].as_array().unwrap().len(), 2);
    fill(&path, &a, 0, b"first");
    fill(&path, &a, 4 * M + 1, b"second");
    let image = folder.path().join("image");
    dax_ok(&path, "export", &["a", "-f", "raw", "-o", text(&image)]);
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes.len(), 6 << 20);
    assert_eq!((&bytes[..6], &bytes[(2 << 20) + 1..][..7]), (&b"first\0"[..], &b"second\0"[..]));
    assert!(nvdimmctl_ok(&["dax", "export", text(&path), "a", "-f", "raw"]) == bytes);
    assert!(
        dax_refused(&path, "export", &["a", "-f", "raw", "-o", text(&image)]).contains("create")
    );
}

#[test]
fn a_device_is_handed_to_a_vmm_by_extent() {
    let (_folder, path) = region();
    dax_ok(&path, "create-device", &["a", "-s", "2M"]);
    dax_ok(&path, "create-device", &["b", "-s", "2M"]);
    dax_ok(&path, "resize-device", &["a", "-s", "4M"]);
    let printed = dax_ok(&path, "export", &["a"]);
    let path_of_file = path.canonicalize().unwrap();
    let expected = [(18, 0), (22, 1)].map(|(start, number)| {
        format!(
            "-object memory-backend-file,id=dax-a-{number},share=on,mem-path={},offset={},\
             size=2097152 \\\n-device virtio-pmem-pci,memdev=dax-a-{number}",
            path_of_file.display(),
            start * M
        )
    });
    assert_eq!(printed, format!("{}\n", expected.join(" \\\n")));
    let xml = dax_ok(&path, "export", &["a", "--format", "libvirt", "--frontend", "nvdimm"]);
    assert!(
        xml.contains("<qemu:arg value=\"nvdimm,memdev=dax-a-1\"/>\n</qemu:commandline>"),
        "{xml}"
    );
    let said = dax_refused(&path, "export", &["a", "--format", "cloud-hypervisor"]);
    assert!(said.contains("begins at byte 18874368") && said.contains("--window"), "{said}");
    dax_ok(&path, "create-device", &["seed", "-s", "0"]);
    assert!(dax_refused(&path, "export", &["seed"]).contains("has no bytes yet"));
}

#[test]
fn a_vmm_has_the_claim_on_its_device_as_long_as_it_runs() {
    let (_folder, path) = region();
    for name in ["a", "b"] {
        dax_ok(&path, "create-device", &[name, "-s", "2M"]);
    }
    // `cat` ends when its input does.
    let start = |device: &str| {
        Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
            .args(["dax", "export", text(&path), device, "--", "sh", "-c", "echo $#; cat", "vmm"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let first_line = |vmm: &mut Child| {
        let mut line = [0; 2];
        vmm.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"4\n", "-object, its value, -device, its value");
    };
    let mut first = start("a");
    first_line(&mut first);
    let listed = dax_json(&path, "list", &[]);
    assert_eq!(listed["holder"]["pid"], first.id());
    let busy = [("destroy-device", "a"), ("destroy-device", "b"), ("export", "a")];
    for (verb, device) in busy {
        assert!(dax_refused(&path, verb, &[device]).contains("busy: held by"), "{verb} {device}");
    }
    let mut second = start("b");
    first_line(&mut second);
    for mut vmm in [first, second] {
        drop(vmm.stdin.take());
        assert!(vmm.wait().unwrap().success());
    }
    dax_ok(&path, "destroy-device", &["a", "b"]);
}

#[test]
fn arguments_are_printed_and_the_claim_is_held_until_the_process_is_killed() {
    let (_folder, path) = region();
    dax_ok(&path, "create-device", &["a", "-s", "2M"]);
    let mut holder = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"))
        .args(["dax", "export", text(&path), "a", "--hold"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = [0; 7];
    holder.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"-object");
    assert!(dax_refused(&path, "destroy-device", &["a"]).contains("busy: held by nvdimmctl"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    dax_ok(&path, "destroy-device", &["a"]);
}
