//! Programs, with the shared libraries that they are linked with.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds a program by its path, or by its name in the folders of `PATH`.
pub(super) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_path_buf());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The shared libraries and the loader of `program`, as ldd says; none of a script or of a static program.
pub(super) fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = said.lines().find(|line| line.ends_with("not found")) {
        return Err(io::Error::new(io::ErrorKind::NotFound, missing.trim().to_owned()));
    }
    Ok(said.lines().filter_map(library).collect())
}

/// The file in a line such as `libc.so.6 => /lib/libc.so.6 (0x...)` or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn library(line: &str) -> Option<PathBuf> {
    let (file, _) = line.trim().rsplit_once(" (0x")?;
    let file = file.rsplit(" => ").next()?;
    file.starts_with('/').then(|| file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_lines_with_a_file() {
        let file = |line: &str| library(line).map(|path| path.display().to_string());
        assert_eq!(file("\tlibm.so.6 => /lib/libm.so.6 (0x00007f)").unwrap(), "/lib/libm.so.6");
        assert_eq!(file("\t/lib64/ld.so.2 (0x00007f)").unwrap(), "/lib64/ld.so.2");
        assert!(file("\tlinux-vdso.so.1 (0x00007ffc)").is_none());
        assert!(file("\tstatically linked").is_none());
    }
}
