//! `powercut guest`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::exit;
use crate::cli::output::say;
use crate::cli::{complain, one_line};
use crate::powercut::guest::{GuestError, Initramfs};

/// Makes a small guest: a kernel, busybox, and programs of this host
///
/// The folder OUT gets vmlinuz, initramfs.cpio, and boot, a script that runs QEMU with the disks whose sockets it is
/// given. In the guest, the programs are in /usr/bin, and the disk of marks is /dev/disk/by-id/virtio-marks. The guest
/// runs SCRIPT and powers off; its console ends with '@@guest-exit STATUS'. Without a script, it gives a shell.
#[derive(Debug, Args)]
pub(super) struct GuestArgs {
    /// A folder for the guest, which is made
    out: PathBuf,

    /// A program of this host, by path or by name, with its shared libraries (repeatable)
    #[arg(long, value_name = "PROGRAM")]
    with: Vec<PathBuf>,

    /// What the guest runs, by sh
    #[arg(long, value_name = "SCRIPT")]
    script: Option<PathBuf>,

    /// A kernel; that of this host otherwise
    #[arg(long, value_name = "FILE", requires = "modules")]
    kernel: Option<PathBuf>,

    /// The folder of its modules
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    modules: Option<PathBuf>,

    /// A module that the guest loads, besides those for disks and ext4 (repeatable)
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,

    /// A statically linked busybox
    #[arg(long, value_name = "FILE", default_value = "busybox")]
    busybox: PathBuf,
}

/// Runs QEMU; its arguments are the sockets of disks.
const BOOT: &str = r#"#!/bin/sh
# Boots the guest beside this script, made by 'powercut guest': boot SOCKET..., the first one is /dev/vda.
# Of the environment: QEMU, a program; MEMORY, 512M unless it is set; ACCEL, kvm where there is /dev/kvm, else tcg.
here=$(dirname "$(readlink -f "$0")")
memory=${MEMORY:-512M}
if [ -z "$ACCEL" ]; then
    if [ -w /dev/kvm ]; then ACCEL=kvm; else ACCEL=tcg; fi
fi
count=$#
while [ "$count" -gt 0 ]; do
    set -- "$@" -chardev "socket,id=disk$count,path=$1" -device "vhost-user-blk-pci,chardev=disk$count"
    shift
    count=$((count - 1))
done
exec "${QEMU:-qemu-system-x86_64}" -nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -machine q35,memory-backend=mem -accel "$ACCEL" -cpu max -m "$memory" \
    -object "memory-backend-memfd,id=mem,size=$memory,share=on" -kernel "$here/vmlinuz" \
    -initrd "$here/initramfs.cpio" -append "console=ttyS0 panic=-1 loglevel=3 no_timer_check" "$@"
"#;

/// The kernel of this host, and its modules.
fn of_this_host() -> (PathBuf, PathBuf) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    (Path::new("/boot").join(format!("vmlinuz-{release}")), Path::new("/lib/modules").join(release))
}

impl GuestArgs {
    pub(super) fn run(&self) -> ExitCode {
        match self.make() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(format_args!("powercut: {}", one_line(&error)));
                ExitCode::from(exit::BAD_INPUT)
            }
        }
    }

    fn make(&self) -> Result<(), GuestError> {
        let (kernel, modules) = match (&self.kernel, &self.modules) {
            (Some(kernel), Some(modules)) => (kernel.clone(), modules.clone()),
            _ => of_this_host(),
        };
        let initramfs = Initramfs {
            busybox: self.busybox.clone(),
            modules,
            module_names: self.module.clone(),
            programs: self.with.clone(),
            script: self.script.clone(),
        };
        let archive = initramfs.make()?;
        let fails = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| GuestError::File { action, path, source }
        };
        fs::create_dir(&self.out).map_err(fails("make the folder", &self.out))?;
        let [image, guest, boot] =
            ["vmlinuz", "initramfs.cpio", "boot"].map(|name| self.out.join(name));
        fs::copy(&kernel, &image).map_err(fails("copy the kernel", &kernel))?;
        fs::write(&guest, &archive).map_err(fails("write", &guest))?;
        fs::write(&boot, BOOT).map_err(fails("write", &boot))?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&boot, executable).map_err(fails("make executable", &boot))?;
        say!("{}: {} MiB; {} SOCKET...", guest.display(), archive.len() >> 20, boot.display());
        Ok(())
    }
}
