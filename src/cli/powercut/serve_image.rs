//! `powercut serve --image`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use log::{info, warn};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use super::exit;
use crate::cli::one_line;
use crate::cli::serving::serve;
use crate::powercut::image::{
    Cache, CacheError, CacheOptions, Failure, ImageDisk, MarkDisk, MarkSocket,
};
use crate::powercut::log::LogWriter;
use crate::powercut::states::base_hash;
use crate::vhost_user::{BlockDevice, Devices, Endpoint, Error, Server, SocketSource, Stop};
use crate::virtio::block::{Device, DeviceOptions, Discard, Disk, DiskQueue, Serial};

/// How a worker waits for requests.
const POLL: Duration = Duration::from_micros(50);

/// The write cache of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WriteCache {
    /// What was not flushed is lost
    Volatile,
    /// Every write is durable when it completes
    None,
}

/// Options that a raw image has no use for: they are refused, and not ignored.
const OF_NVDIMM_FILES: [&str; 21] = [
    "nvdimm",
    "blk_file",
    "disk",
    "pmem",
    "window",
    "namespace",
    "label_size",
    "btt_version",
    "raw",
    "atomic",
    "atomic_hint",
    "read_only",
    "durability",
    "discard",
    "logical_block_size",
    "rate_limit",
    "huge_pages",
    "poll_us",
    "socket_mode",
    "socket_group",
    "fd",
];

/// Options of a raw image.
#[derive(Debug, Args)]
#[command(next_help_heading = "Raw images")]
pub(super) struct ImageArgs {
    /// Serve this raw disk image, instead of an NVDIMM file. The image is written to
    #[arg(long, value_name = "FILE", requires = "socket_path", conflicts_with_all = OF_NVDIMM_FILES)]
    pub image: Option<PathBuf>,

    /// Whether the disk has a write cache that is lost when the power fails
    #[arg(long, value_name = "KIND", default_value = "volatile", requires = "image")]
    write_cache: WriteCache,

    /// Bytes of a sector, which is written whole or not at all: 512 or 4096
    #[arg(long, value_name = "BYTES", default_value_t = 512, requires = "image",
          value_parser = super::serve::sector_size)]
    sector_size: u32,

    /// Record all that is written to this file, in the format of dm-log-writes
    #[arg(long, value_name = "LOG", requires = "image")]
    record: Option<PathBuf>,

    /// Serve a disk at this socket whose sectors become marks of the recording; its serial number is
    /// 'marks'
    #[arg(long, value_name = "PATH", requires = "image")]
    mark_socket: Option<PathBuf>,
}

/// What the general options say of the disk.
pub(in crate::cli) struct DiskOptions {
    pub socket: PathBuf,
    pub queues: u16,
    pub queue_size: u16,
    pub serial: Option<Serial>,
    /// Where marks are set by `powercut mark`.
    pub control: Option<PathBuf>,
}

/// Why an image is not served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path}")]
    Cache { path: PathBuf, source: CacheError },
    #[error(transparent)]
    Device(#[from] Error),
}

