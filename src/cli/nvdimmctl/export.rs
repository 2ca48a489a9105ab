//! `export`: sectors become raw bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::contents::Contents;
use super::create_file::permissions;
use super::import::CHUNK;
use super::{Error, io_error};
use crate::cli::name::NamespaceArgs;
use crate::cli::output::{remark, standard_output};
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::nvdimm::{ClaimKind, NewFile};
use crate::pmem::DurabilityRequest;

/// Write the disk in a namespace to a raw disk image: nvdimmctl export FILE > disk.raw
///
/// In a file, zeroes become holes. A write that a crash interrupted appears as completed; the NVDIMM file is
/// not changed. Of a namespace in raw mode, the bytes themselves are written.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The NVDIMM file
    file: PathBuf,

    /// The image to make; it must not exist yet, and appears when it is complete [default, and '-': standard
    /// output]
    image: Option<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// For rescue: write the bytes of the namespace as they are, with the BTT, even while a process holds it
    #[arg(long)]
    force_raw: bool,

    /// For rescue: write zeroes for what cannot be read, and report its amount and first offset on standard
    /// error
    #[arg(long)]
    skip_unreadable: bool,

    /// Permissions of the image, in octal [default: 600]
    #[arg(long, value_name = "OCTAL", value_parser = permissions)]
    mode: Option<u32>,
}

/// What was skipped.
#[derive(Debug, Default)]
struct Skipped {
    bytes: u64,
    /// Where the first of it is in the image.
    first: Option<u64>,
}

impl Export {
    pub(super) fn run(&self) -> Result<(), Error> {
        let options = self.namespace.options(&self.file, DurabilityRequest::PageCache);
        let mut contents = if self.force_raw {
            Contents::look(&options)?
        } else {
            Contents::open(&options, ClaimKind::Shared)?
        };
        let destination = Destination::open(self.image.as_deref(), self.mode)?;
        let mut output = Output::new(destination.file()?);
        let total = contents.size();
        let progress = Progress::new("exporting", Some(total));
        let mut chunk = vec![0; CHUNK];
        let (mut position, mut skipped) = (0, Skipped::default());
        while position < total {
            let part = &mut chunk[..(total - position).min(CHUNK as u64) as usize];
            match contents.read(position, part) {
                Err(_) if self.skip_unreadable => skipped.read(&mut contents, position, part),
                Err(Error::Sectors { path, source }) => {
                    return Err(Error::Unreadable { path, source });
                }
                read => read?,
            }
            output.write(part).map_err(io_error("write the output"))?;
            progress.add(part.len() as u64);
            position += part.len() as u64;
        }
        output.finish().map_err(io_error("write the output"))?;
        destination.publish()?;
        drop(progress);
        remark!("{}: exported {}", self.file.display(), Size(total));
        if let Some(first) = skipped.first {
            let bytes = skipped.bytes;
            remark!("{bytes} bytes could not be read, and are zero, the first at byte {first}");
        }
        Ok(())
    }
}

/// Where an image goes.
pub(super) enum Destination {
    /// A file, which appears under its name when it is whole.
    New(NewFile, PathBuf),
    /// Standard output, or a pipe with a name.
    Stream(File),
}

impl Destination {
    /// Opens `path` for an image, a new file with the permissions `mode` or a FIFO that exists; `None` and `-`
    /// are standard output.
    pub(super) fn open(path: Option<&Path>, mode: Option<u32>) -> Result<Destination, Error> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return standard_output_for_image().map(Destination::Stream);
        };
        let fails = |source| Error::NewFile { path: path.into(), source };
        if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            let fifo = OpenOptions::new().write(true).open(path);
            return fifo.map(Destination::Stream).map_err(fails);
        }
        let new = NewFile::create(path, mode).map_err(fails)?;
        Ok(Destination::New(new, path.into()))
    }

    /// The open file.
    pub(super) fn file(&self) -> Result<File, Error> {
        let file = match self {
            Destination::New(new, _) => new.file(),
            Destination::Stream(file) => file,
        };
        file.try_clone().map_err(io_error("write the output"))
    }

    /// Gives a new file its name: all of it was written.
    pub(super) fn publish(self) -> Result<(), Error> {
        match self {
            Destination::New(new, path) => {
                new.publish().map_err(|source| Error::NewFile { path, source })
            }
            Destination::Stream(_) => Ok(()),
        }
    }
}

fn standard_output_for_image() -> Result<File, Error> {
    if io::stdout().is_terminal() {
        let reason = "the image is not for a terminal: name a file, or redirect standard output";
        return Err(Error::Usage(reason));
    }
    standard_output().map_err(io_error("use standard output"))
}

impl Skipped {
    /// Reads piece by piece, with zeroes for those that cannot be read.
    fn read(&mut self, contents: &mut Contents, position: u64, into: &mut [u8]) {
        let size = contents.block();
        for (piece, at) in into.chunks_mut(size).zip((position..).step_by(size)) {
            if contents.read(at, piece).is_err() {
                piece.fill(0);
                self.bytes += piece.len() as u64;
                self.first.get_or_insert(at);
            }
        }
    }
}

/// Where the image goes: with holes, if it is a file that is written from its start.
pub(super) struct Output {
    file: File,
    can_seek: bool,
    /// Zero bytes that were not written yet.
    pending: u64,
}

impl Output {
    pub(super) fn new(mut file: File) -> Output {
        let is_empty_file =
            file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
        let can_seek = is_empty_file && file.stream_position().is_ok_and(|position| position == 0);
        Output { file, can_seek, pending: 0 }
    }

    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.can_seek && chunk.iter().all(|&byte| byte == 0) {
            self.pending += chunk.len() as u64;
            return Ok(());
        }
        self.skip()?;
        self.file.write_all(chunk)
    }

    /// Seeks over the zeroes.
    fn skip(&mut self) -> io::Result<()> {
        if self.pending > 0 {
            self.file.seek(SeekFrom::Current(self.pending.cast_signed()))?;
            self.pending = 0;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.pending > 0 {
            self.skip()?;
            let length = self.file.stream_position()?;
            self.file.set_len(length)?;
        }
        self.file.flush()
    }
}
