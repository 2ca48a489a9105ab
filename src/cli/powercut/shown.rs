//! The disk whose states a check looks at, and the disk of marks, while they are served.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::serve_image::{device, device_of_marks, server};
use crate::powercut::explore::{Stage, StageDisk};
use crate::powercut::image::MarkDisk;
use crate::vhost_user::{Devices, Error, Stop, raise_descriptor_limit};
use crate::virtio::block::Serial;

/// Requests that fit into a queue.
const QUEUE_SIZE: u16 = 1024;

/// The two disks, while they are served.
pub(super) struct Shown {
    stops: Vec<Stop>,
    thread: thread::JoinHandle<Result<(), Error>>,
}

impl Shown {
    pub(super) fn begin(stage: &Arc<Stage>, disk: &Path, marks: &Path) -> Result<Shown, Error> {
        raise_descriptor_limit();
        let fails = |source| Error::System { action: "cannot serve the disks", source };
        let stops = [Stop::new().map_err(fails)?, Stop::new().map_err(fails)?];
        let serial = |name| Serial::new(name).unwrap_or(Serial::from_uuid(uuid::Uuid::nil()));
        let (shown, queues) = StageDisk::open(stage.clone());
        let shown = device(&shown, serial("powercut"), 1, QUEUE_SIZE);
        let (told, mark_queues) = MarkDisk::open(stage.clone());
        let told = device_of_marks(&told, serial("marks"), QUEUE_SIZE);
        let servers = vec![
            server("disk", shown, queues, disk, stops[0].clone())?,
            server("marks", told, mark_queues, marks, stops[1].clone())?,
        ];
        let run = move || Devices::of(servers).run();
        let thread = thread::Builder::new().name("disks".into()).spawn(run).map_err(fails)?;
        Ok(Shown { stops: stops.into(), thread })
    }

    pub(super) fn end(self) -> Result<(), Error> {
        self.stops.iter().for_each(Stop::stop);
        self.thread.join().unwrap_or(Ok(()))
    }
}
