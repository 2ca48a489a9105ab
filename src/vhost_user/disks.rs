//! Several disks, each at its own socket, in one process.

use std::io;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use log::error;

use super::disk::DiskConfig;
use super::error::Error;
use super::server::AnyServer;
use super::stop::Stop;

/// Disks that are open, and listen.
pub struct Disks(Vec<Box<dyn AnyServer>>);

impl Disks {
    /// Opens disks, each with the handle that stops it. If one cannot be opened, none is.
    pub fn open<'a>(
        disks: impl IntoIterator<Item = (&'a DiskConfig, Stop)>,
    ) -> Result<Disks, Error> {
        let servers = disks.into_iter().map(|(config, stop)| config.server(stop));
        servers.collect::<Result<_, _>>().map(Disks)
    }

    /// Serves all of them until all are stopped.
    ///
    /// When this returns, every request that was taken off a ring is completed.
    ///
    /// # Errors
    ///
    /// One of them could not be served any more. That ends the others as little as it concerns them:
    /// they are other guests' disks.
    pub fn run(self) -> Result<(), Error> {
        let mut servers = self.0;
        match servers.pop() {
            Some(only) if servers.is_empty() => return only.run(),
            last => servers.extend(last),
        }
        let disks = servers.len();
        let failed = thread::scope(|scope| {
            let running: Vec<_> = servers
                .into_iter()
                .map(|server| {
                    thread::Builder::new()
                        .name("disk".into())
                        .spawn_scoped(scope, move || serve(server))
                })
                .collect();
            let ended_well = |thread: io::Result<ScopedJoinHandle<'_, bool>>| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(error) => {
                    error!("cannot start a thread for a disk: {error}");
                    false
                }
            };
            running.into_iter().map(ended_well).filter(|well| !well).count()
        });
        if failed == 0 { Ok(()) } else { Err(Error::Disks { failed, disks }) }
    }
}

/// Serves one of several disks. Whether it was served to the end.
fn serve(server: Box<dyn AnyServer>) -> bool {
    let title = server.title().to_owned();
    match server.run() {
        Ok(()) => true,
        Err(error) => {
            error!("{title}: {error}");
            false
        }
    }
}
