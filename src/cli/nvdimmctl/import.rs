//! `import`: raw bytes become sectors.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use clap::Args;

use super::contents::Contents;
use super::{Error, io_error};
use crate::cli::name::NamespaceArgs;
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::nvdimm::ClaimKind;
use crate::pmem::DurabilityRequest;

/// Bytes that are moved at a time: whole sectors of either size.
pub(super) const CHUNK: usize = 1 << 20;

/// Write a raw disk image into a namespace: nvdimmctl import FILE < disk.raw
///
/// Any other format by way of 'qemu-img convert -O raw'. What lies behind the end of the image keeps
/// what it holds. In a namespace in raw mode, the bytes themselves are written.
#[derive(Debug, Args)]
pub struct Import {
    /// The NVDIMM file
    file: PathBuf,

    /// The image [default: standard input]
    image: Option<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,
}

impl Import {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut input = self.open_input()?;
        let options = self.namespace.options(&self.file, DurabilityRequest::Auto);
        let contents = Contents::open(&options, ClaimKind::Exclusive)?;
        let size = contents.size();
        let length = input.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        if length.is_some_and(|length| length > size) {
            return Err(Error::InputTooLarge { size });
        }
        let progress = Progress::new("importing", length);
        let mut target = Target { contents, position: 0 };
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = read_up_to(&mut input, &mut chunk).map_err(io_error("read the input"))?;
            if count == 0 {
                break;
            }
            target.write(&mut chunk, count)?;
            progress.add(count as u64);
        }
        target.contents.sync()?;
        drop(progress);
        say!("{}: imported {}", self.file.display(), Size(target.position));
        Ok(())
    }

    fn open_input(&self) -> Result<File, Error> {
        match &self.image {
            Some(path) => File::open(path).map_err(io_error("open the image")),
            None => standard_stream(&io::stdin()).map_err(io_error("use standard input")),
        }
    }
}

/// A standard stream as a file of its own.
pub(super) fn standard_stream(stream: &impl AsFd) -> io::Result<File> {
    let duplicate: OwnedFd = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from(duplicate))
}

/// Reads until `buffer` is full or the input ends.
fn read_up_to(input: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What is written to.
struct Target {
    contents: Contents,
    /// Bytes written so far.
    position: u64,
}

impl Target {
    /// Writes the first `count` bytes of `chunk`; the last sector of the input is filled up with
    /// zeroes.
    fn write(&mut self, chunk: &mut [u8], count: usize) -> Result<(), Error> {
        let size = self.contents.size();
        if size - self.position < count as u64 {
            return Err(Error::InputTooLarge { size });
        }
        let whole = count.next_multiple_of(self.contents.granule());
        chunk[count..whole].fill(0);
        for run in runs(&chunk[..whole], self.contents.block()) {
            let position = self.position + run.start as u64;
            if run.is_zero {
                self.contents.zero(position, (run.end - run.start) as u64)?;
            } else {
                self.contents.write(position, &mut chunk[run.start..run.end])?;
            }
        }
        self.position += count as u64;
        Ok(())
    }
}

/// Neighbouring blocks of a chunk that are all zeroes, or none of them.
struct Run {
    start: usize,
    end: usize,
    is_zero: bool,
}

/// Cuts a chunk into runs of whole blocks; the last may be shorter.
fn runs(chunk: &[u8], block: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, bytes) in chunk.chunks(block).enumerate() {
        let start = index * block;
        let end = start + bytes.len();
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        match runs.last_mut() {
            Some(last) if last.is_zero == is_zero => last.end = end,
            _ => runs.push(Run { start, end, is_zero }),
        }
    }
    runs
}
