//! Kernel modules, with those that they depend on.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules of a kernel, by the lists that depmod has made.
#[derive(Debug)]
pub(super) struct Modules {
    folder: PathBuf,
    /// By name: the file, and the files that have to be loaded before it, the last one first.
    files: HashMap<String, Vec<String>>,
    built_in: Vec<String>,
}

/// The name of the module in a file.
fn name_in(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

impl Modules {
    /// Reads the lists in `folder`, such as /lib/modules/6.12.0.
    pub(super) fn read(folder: &Path) -> io::Result<Modules> {
        let dependencies = fs::read_to_string(folder.join("modules.dep"))?;
        let files = dependencies.lines().filter_map(|line| {
            let (file, needs) = line.split_once(':')?;
            let files = std::iter::once(file).chain(needs.split_whitespace());
            Some((name_in(file), files.map(str::to_owned).collect()))
        });
        let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        Ok(Modules {
            folder: folder.into(),
            files: files.collect(),
            built_in: built_in.lines().map(name_in).collect(),
        })
    }

    /// The files of module `name`, in the order in which they are loaded; none if it is part of the kernel. `None`:
    /// there is no such module.
    pub(super) fn files_of(&self, name: &str) -> Option<Vec<&str>> {
        let name = name.replace('-', "_");
        match self.files.get(&name) {
            Some(files) => Some(files.iter().rev().map(String::as_str).collect()),
            None => self.built_in.contains(&name).then(Vec::new),
        }
    }

    /// Reads a module, decompressed: insmod of busybox knows no compression.
    pub(super) fn load(&self, file: &str) -> io::Result<Vec<u8>> {
        let path = self.folder.join(file);
        let program = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            Some("gz") => "gzip",
            _ => return fs::read(path),
        };
        let output = Command::new(program).arg("-dc").arg(&path).output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_first_and_what_is_built_in_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let lists = "fs/a-b.ko: fs/c.ko fs/d.ko\nfs/c.ko: fs/d.ko\nfs/d.ko:\n";
        fs::write(folder.path().join("modules.dep"), lists).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        let modules = Modules::read(folder.path()).unwrap();
        assert_eq!(modules.files_of("a_b").unwrap(), ["fs/d.ko", "fs/c.ko", "fs/a-b.ko"]);
        assert!(modules.files_of("ext4").unwrap().is_empty());
        assert!(modules.files_of("xfs").is_none());
    }
}
