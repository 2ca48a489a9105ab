//! Label storage areas of any contents: what is read of them, the namespaces of a file that ends with
//! one, and changes.

#![no_main]

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vhost_user_btt::nvdimm::label::{
    IndexBlock, LabelArea, LabelVersion, LabelWriter, Layout, NamespaceLabel, find,
};
use vhost_user_btt::nvdimm::{ClaimKind, LabelSize, NvdimmFile};
use vhost_user_btt::pmem::fletcher64_without_field;
use vhost_user_btt::pmem::simulated::Simulated;
use vhost_user_btt_fuzz::Word;

/// Bytes of an index block before its bitmap.
const HEADER: usize = 72;
/// Offset of the checksum in an index block, and in a label of version 1.2.
const INDEX_CHECKSUM: usize = 64;
const LABEL_CHECKSUM: usize = 248;

#[derive(Debug, Arbitrary)]
struct Input {
    /// Pages of the area, beside some.
    pages: u8,
    old: bool,
    sequences: [u8; 2],
    labels: Vec<Label>,
    /// Words that are replaced: in the first index block, the second, a label, or anywhere.
    words: Vec<(u8, u16, Word)>,
    /// Whose sums are made right in the end.
    repair: [bool; 2],
    repair_labels: bool,
    /// Where the area is looked for.
    size: Option<u32>,
    changes: Vec<Change>,
}

/// A change of the labels; slots are reduced to a few more than there are.
#[derive(Debug, Arbitrary)]
enum Change {
    Create(Label),
    Update(u16, Label),
    Delete(Vec<u16>),
    Clear,
}

/// A label, and the slot that it stands in.
#[derive(Debug, Arbitrary)]
struct Label {
    slot: u16,
    says: Option<u16>,
    uuid: u8,
    page: u16,
    pages: u16,
    nlabel: u8,
    flags: u8,
    name: [u8; 8],
}

fuzz_target!(|input: Input| {
    let area = input.area();
    examine(&area);
    input.change(&area);
    let size = input.size.map_or(area.len() as u64, |size| u64::from(size) % (2 << 20));
    open(&area, LabelSize::Bytes(size));
    open(&area, LabelSize::Detect);
});

impl Input {
    fn version(&self) -> LabelVersion {
        if self.old { LabelVersion::V1_1 } else { LabelVersion::V1_2 }
    }

    fn area(&self) -> Vec<u8> {
        // Large enough to be looked for, or too small.
        let size = 4096 * (u64::from(self.pages % 12) + 24);
        let label_size = self.version().label_size() as usize;
        let layout = Layout::of(size, self.version()).expect("room for two labels and more");
        let (index_size, slots) = (layout.index_size as usize, u64::from(layout.nslot));
        let mut area = vec![0; size as usize];
        for (number, sequence) in self.sequences.iter().enumerate() {
            let index = self.index(number * index_size, index_size, slots as u32, *sequence);
            area[number * index_size..][..index_size].copy_from_slice(&index);
        }
        for label in &self.labels {
            let slot = u64::from(label.slot) % slots;
            let start = 2 * index_size + slot as usize * label_size;
            area[start..start + label_size].copy_from_slice(&label.encode(slot)[..label_size]);
            for index in [0, index_size] {
                area[index + HEADER + slot as usize / 8] &= !(1 << (slot % 8));
            }
        }
        for (kind, place, word) in self.words.iter().take(32) {
            let place = match kind % 4 {
                0 => usize::from(*place) % HEADER,
                1 => index_size + usize::from(*place) % HEADER,
                2 => 2 * index_size + usize::from(*place),
                _ => usize::from(*place) * 2,
            };
            replace(&mut area, place / 4 * 4, *word);
        }
        self.repair(&mut area, index_size, label_size);
        area
    }

