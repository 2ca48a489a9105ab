//! A new file that gets its name when it is complete.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};

/// The mode of files that are made here: they hold what guests store, which is no other user's business.
const PRIVATE: u32 = 0o600;

/// A new file, which appears under its name by [`publish`](Self::publish). After a failure, or when the
/// process is killed, there is nothing under that name.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    /// The name that it has meanwhile, on file systems that know no file without one.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Creates a file that is going to be `path`, open for reading and writing, with the permissions
    /// `mode`; `None`: for its owner alone.
    ///
    /// # Errors
    ///
    /// There is something under that name; the operating system refuses.
    pub fn create(path: &Path, mode: Option<u32>) -> io::Result<NewFile> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(rustix::io::Errno::EXIST.into());
        }
        NewFile::create_to_replace(path, mode)
    }

    /// As [`create`](Self::create), whatever there is under that name.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn create_to_replace(path: &Path, mode: Option<u32>) -> io::Result<NewFile> {
        let (file, temporary) = match unnamed(folder(path)) {
            Ok(file) => (file, None),
            Err(_) => named(path).map(|(file, name)| (file, Some(name)))?,
        };
        let new = NewFile { file, path: path.into(), temporary };
        if let Some(mode) = mode {
            new.file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(new)
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    ///
    /// Something has got that name meanwhile; the operating system refuses.
    pub fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        match self.temporary.take() {
            None => self.link(&self.path)?,
            Some(name) => {
                let renamed =
                    match renameat_with(CWD, &name, CWD, &self.path, RenameFlags::NOREPLACE) {
                        // A file system that knows no such flag.
                        Err(rustix::io::Errno::INVAL) => fs::hard_link(&name, &self.path),
                        renamed => renamed.map_err(io::Error::from),
                    };
                // After a rename it is gone already.
                let _ = fs::remove_file(&name);
                renamed?;
            }
        }
        sync_folder(&self.path)
    }

    /// As [`publish`](Self::publish), in the place of a file that has the name.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn replace(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        let name = if let Some(name) = self.temporary.take() {
            name
        } else {
            let name = temporary_name(&self.path)?;
            self.link(&name)?;
            name
        };
        fs::rename(&name, &self.path).inspect_err(|_| _ = fs::remove_file(&name))?;
        sync_folder(&self.path)
    }

    /// Gives a file without a name one.
    fn link(&self, name: &Path) -> io::Result<()> {
        let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(linkat(CWD, descriptor, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // The file is of no use, and the failure that led here is the one to report.
            let _ = fs::remove_file(name);
        }
    }
}

/// Opens a file without a name in `folder`, for reading and writing by its owner.
///
/// # Errors
///
/// The file system has no such files, or the operating system refuses.
pub fn unnamed(folder: &Path) -> io::Result<File> {
    // It gets its name by way of /proc.
    fs::metadata("/proc/self/fd")?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(PRIVATE).custom_flags(libc::O_TMPFILE).open(folder)
}

fn named(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = temporary_name(path)?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).mode(PRIVATE).create_new(true).open(&name)?;
    Ok((file, name))
}

/// A name next to `path` that only this process uses.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn folder(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn new_files(path: &Path) -> Vec<NewFile> {
        let (file, temporary) = named(path).unwrap();
        let named = NewFile { file, path: path.into(), temporary: Some(temporary) };
        vec![NewFile::create(path, None).unwrap(), named]
    }

    #[test]
    fn a_file_has_its_name_once_it_is_published_and_takes_no_other_file_s() {
        for number in [0, 1] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let entries = || fs::read_dir(folder.path()).unwrap().count();
            let mut new = new_files(&path).remove(number);
            new.file().write_all(b"whole").unwrap();
            assert!(!path.exists());
            new.publish().unwrap();
            assert_eq!((fs::read(&path).unwrap(), entries()), (b"whole".to_vec(), 1));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
            assert!(NewFile::create(&path, None).is_err());
            fs::remove_file(&path).unwrap();

            new = new_files(&path).remove(number);
            fs::write(&path, "another").unwrap();
            assert_eq!(new.publish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!((fs::read(&path).unwrap(), entries()), (b"another".to_vec(), 1));
            NewFile::create_to_replace(&path, Some(0o640)).unwrap().replace().unwrap();
            assert_eq!((fs::read(&path).unwrap(), entries()), (Vec::new(), 1));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        }
    }
}
