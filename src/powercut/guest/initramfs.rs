//! What is in an initramfs.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::{Archive, name_of};
use super::modules::Modules;
use super::programs;

/// The first process.
const INIT: &[u8] = include_bytes!("init");
/// Modules that every guest needs; ext4 among them, which most guests are about.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A file cannot be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program is not there.
    #[error("there is no program {0}")]
    NoProgram(PathBuf),
    /// The kernel has no such module.
    #[error("the kernel of {folder} has no module {name}")]
    NoModule {
        /// The module.
        name: String,
        /// The folder of modules.
        folder: PathBuf,
    },
    /// Busybox needs libraries before there are any.
    #[error("{0} is not statically linked: install busybox-static, or name another one")]
    NotStatic(PathBuf),
}

/// What is in an initramfs.
#[derive(Debug, Clone)]
pub struct Initramfs {
    /// A statically linked busybox.
    pub busybox: PathBuf,
    /// The folder of the kernel's modules.
    pub modules: PathBuf,
    /// Modules to be loaded, besides those for disks.
    pub module_names: Vec<String>,
    /// Programs, by path or by name.
    pub programs: Vec<PathBuf>,
    /// A script that the guest runs; a shell otherwise.
    pub script: Option<PathBuf>,
}

impl Initramfs {
    /// Makes the archive.
    ///
    /// # Errors
    ///
    /// Something that is to be in it is not there.
    pub fn make(&self) -> Result<Vec<u8>, GuestError> {
        let mut archive = Archive::default();
        archive.file("init", 0o755, INIT);
        self.add_busybox(&mut archive)?;
        self.add_modules(&mut archive)?;
        for program in &self.programs {
            add_program(&mut archive, program)?;
        }
        if let Some(script) = &self.script {
            archive.file("run/script", 0o755, &read(script)?);
        }
        Ok(archive.finish())
    }

    fn add_busybox(&self, archive: &mut Archive) -> Result<(), GuestError> {
        let busybox = find(&self.busybox)?;
        if !libraries(&busybox)?.is_empty() {
            return Err(GuestError::NotStatic(busybox));
        }
        // Programs of the host are in usr/bin, and libraries in lib or usr/lib, wherever the loader names them.
        for (folder, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin")] {
            archive.folder(target);
            archive.link(folder, target);
        }
        archive.file("usr/bin/busybox", 0o755, &read(&busybox)?);
        Ok(())
    }

    /// Adds the modules, decompressed, and the order in which they are loaded.
    fn add_modules(&self, archive: &mut Archive) -> Result<(), GuestError> {
        let folder = &self.modules;
        let fails = |action, path: PathBuf| move |source| GuestError::File { action, path, source };
        let modules =
            Modules::read(folder).map_err(fails("read the modules of", folder.clone()))?;
        let mut order: Vec<&str> = Vec::new();
        for name in MODULES.into_iter().chain(self.module_names.iter().map(String::as_str)) {
            let missing = || GuestError::NoModule { name: name.into(), folder: folder.clone() };
            let files = modules.files_of(name).ok_or_else(missing)?;
            for file in files {
                if !order.contains(&file) {
                    order.push(file);
                }
            }
        }
        let mut lines = String::new();
        for file in order {
            let module = modules.load(file).map_err(fails("read the module", folder.join(file)))?;
            let name = file.rsplit('/').next().unwrap_or(file);
            archive.file(&format!("modules/{name}"), 0o644, &module);
            lines += name;
            lines += "\n";
        }
        archive.file("modules/order", 0o644, lines.as_bytes());
        Ok(())
    }
}

/// Adds a program of the host in usr/bin, and its libraries where they are.
fn add_program(archive: &mut Archive, program: &Path) -> Result<(), GuestError> {
    let file = find(program)?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    archive.file(&format!("usr/bin/{name}"), 0o755, &read(&file)?);
    for library in libraries(&file)? {
        let mode = fs::metadata(&library).map_or(0o755, |metadata| metadata.permissions().mode());
        archive.file(&name_of(&library), mode & 0o777, &read(&library)?);
    }
    Ok(())
}

fn find(program: &Path) -> Result<PathBuf, GuestError> {
    programs::find(program).ok_or_else(|| GuestError::NoProgram(program.into()))
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let path = program.to_path_buf();
    let fails = |source| GuestError::File { action: "find the libraries of", path, source };
    programs::libraries(program).map_err(fails)
}

fn read(path: &Path) -> Result<Vec<u8>, GuestError> {
    fs::read(path).map_err(|source| GuestError::File { action: "read", path: path.into(), source })
}
