//! Regions of DAX devices of any contents: opened, listed, checked, repaired, and used.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;
use vhost_user_btt::dax::check::check;
use vhost_user_btt::dax::{
    Align, CreateOptions, DeviceOptions, Error, PAGE_SIZE, PAGES_OFFSET, Region, create,
    repair,
};
use vhost_user_btt::pmem::simulated::{Contents, Simulated};
use vhost_user_btt::pmem::{PersistentMemory, fletcher64, fletcher64_without_field};

/// Where the metadata pages begin, and bytes of each; the owner table is the first.
const METADATA: u64 = 8192;
const METADATA_PAGE: u64 = 8192;
/// As many of them as the sample has, and some that are free.
const PAGES: u64 = 10;
const SUPERBLOCK: u64 = 4096;
/// The journal's two buckets.
const BUCKET: u64 = 4096;
const SIZE: u64 = PAGES_OFFSET + 64 * PAGE_SIZE;
const REGION: Uuid = Uuid::from_u128(1);
const OWNER: Uuid = Uuid::from_u128(2);

#[derive(Debug, Arbitrary)]
struct Input {
    /// Words that are replaced.
    words: Vec<(Place, Value)>,
    /// An entry of the journal, with what it stores.
    entry: Option<(u8, Vec<(Place, Value)>)>,
    /// Whose checksums are made right in the end.
    seal_superblocks: bool,
    seal_pages: bool,
    drop_damaged: bool,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Place {
    Superblock {
        is_backup: bool,
        word: u8,
    },
    /// A word of the first of a metadata page.
    Metadata {
        page: u8,
        word: u8,
    },
    /// Any of it.
    Far {
        page: u8,
        word: u16,
    },
    Journal {
        word: u16,
    },
    Anywhere {
        word: u32,
    },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Value {
    Flip(u8),
    Small(u16),
    Any(u64),
    /// What leads to a metadata page.
    Link(u8),
    /// A record of an owner.
    Record {
        page: u8,
        order: u8,
        namespace: u8,
    },
    /// The word so many words before, or behind it.
    CopyFrom(i16),
}

fuzz_target!(|input: Input| {
    let damaged = input.contents();
    let medium = Arc::new(Simulated::of(damaged.clone()));
    let report = check(&medium);
    assert!(medium.snapshot() == damaged, "a check has changed something");
    let before = match Region::open(Arc::clone(&medium), true) {
        Ok(region) => Some(examine(&region)),
        Err(error) => {
            assert!(!report.is_clean(), "clean, and not to be opened: {error}");
            None
        }
    };
    assert!(medium.snapshot() == damaged, "opened for reading, it is another");
    use_it(&Arc::new(Simulated::of(damaged)));

    let Ok(repaired) = repair(&medium, input.drop_damaged) else { return };
    let again = check(&medium);
    assert_eq!(again.findings, repaired.left.findings);
    if let (Some(before), true) = (before, repaired.mended.iter().all(|one| !one.fix.loses())) {
        let region = Region::open(Arc::clone(&medium), true).expect("as before the repair");
        assert!(examine(&region) == before, "a repair that loses nothing has changed something");
    }
    if again.is_clean() {
        let second = repair(&medium, true).expect("clean");
        assert!(second.mended.is_empty(), "repaired, and again: {:?}", second.mended);
        let opened = Region::open(Arc::clone(&medium), true).map(|region| examine(&region));
        assert!(opened.is_ok(), "repaired, and not to be opened: {opened:?}");
        use_it(&medium);
        assert!(check(&medium).is_clean(), "used after a repair: {:?}", check(&medium).findings);
    }
});

impl Input {
    fn contents(&self) -> Contents {
        let mut contents = sample().clone();
        for (place, value) in self.words.iter().take(32) {
            let offset = place.offset();
            let value = value.apply(&contents, offset);
            contents.write(offset, &value.to_le_bytes());
        }
        if let Some((bucket, stores)) = &self.entry {
            let stores = stores.iter().take(16);
            let entry = entry(stores.map(|(place, value)| {
                let offset = place.offset();
                (offset, value.apply(&contents, offset))
            }));
            contents.write(PAGES_OFFSET + u64::from(bucket % 2) * BUCKET, &entry);
        }
        if self.seal_superblocks {
            seal(&mut contents, 0, SUPERBLOCK);
            seal(&mut contents, SUPERBLOCK, SUPERBLOCK);
        }
        if self.seal_pages {
            for page in 0..PAGES {
                seal(&mut contents, METADATA + page * METADATA_PAGE, METADATA_PAGE);
            }
        }
        contents
    }
}

impl Place {
    fn offset(self) -> u64 {
        let page = |page: u8| METADATA + u64::from(page) % PAGES * METADATA_PAGE;
        match self {
            Place::Superblock { is_backup: true, word } => u64::from(word % 16) * 8,
            Place::Superblock { is_backup: false, word } => SUPERBLOCK + u64::from(word % 16) * 8,
            Place::Metadata { page: number, word } => page(number) + u64::from(word) * 8,
            Place::Far { page: number, word } => page(number) + u64::from(word) * 8 % METADATA_PAGE,
            Place::Journal { word } => PAGES_OFFSET + u64::from(word) * 8 % (2 * BUCKET),
            Place::Anywhere { word } => u64::from(word) * 8 % SIZE,
        }
    }
}

impl Value {
    fn apply(self, contents: &Contents, offset: u64) -> u64 {
        let load = |offset: u64| {
            let mut word = [0; 8];
            contents.read(offset, &mut word);
            u64::from_le_bytes(word)
        };
        match self {
            Value::Flip(bit) => load(offset) ^ (1 << (bit % 64)),
            Value::Small(number) => number.into(),
            Value::Any(word) => word,
            Value::Link(page) => METADATA + u64::from(page) * METADATA_PAGE,
            Value::Record { page, order, namespace } => {
                (PAGES_OFFSET / PAGE_SIZE + u64::from(page))
                    | u64::from(order % 64) << 52
                    | u64::from(namespace % 8) << 58
            }
            Value::CopyFrom(distance) => {
                load(offset.saturating_add_signed(8 * i64::from(distance)).min(SIZE - 8))
            }
        }
    }
}

/// An entry that is newer than all others.
fn entry(stores: impl Iterator<Item = (u64, u64)>) -> Vec<u8> {
    let stores: Vec<u8> = stores
        .flat_map(|(offset, value)| [offset.to_le_bytes(), value.to_le_bytes()])
        .flatten()
        .collect();
    let seq = 1_000_000u64.to_le_bytes();
    let mut bytes = vec![0; 64];
    bytes[8..24].copy_from_slice(REGION.as_bytes());
    bytes[24] = 1;
    bytes[28..32].copy_from_slice(&(stores.len() as u32 / 16).to_le_bytes());
    bytes[32..40].copy_from_slice(&seq);
    bytes[40..48].copy_from_slice(&seq);
    bytes.extend(stores);
    let sum = fletcher64(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn seal(contents: &mut Contents, offset: u64, length: u64) {
    let mut bytes = vec![0; length as usize];
    contents.read(offset, &mut bytes);
    contents.write(offset, &fletcher64_without_field(&bytes, 0).to_le_bytes());
}

fn device(name: &str, pages: u64) -> DeviceOptions {
    DeviceOptions {
        name: name.to_owned(),
        uuid: Uuid::from_u128(name.bytes().fold(7, |sum, byte| sum << 8 | u128::from(byte))),
        label: String::new(),
        size: pages * PAGE_SIZE,
        align: None,
        contiguous: false,
    }
}

/// A region with two owners, and devices of one extent, of many, and of none.
fn sample() -> &'static Contents {
    static SAMPLE: LazyLock<Contents> = LazyLock::new(|| {
        let medium = Arc::new(Simulated::new(SIZE));
        let options =
            CreateOptions { uuid: REGION, align: Align::Page, journal_order: 1, file_offset: 0 };
        create(&medium, &options).expect("large enough");
        let region = Region::open(Arc::clone(&medium), false).expect("just made");
        for order in [0, 1, 0] {
            for owner in [OWNER, Uuid::from_u128(3)] {
                region.allocate(owner, "owner", order).expect("space");
            }
        }
        for name in ["1", "2", "3", "4", "5", "6", "7"] {
            region.create_device(&device(name, 1)).expect("space");
        }
        for name in ["1", "3", "5"] {
            region.destroy_device(name).expect("just made");
        }
        region.create_device(&device("many", 5)).expect("space");
        region.create_device(&device("none", 0)).expect("space");
        medium.snapshot()
    });
    &SAMPLE
}

/// What belongs to whom, by offset, in bytes. Nothing belongs to two, and all lies inside.
fn examine<M: PersistentMemory>(region: &Region<M>) -> Vec<(u64, u64, Uuid)> {
    let mut all = Vec::new();
    for owner in region.owners() {
        let blocks = region.pages_of(owner.uuid).expect("it is listed");
        all.extend(blocks.iter().map(|block| (block.offset, PAGE_SIZE << block.order, owner.uuid)));
    }
    for device in region.devices() {
        let found = device.extents.iter();
        all.extend(found.map(|extent| (extent.start, extent.end - extent.start, device.uuid)));
        assert_eq!(device.size, device.extents.iter().map(|one| one.end - one.start).sum::<u64>());
    }
    all.sort_unstable();
    let mut end = PAGES_OFFSET;
    for (offset, size, _) in &all {
        assert!(*offset >= end && size % PAGE_SIZE == 0, "{all:?}");
        end = offset + size;
    }
    assert!(end <= SIZE);
    all
}

/// Allocates, makes a device, and takes both back, if the region can be opened.
fn use_it(medium: &Arc<Simulated>) {
    let Ok(region) = Region::open(Arc::clone(medium), false) else { return };
    let before = examine(&region);
    if let Ok(offset) = region.allocate(OWNER, "", 1) {
        assert_eq!(medium.load_u64(offset), Ok(0));
        assert_eq!(examine(&region).len(), before.len() + 1);
        region.free(OWNER, offset, 1).expect("just allocated");
    }
    match region.create_device(&device("new", 3)) {
        Ok(()) => {
            examine(&region);
            region.destroy_device("new").expect("just made");
        }
        Err(error) => assert!(!matches!(error, Error::Media(_) | Error::Failed), "{error}"),
    }
    assert!(examine(&region) == before);
}