impl ImageArgs {
    /// Serves the image until the power fails, or the process is told to end.
    pub(super) fn run(&self, image: &Path, failure: Failure, disk: &DiskOptions) -> ExitCode {
        match self.serve(image, failure, disk) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{}", one_line(&error));
                match error {
                    ServeError::Device(_) => ExitCode::FAILURE,
                    ServeError::File { .. } | ServeError::Cache { .. } => exit::BAD_INPUT.into(),
                }
            }
        }
    }

    fn serve(&self, path: &Path, failure: Failure, disk: &DiskOptions) -> Result<(), ServeError> {
        let fails = |action| move |source| ServeError::File { action, path: path.into(), source };
        let image = OpenOptions::new().read(true).write(true).open(path).map_err(fails("open"))?;
        image.try_lock().map_err(io::Error::from).map_err(fails("lock"))?;
        let log = self.begin_log(path, &image)?;
        info!("{}: the power will fail, {failure}", path.display());
        let options = CacheOptions {
            sector_size: self.sector_size,
            is_write_through: self.write_cache == WriteCache::None,
            failure,
        };
        let cache = Cache::new(image, options, log)
            .map_err(|source| ServeError::Cache { path: path.into(), source })?;
        let cache = Arc::new(cache);
        fail_on_signal(cache.clone())
            .map_err(|source| Error::System { action: "cannot watch for SIGUSR1", source })?;
        let socket = disk.control.as_deref().map(|path| MarkSocket::open(path, cache.clone()));
        let _socket = socket.transpose()?;
        let count = 1 + usize::from(self.mark_socket.is_some());
        serve(count, |stops| self.open(path, &cache, disk, stops))?;
        cache.close().map_err(fails("write to"))
    }

    fn open(
        &self,
        path: &Path,
        cache: &Arc<Cache>,
        options: &DiskOptions,
        stops: Vec<Stop>,
    ) -> Result<Devices, Error> {
        let (disk, queues) = ImageDisk::open(cache.clone(), options.queues);
        let name = path.display().to_string();
        let serial = options
            .serial
            .or(Serial::new("powercut"))
            .unwrap_or(Serial::from_uuid(uuid::Uuid::nil()));
        let device = device(&*disk, serial, options.queues, options.queue_size);
        let (sectors, size) = (device.sectors, device.sector_size);
        let mut stops = stops.into_iter();
        let mut servers = Vec::new();
        servers
            .extend(stops.next().map(|stop| server(&name, device, queues, &options.socket, stop)));
        if let Some(socket) = &self.mark_socket {
            let (disk, queues) = MarkDisk::open(cache.clone());
            let serial = Serial::new("marks").unwrap_or(serial);
            let device = device_of_marks(&disk, serial, options.queue_size);
            servers.extend(stops.next().map(|stop| server("marks", device, queues, socket, stop)));
        }
        let servers = servers.into_iter().collect::<Result<_, _>>()?;
        info!("{name}: serving {sectors} sectors of {size} bytes");
        Ok(Devices::of(servers))
    }

    /// Begins the log: its first mark says which base it belongs to.
    fn begin_log(&self, path: &Path, image: &File) -> Result<Option<LogWriter>, ServeError> {
        let Some(record) = &self.record else { return Ok(None) };
        let fails = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| ServeError::File { action, path, source }
        };
        let size = image.metadata().map_err(fails("look at", path))?.len();
        let hash = base_hash(&mut &*image).map_err(fails("read", path))?;
        let log = File::create_new(record)
            .and_then(|file| LogWriter::create(file, self.sector_size))
            .and_then(|mut log| {
                log.mark(&super::recording::base_mark(&hash, size))?;
                log.commit()?;
                Ok(log)
            });
        log.map(Some).map_err(fails("make the log", record))
    }
}

pub(super) fn device(disk: &impl Disk, serial: Serial, queues: u16, queue_size: u16) -> Device {
    let discard = Discard::On;
    Device::new(disk, &DeviceOptions { read_only: false, discard, serial, queues, queue_size })
}

pub(super) fn device_of_marks(disk: &MarkDisk, serial: Serial, queue_size: u16) -> Device {
    let (discard, queues) = (Discard::Off, 1);
    Device::new(disk, &DeviceOptions { read_only: false, discard, serial, queues, queue_size })
}

pub(super) fn server<Q: DiskQueue + 'static>(
    name: &str,
    device: Device,
    queues: Vec<Q>,
    socket: &Path,
    stop: Stop,
) -> Result<Server, Error> {
    let endpoint = Endpoint::open(&SocketSource::Path(socket.to_path_buf().into()))?;
    Ok(BlockDevice::new(name, device, queues).polling(POLL).serve_at(endpoint, stop))
}

/// Lets the power fail at SIGUSR1.
fn fail_on_signal(cache: Arc<Cache>) -> io::Result<()> {
    let mut signals = Signals::new([SIGUSR1])?;
    let wait = move || {
        if signals.forever().next().is_some() {
            warn!("SIGUSR1: the power fails");
            cache.fail();
        }
    };
    thread::Builder::new().name("power-switch".into()).spawn(wait).map(drop)
}
