//! `import`: raw bytes become sectors.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use clap::Args;
use vm_memory::VolatileSlice;

use super::{Error, io_error};
use crate::btt::{self, NeverWritten, Queue};
use crate::cli::name::NamespaceArgs;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::nvdimm::ClaimKind;
use crate::pmem::{DurabilityRequest, Mapping};

/// Bytes that are moved at a time: whole sectors of either size.
pub(super) const CHUNK: usize = 1 << 20;

/// Write a raw disk image into a namespace: nvdimmctl import FILE < disk.raw
///
/// Any other format by way of 'qemu-img convert -O raw'. Sectors behind the end of the image keep
/// what they hold.
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
        let (_claim, (btt, mut queues)) = options.map(ClaimKind::Exclusive)?.open(false, 1)?;
        let size = btt.sectors() * u64::from(btt.sector_size());
        let length = input.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        if length.is_some_and(|length| length > size) {
            return Err(Error::InputTooLarge { size });
        }
        let progress = Progress::new("importing", length);
        let mut target = Target { queue: &mut queues[0], position: 0, size };
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = read_up_to(&mut input, &mut chunk).map_err(io_error("read the input"))?;
            if count == 0 {
                break;
            }
            target.write(&mut chunk, count).map_err(|error| error.with_path(&self.file))?;
            progress.add(count as u64);
        }
        let imported = target.position;
        btt.sync().map_err(|error| self.sectors_error(error.into()))?;
        drop(progress);
        println!("{}: imported {}", self.file.display(), Size(imported));
        Ok(())
    }

    fn sectors_error(&self, source: btt::Error) -> Error {
        Error::Sectors { path: self.file.clone(), source }
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

/// Why a chunk could not be written.
enum WriteError {
    TooLarge { size: u64 },
    Sectors(btt::Error),
}

impl WriteError {
    fn with_path(self, path: &std::path::Path) -> Error {
        match self {
            WriteError::TooLarge { size } => Error::InputTooLarge { size },
            WriteError::Sectors(source) => Error::Sectors { path: path.into(), source },
        }
    }
}

impl From<btt::Error> for WriteError {
    fn from(error: btt::Error) -> WriteError {
        WriteError::Sectors(error)
    }
}

/// The sectors that are written to.
struct Target<'a> {
    queue: &'a mut Queue<Mapping>,
    /// Bytes written so far.
    position: u64,
    /// Bytes of the disk.
    size: u64,
}

impl Target<'_> {
    /// Writes the first `count` bytes of `chunk`; the last sector of the input is filled up with
    /// zeroes.
    fn write(&mut self, chunk: &mut [u8], count: usize) -> Result<(), WriteError> {
        if self.size - self.position < count as u64 {
            return Err(WriteError::TooLarge { size: self.size });
        }
        let sector_size = self.queue.btt().sector_size() as usize;
        let whole = count.next_multiple_of(sector_size);
        chunk[count..whole].fill(0);
        for run in runs(&chunk[..whole], sector_size) {
            let first = self.position / sector_size as u64 + (run.start / sector_size) as u64;
            self.write_run(first, &mut chunk[run.start..run.end], run.is_zero)?;
        }
        self.position += count as u64;
        Ok(())
    }

    /// Writes sectors that are all zeroes, or none of them.
    fn write_run(&mut self, first: u64, data: &mut [u8], is_zero: bool) -> Result<(), btt::Error> {
        let sector_size = self.queue.btt().sector_size();
        let count = data.len() as u64 / u64::from(sector_size);
        let mut batch = self.queue.batch();
        if is_zero {
            zero_sectors(&mut batch, first, count)?;
        } else {
            batch.write(first, &VolatileSlice::from(data), 0)?;
        }
        batch.commit();
        batch.take_failures().next().map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Makes sectors read as zeroes, without writing those that do already.
///
/// Sectors of 512 bytes are not flagged in the map, which Linux would misread.
fn zero_sectors(
    batch: &mut btt::Batch<'_, Mapping>,
    first: u64,
    count: u64,
) -> Result<(), btt::Error> {
    if batch.btt().sector_size() == 4096 {
        return batch.trim(first, count, NeverWritten::Leave, 0);
    }
    let mut sector = [0xff; 512];
    for number in first..first + count {
        batch.read(number, &VolatileSlice::from(&mut sector[..]))?;
        if sector.iter().any(|&byte| byte != 0) {
            batch.write_zeroes(number, 1, 0)?;
        }
    }
    Ok(())
}

/// Neighbouring sectors of a chunk that are all zeroes, or none of them.
struct Run {
    start: usize,
    end: usize,
    is_zero: bool,
}

/// Cuts a chunk into runs.
fn runs(chunk: &[u8], sector_size: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, sector) in chunk.chunks(sector_size).enumerate() {
        let (start, end) = (index * sector_size, (index + 1) * sector_size);
        let is_zero = sector.iter().all(|&byte| byte == 0);
        match runs.last_mut() {
            Some(last) if last.is_zero == is_zero => last.end = end,
            _ => runs.push(Run { start, end, is_zero }),
        }
    }
    runs
}
