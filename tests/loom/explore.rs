//! Exploring a model: every interleaving of its threads, and every value that a load may return.

use std::any::Any;
use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use loom::model::Builder;
use vhost_user_btt::btt::mutant::{self, Mutant};
use vhost_user_btt::btt::{Btt, OpenOptions, Queue, check};
use vhost_user_btt::pmem::simulated::Simulated;
use vm_memory::VolatileSlice;

use crate::image::{SECTOR, image, sector};
use crate::medium::{Medium, Streaming};

/// How disks are opened, by one queue.
pub const OPTIONS: OpenOptions =
    OpenOptions { version: None, namespace: None, read_only: false, queues: 1, atomic: 0 };

/// A disk, and how thoroughly to explore what its users do.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    pub name: &'static str,
    pub lanes: u32,
    pub queues: usize,
    /// The sectors that are read and written.
    pub sectors: &'static [u32],
    /// Bytes up to which an aligned write is all or nothing; 0: only sectors are.
    pub atomic: u32,
    /// True if the image is whole in the end; else, what `run` makes sure of has to do.
    pub whole: bool,
    /// How often a thread that could go on is made to wait, in one interleaving, unless the
    /// environment says otherwise (`LOOM_MAX_PREEMPTIONS`); `None`: as often as can be.
    pub preemptions: Option<usize>,
}

/// A disk in an interleaving.
pub struct Disk {
    pub medium: Medium,
    pub queues: Vec<Queue<Medium>>,
}

impl Disk {
    /// The queues, of which there are `N`.
    pub fn queues<const N: usize>(self) -> [Queue<Medium>; N] {
        self.queues.try_into().ok().expect("as many queues as the model says")
    }
}

impl Model {
    /// Explores `run`, whose threads are gone when it returns: the disk then is whole, by the
    /// checker. Returns all that `run` returned.
    pub fn explore<T: Ord + Send + 'static>(
        self,
        run: impl Fn(Disk) -> T + Send + Sync + 'static,
    ) -> BTreeSet<T> {
        self.explore_on(Streaming::Dax, run)
    }

    /// As [`explore`](Self::explore), on a medium whose streaming stores become visible as `streaming`
    /// says.
    pub fn explore_on<T: Ord + Send + 'static>(
        self,
        streaming: Streaming,
        run: impl Fn(Disk) -> T + Send + Sync + 'static,
    ) -> BTreeSet<T> {
        let mut builder = Builder::new();
        builder.preemption_bound =
            self.preemptions.map(|bound| builder.preemption_bound.unwrap_or(bound));
        builder.max_branches = 10_000;
        let bound = builder.preemption_bound;
        let interleavings = Arc::new(AtomicUsize::new(0));
        let images = Arc::new(Mutex::new(HashSet::new()));
        let bytes = image(self.lanes);
        let outcomes = Arc::new(Mutex::new(BTreeSet::new()));
        let (counted, seen, returned) = (interleavings.clone(), images.clone(), outcomes.clone());
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let medium = Medium::new(&bytes, self.lanes, self.sectors, streaming);
            let options = OpenOptions { queues: self.queues, atomic: self.atomic, ..OPTIONS };
            let (btt, queues) = Btt::open(medium.clone(), &options).unwrap();
            drop(btt);
            let outcome = run(Disk { medium: medium.clone(), queues });
            returned.lock().unwrap().insert(outcome);
            let outcome = medium.outcome();
            if seen.lock().unwrap().insert(outcome.clone()) && self.whole {
                check_whole(&medium.contents(&outcome));
            }
        });
        let bound = bound.map_or("any number of".into(), |bound| format!("at most {bound}"));
        println!(
            "model {}: interleavings={} with {bound} preemptions, {} final images",
            self.name,
            interleavings.load(Ordering::Relaxed),
            images.lock().unwrap().len(),
        );
        std::mem::take(&mut *outcomes.lock().unwrap())
    }

    /// Explores `run` with `mutant` in the engine: some interleaving fails, and what it says of why
    /// has `symptom` in it.
    pub fn catches<T: Ord + Send + 'static>(
        self,
        mutant: Mutant,
        symptom: &str,
        run: impl Fn(Disk) -> T + Send + Sync + 'static,
    ) {
        // All threads of a model are run by the one that explores it.
        mutant::activate(Some(mutant));
        let explored = catch_unwind(AssertUnwindSafe(|| self.explore(run)));
        mutant::activate(None);
        assert_caught(&mutant, symptom, explored);
    }

    /// As [`catches`](Self::catches), for a mutant of the medium's fences.
    pub fn catches_on<T: Ord + Send + 'static>(
        self,
        mutant: Streaming,
        symptom: &str,
        run: impl Fn(Disk) -> T + Send + Sync + 'static,
    ) {
        let explored = catch_unwind(AssertUnwindSafe(|| self.explore_on(mutant, run)));
        assert_caught(&mutant, symptom, explored);
    }
}

/// Makes sure that the exploration of `mutant` has failed, and has said `symptom`.
fn assert_caught<T>(mutant: &dyn Debug, symptom: &str, explored: Result<T, Box<dyn Any + Send>>) {
    let Err(panic) = explored else { panic!("{mutant:?} is not noticed") };
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    assert!(said.contains(symptom), "{mutant:?}: {said}");
    println!("mutant {mutant:?} is caught: {said}");
}

/// Checks an image, on a stack of its own: that of a model is small.
fn check_whole(contents: &[u8]) {
    let check = || {
        let medium = Simulated::with_contents(contents);
        let report = check::check(&medium, &check::CheckOptions::default(), &mut |_, _| {});
        (report.verdict() != check::Verdict::Clean || !report.pending.is_empty())
            .then(|| format!("{:?}, pending {:?}", report.findings, report.pending))
    };
    let faults = std::thread::scope(|scope| scope.spawn(check).join().unwrap());
    assert!(faults.is_none(), "the image is not whole: {}", faults.unwrap_or_default());
}

/// What models do with a queue; every sector consists of one word, and is read whole.
pub trait Words {
    /// Writes a sector.
    fn put(&mut self, sector: u32, word: u64) {
        self.put_all(&[(sector, word)]);
    }

    /// Writes several sectors in one batch.
    fn put_all(&mut self, sectors: &[(u32, u64)]);

    /// Reads a sector.
    fn get(&mut self, sector: u32) -> u64;
}

impl Words for Queue<Medium> {
    fn put_all(&mut self, sectors: &[(u32, u64)]) {
        let mut batch = self.batch();
        for &(number, word) in sectors {
            let mut bytes = sector(word);
            batch.write(number.into(), &VolatileSlice::from(&mut bytes[..]), 0).unwrap();
        }
        batch.commit();
        assert_eq!(batch.take_failures().count(), 0);
    }

    fn get(&mut self, number: u32) -> u64 {
        let mut bytes = [0; SECTOR];
        self.batch().read(number.into(), &VolatileSlice::from(&mut bytes[..])).unwrap();
        let word = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == sector(word), "sector {number} is torn");
        word
    }
}