    /// Changes the labels: each change is what it says and nothing else, or nothing at all.
    fn change(&self, area: &[u8]) {
        let medium = Simulated::with_contents(area);
        let size = area.len() as u64;
        let Ok(mut writer) = LabelWriter::open(&medium, size) else { return };
        for change in self.changes.iter().take(8) {
            let before = labels(writer.area());
            let slots = writer.area().index.nslot.saturating_add(3);
            let slot = |slot: u16| u32::from(slot) % slots;
            let mut expected = before.clone();
            let changed = match change {
                Change::Create(label) => {
                    let label = label.decode(self.version());
                    writer.create(&label).map(|slot| {
                        assert!(
                            expected.insert(slot, Some(NamespaceLabel { slot, ..label })).is_none()
                        );
                    })
                }
                Change::Update(old, label) => {
                    let (old, label) = (slot(*old), label.decode(self.version()));
                    writer.update(old, &label).map(|slot| {
                        assert!(expected.remove(&old).is_some());
                        assert!(
                            expected.insert(slot, Some(NamespaceLabel { slot, ..label })).is_none()
                        );
                    })
                }
                Change::Delete(gone) => {
                    let gone: Vec<u32> = gone.iter().map(|gone| slot(*gone)).collect();
                    writer.delete(&gone).map(|()| expected.retain(|slot, _| !gone.contains(slot)))
                }
                Change::Clear => writer.clear().map(|()| expected.clear()),
            };
            if changed.is_err() {
                expected = before;
            }
            let read = LabelArea::read(&medium, size).expect("nothing is poisoned");
            let read = read.expect("there were valid labels before");
            assert!(labels(&read) == expected, "{change:?}: {changed:?}");
            assert_eq!(read.index, writer.area().index);
        }
    }

    fn index(&self, myoff: usize, size: usize, slots: u32, sequence: u8) -> Vec<u8> {
        let mut index = vec![0xff; size];
        index[..HEADER].fill(0);
        index[..16].copy_from_slice(b"NAMESPACE_INDEX\0");
        index[19] = u8::from(!self.old);
        index[20..24].copy_from_slice(&u32::from(sequence % 5).to_le_bytes());
        for (place, value) in [(24, myoff), (32, size), (40, size - myoff), (48, 2 * size)] {
            index[place..place + 8].copy_from_slice(&(value as u64).to_le_bytes());
        }
        index[56..60].copy_from_slice(&slots.to_le_bytes());
        index[60] = 1;
        index[62] = if self.old { 1 } else { 2 };
        index
    }

    /// Makes sums right: of index blocks as long as they say, of labels where they stand.
    fn repair(&self, area: &mut [u8], index_size: usize, label_size: usize) {
        if self.repair_labels && !self.old {
            area[2 * index_size..].chunks_exact_mut(label_size).for_each(|label| {
                sum(label, LABEL_CHECKSUM);
            });
        }
        for (number, repair) in self.repair.into_iter().enumerate() {
            let start = number * index_size;
            let stated = u64::from_le_bytes(*area[start + 32..].first_chunk().expect("8 bytes"));
            let end = usize::try_from(stated).ok().and_then(|size| start.checked_add(size));
            if let (true, Some(index)) = (repair, end.and_then(|end| area.get_mut(start..end)))
                && index.len() >= HEADER
            {
                sum(index, INDEX_CHECKSUM);
            }
        }
    }
}

impl Label {
    fn encode(&self, slot: u64) -> [u8; 256] {
        let mut bytes = [0; 256];
        bytes[0] = self.uuid;
        bytes[16..24].copy_from_slice(&self.name);
        bytes[80] = self.flags;
        bytes[84] = self.nlabel;
        bytes[104..112].copy_from_slice(&(u64::from(self.page) << 12).to_le_bytes());
        bytes[112..120].copy_from_slice(&(u64::from(self.pages) << 12).to_le_bytes());
        let slot = self.says.map_or(slot as u32, u32::from);
        bytes[120..124].copy_from_slice(&slot.to_le_bytes());
        bytes
    }

