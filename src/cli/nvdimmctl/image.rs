//! The image to import: raw, or converted to raw by `qemu-img`.

use std::fs::File;
use std::io::{self, IsTerminal, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::import::{CHUNK, read_up_to};
use super::{Error, io_error};
use crate::cli::output::standard_input;
use crate::cli::progress::Progress;
use crate::nvdimm::{self, Content};

/// An image that is being read.
pub(super) struct Image {
    file: File,
    /// Where it is; `None`: it comes from standard input.
    path: Option<PathBuf>,
    /// What was read to look at, and not yet handed on.
    head: Vec<u8>,
    /// What the image begins with; `None`: unknown, or not looked at.
    content: Option<Content>,
    /// The format that it was converted from.
    format: Option<&'static str>,
}

/// What `qemu-img info` says of an image, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Info {
    backing_filename: Option<String>,
    format_specific: FormatSpecific,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FormatSpecific {
    data: FormatData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct FormatData {
    data_file: Option<String>,
    extents: Vec<Extent>,
}

#[derive(Debug, Deserialize)]
struct Extent {
    filename: String,
}

impl Image {
    /// Opens the image at `path`, `None` and `-` being standard input, and looks at what it is, unless it is
    /// to be taken `as_raw`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or it is compressed.
    pub(super) fn open(path: Option<&Path>, as_raw: bool) -> Result<Image, Error> {
        let path = path.filter(|path| *path != Path::new("-"));
        let file = match path {
            Some(path) => File::open(path).map_err(io_error("open the image"))?,
            None if io::stdin().is_terminal() => {
                return Err(Error::Usage("standard input is a terminal: name an image"));
            }
            None => standard_input().map_err(io_error("use standard input"))?,
        };
        let path = path.map(PathBuf::from);
        let mut image = Image { file, path, head: Vec::new(), content: None, format: None };
        if !as_raw {
            image.look()?;
        }
        match image.content {
            Some(content @ Content::Packed { unpack, .. }) => {
                let name = image.path.as_deref().unwrap_or(Path::new("IMAGE"));
                let advice = format!(
                    "unpack it first: '{unpack} {} | nvdimmctl import FILE'",
                    name.display()
                );
                Err(image.not_raw(content, advice))
            }
            Some(content @ Content::Image(_)) if image.path.is_none() => {
                let advice = "name its file, so that it can be converted, or convert it by \
                              'qemu-img convert -O raw'";
                Err(image.not_raw(content, advice.into()))
            }
            _ => Ok(image),
        }
    }

    fn not_raw(&self, content: Content, advice: String) -> Error {
        let name = self.path.as_ref().map(|path| path.display().to_string());
        let image = name.unwrap_or_else(|| "the input".into());
        Error::NotRaw { image, content, advice }
    }

    /// Reads the first bytes, and what they say.
    fn look(&mut self) -> Result<(), Error> {
        let mut head = vec![0; CHUNK];
        let count = read_up_to(&mut self.file, &mut head).map_err(io_error("read the input"))?;
        head.truncate(count);
        self.content = Content::find(&head);
        self.head = head;
        Ok(())
    }

    /// Converts an image in a format of a virtual machine monitor to a raw one, by `qemu-img`.
    ///
    /// # Errors
    ///
    /// The program is not there or fails, or the image consists of other files, too.
    pub(super) fn convert(&mut self) -> Result<(), Error> {
        let (Some(content @ Content::Image(format)), Some(path)) = (self.content, &self.path)
        else {
            return Ok(());
        };
        // An absolute path is no URL to qemu-img, and no option.
        let path = path.canonicalize().map_err(io_error("find the image's path"))?;
        self.refuse_other_files(content, format, &path)?;
        let raw = nvdimm::unnamed(&scratch_folder()).map_err(io_error("make a temporary file"))?;
        let target = format!("/proc/{}/fd/{}", std::process::id(), raw.as_raw_fd());
        let progress = Progress::new("converting", None);
        self.qemu_img(
            content,
            &["convert", "-f", format, "-O", "raw"],
            &[&path, Path::new(&target)],
        )?;
        drop(progress);
        self.file = raw;
        self.file.rewind().map_err(io_error("read the converted image"))?;
        self.format = Some(format);
        self.look()
    }

    /// Refuses an image that names other files to be read: one of foreign origin could name any file that
    /// this process may read.
    fn refuse_other_files(&self, content: Content, format: &str, path: &Path) -> Result<(), Error> {
        let output = self.qemu_img(content, &["info", "--output=json", "-f", format], &[path])?;
        let info: Info = serde_json::from_slice(&output).map_err(|error| Error::Io {
            action: "parse the output of qemu-img",
            source: error.into(),
        })?;
        let data = info.format_specific.data;
        let foreign = data.extents.into_iter().map(|extent| extent.filename);
        let foreign = foreign.filter(|name| Path::new(name) != path);
        match info.backing_filename.into_iter().chain(data.data_file).chain(foreign).next() {
            Some(other) => {
                let advice = format!(
                    "it needs another file, {other:?}; if that is to be read, make one image of them by \
                     'qemu-img convert -O raw'"
                );
                Err(self.not_raw(content, advice))
            }
            None => Ok(()),
        }
    }

    /// Runs qemu-img, and returns what it prints.
    fn qemu_img(
        &self,
        content: Content,
        arguments: &[&str],
        files: &[&Path],
    ) -> Result<Vec<u8>, Error> {
        let mut command = Command::new("qemu-img");
        command.args(arguments).arg("--").args(files).stdin(Stdio::null());
        let output = match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let advice = "there is no qemu-img to convert it; install it, or convert the image \
                              elsewhere by 'qemu-img convert -O raw'";
                return Err(self.not_raw(content, advice.into()));
            }
            output => output.map_err(io_error("run qemu-img"))?,
        };
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(self.not_raw(content, format!("and qemu-img does not convert it: {said}")))
    }

    /// Bytes of the image, where that is known beforehand.
    pub(super) fn length(&self) -> Option<u64> {
        let metadata = self.file.metadata().ok().filter(std::fs::Metadata::is_file);
        metadata.map(|metadata| metadata.len())
    }

    /// What the image begins with, as far as is known.
    pub(super) fn content(&self) -> Option<Content> {
        self.content
    }

    /// The format that the image was converted from.
    pub(super) fn format(&self) -> Option<&'static str> {
        self.format
    }

    /// Reads until `buffer`, of [`CHUNK`] bytes, is full or the image ends.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            return read_up_to(&mut self.file, buffer);
        }
        let head = std::mem::take(&mut self.head);
        buffer[..head.len()].copy_from_slice(&head);
        Ok(head.len())
    }
}

/// Where large temporary files go.
fn scratch_folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}
