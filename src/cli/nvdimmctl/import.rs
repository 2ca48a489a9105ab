//! `import`: raw bytes become sectors.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;

use super::contents::Contents;
use super::image::Image;
use super::{Error, io_error};
use crate::cli::name::NamespaceArgs;
use crate::cli::output::say;
use crate::cli::progress::Progress;
use crate::cli::size::Size;
use crate::namespace::zero_runs;
use crate::nvdimm::ClaimKind;
use crate::pmem::DurabilityRequest;

/// Bytes that are moved at a time: whole sectors of either size.
pub(super) const CHUNK: usize = 1 << 20;

/// Write a disk image into a namespace: nvdimmctl import FILE disk.raw
///
/// The image is raw, or in a format that 'qemu-img' converts: qcow2, vmdk, vhdx, vdi and others. The part of
/// the disk after the end of the image does not change. In a namespace in raw mode, the bytes themselves are
/// written.
///
/// An image whose partition table or file system does not fit the sector size of the disk is refused.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The NVDIMM file
    file: PathBuf,

    /// The image [default, and '-': standard input]
    image: Option<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Take the image as raw, whatever it looks like
    #[arg(long)]
    raw: bool,

    /// Import an image that does not fit the sector size
    #[arg(short, long)]
    force: bool,
}

impl Import {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut image = Image::open(self.image.as_deref(), self.raw)?;
        let options = self.namespace.options(&self.file, DurabilityRequest::Auto);
        let contents = Contents::open(&options, ClaimKind::Exclusive)?;
        image.convert()?;
        self.refuse_unfit(&image, &contents)?;
        let size = contents.size();
        let length = image.length();
        if length.is_some_and(|length| length > size) {
            return Err(Error::InputTooLarge { size, written: 0 });
        }
        let progress = Progress::new("importing", length);
        let mut target = Target { contents, position: 0 };
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = image.read(&mut chunk).map_err(io_error("read the input"))?;
            if count == 0 {
                break;
            }
            target.write(&mut chunk, count)?;
            progress.add(count as u64);
        }
        drop(progress);
        if target.position == 0 {
            return Err(Error::EmptyInput);
        }
        target.contents.sync()?;
        let from = image.format().map_or_else(String::new, |format| format!(" from {format}"));
        say!("{}: imported {}{from}", self.file.display(), Size(target.position));
        Ok(())
    }

    /// Refuses an image that no guest could use on sectors of the disk's size.
    fn refuse_unfit(&self, image: &Image, contents: &Contents) -> Result<(), Error> {
        let (Some(content), Some(sector_size)) = (image.content(), contents.sector_size()) else {
            return Ok(());
        };
        match content.unfit_for(sector_size) {
            Some(needed) if !self.force => {
                let path = self.file.clone();
                Err(Error::UnfitImage { path, content, needed, sector_size })
            }
            _ => Ok(()),
        }
    }
}

/// Reads until `buffer` is full or the input ends.
pub(super) fn read_up_to(input: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
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
    /// Writes the first `count` bytes of `chunk`; the last sector of the input keeps what it holds after
    /// them.
    fn write(&mut self, chunk: &mut [u8], count: usize) -> Result<(), Error> {
        let size = self.contents.size();
        if size - self.position < count as u64 {
            return Err(Error::InputTooLarge { size, written: self.position });
        }
        let whole = count.next_multiple_of(self.contents.granule());
        self.fill_up(&mut chunk[..whole], count)?;
        for run in zero_runs(&chunk[..whole], self.contents.block()) {
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

impl Target {
    /// Completes the last sector of `chunk`, of which the first `count` bytes are new, by what it holds.
    fn fill_up(&mut self, chunk: &mut [u8], count: usize) -> Result<(), Error> {
        if count == chunk.len() {
            return Ok(());
        }
        let granule = self.contents.granule();
        let start = count - count % granule;
        let mut old = vec![0; granule];
        self.contents.read(self.position + start as u64, &mut old)?;
        chunk[count..].copy_from_slice(&old[count - start..]);
        Ok(())
    }
}