    /// As a label that is to be written.
    fn decode(&self, version: LabelVersion) -> NamespaceLabel {
        let slot = self.says.map_or(0, u32::from);
        let mut bytes = self.encode(0);
        sum(&mut bytes, LABEL_CHECKSUM);
        let bytes = &bytes[..version.label_size() as usize];
        NamespaceLabel::decode(bytes, version, slot).expect("it was just put together")
    }
}

/// What is in each slot that holds something; nothing where it cannot be used.
fn labels(area: &LabelArea) -> BTreeMap<u32, Option<NamespaceLabel>> {
    area.labels().map(|(slot, label)| (slot, label.ok())).collect()
}

/// Makes the sum at `field` of all `bytes` right.
fn sum(bytes: &mut [u8], field: usize) {
    let sum = fletcher64_without_field(bytes, field);
    bytes[field..field + 8].copy_from_slice(&sum.to_le_bytes());
}

fn replace(area: &mut [u8], place: usize, word: Word) {
    let load = |area: &[u8], place: usize| {
        area.get(place..)
            .and_then(|bytes| bytes.first_chunk())
            .map(|word| u32::from_le_bytes(*word))
    };
    let Some(old) = load(area, place) else { return };
    let other = |distance: i8| {
        load(area, place.saturating_add_signed(4 * isize::from(distance))).unwrap_or(old)
    };
    let word = word.apply(old, other);
    area[place..place + 4].copy_from_slice(&word.to_le_bytes());
}

/// Decodes an area: no index block or label says of itself what is not so.
fn examine(area: &[u8]) {
    for number in 0..2 {
        let Ok(index) = IndexBlock::decode(area, number) else { continue };
        assert!(index.used_slots().all(|slot| slot < index.nslot));
        assert!(index.slot_offset(index.nslot) <= area.len() as u64);
        // All of the header means something, but for the flags and the sum.
        let start = index.offset() as usize;
        let found = &area[start..start + index.size as usize];
        let encoded = index.encode();
        assert!(
            encoded[..16] == found[..16]
                && encoded[19..INDEX_CHECKSUM] == found[19..INDEX_CHECKSUM]
        );
        assert!(encoded[HEADER..] == found[HEADER..]);
    }
    let medium = Simulated::with_contents(area);
    let _ = find(&medium).expect("nothing is poisoned");
    let read = LabelArea::read(&medium, area.len() as u64).expect("nothing is poisoned");
    for (slot, label) in read.iter().flat_map(LabelArea::labels) {
        assert!(label.is_err() || label.is_ok_and(|label| label.slot == slot));
    }
}

/// Opens a file of 1 MiB that ends with the area: its namespaces lie inside, and apart.
fn open(area: &[u8], label_size: LabelSize) {
    static FILE: LazyLock<std::fs::File> = LazyLock::new(|| {
        log::set_max_level(log::LevelFilter::Off);
        let folder = Path::new("/dev/shm");
        let file =
            if folder.is_dir() { tempfile::tempfile_in(folder) } else { tempfile::tempfile() };
        let file = file.expect("room for a temporary file");
        file.set_len(1 << 20).expect("room for a temporary file");
        file
    });
    FILE.write_all_at(&vec![0; 1 << 18], (1 << 20) - (1 << 18)).expect("room for the file");
    FILE.write_all_at(area, (1 << 20) - area.len() as u64).expect("room for the file");
    let path = format!("/proc/self/fd/{}", FILE.as_raw_fd());
    let Ok(file) = NvdimmFile::open(Path::new(&path), ClaimKind::Shared, label_size) else {
        return;
    };
    let mut end = 0;
    for namespace in file.namespaces() {
        assert!(end <= namespace.range.start && namespace.range.start < namespace.range.end);
        end = namespace.range.end;
    }
    assert!(end <= file.size() - file.labels().map_or(0, |labels| labels.size));
}
