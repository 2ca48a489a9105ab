//! Damage of every kind, done to the labels of NVDIMM files.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;
use vhost_user_btt::nvdimm::label::{IndexBlock, NamespaceLabel};
use vhost_user_btt::pmem::fletcher64_without_field;

const PAGE: usize = 4096;
/// Bytes of the label storage area, and of a label.
const AREA: usize = 128 << 10;
const LABEL: usize = 256;
/// Offset of the checksum in an index block, and in a label.
const INDEX_CHECKSUM: usize = 64;
const LABEL_CHECKSUM: usize = 248;

/// A file with two namespaces, `first` and `second`, and labels of version 1.2, as bytes.
#[derive(Clone)]
pub struct Labelled {
    pub bytes: Vec<u8>,
    /// The index block that counts, and the one before it.
    newer: IndexBlock,
    older: IndexBlock,
    /// The slots of the two labels.
    slots: [u32; 2],
}

impl Labelled {
    pub fn read(path: &Path) -> Labelled {
        let bytes = std::fs::read(path).unwrap();
        let area = &bytes[bytes.len() - AREA..];
        let [first, second] = [0, 1].map(|number| IndexBlock::decode(area, number).unwrap());
        let newer = IndexBlock::newer(first.clone(), second.clone());
        let older = if newer == first { second } else { first };
        let slots: Vec<u32> = newer.used_slots().collect();
        let slots = slots.try_into().expect("two namespaces");
        Labelled { bytes, newer, older, slots }
    }

    /// Writes it to `path`, as a sparse file.
    pub fn write(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.bytes.len() as u64).unwrap();
        for (page, offset) in self.bytes.chunks(PAGE).zip((0..).step_by(PAGE)) {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, offset).unwrap();
            }
        }
    }

    /// The bytes of the area from `offset` on.
    fn area(&mut self, range: Range<usize>) -> &mut [u8] {
        let start = self.bytes.len() - AREA;
        &mut self.bytes[start..][range]
    }

    fn index_bytes(&mut self, index: &IndexBlock) -> &mut [u8] {
        let start = index.offset() as usize;
        self.area(start..start + index.size as usize)
    }

    fn newer_bytes(&mut self) -> &mut [u8] {
        self.index_bytes(&self.newer.clone())
    }

    fn older_bytes(&mut self) -> &mut [u8] {
        self.index_bytes(&self.older.clone())
    }

    /// Changes the index block that counts, and makes its checksum right.
    fn change_index(&mut self, change: impl FnOnce(&mut [u8])) {
        let bytes = self.newer_bytes();
        change(bytes);
        sum(bytes, INDEX_CHECKSUM);
    }

    /// As [`change_index`](Self::change_index), and the same in the other one.
    fn change_both(&mut self, change: impl Fn(&mut [u8])) {
        self.change_index(&change);
        let bytes = self.older_bytes();
        change(bytes);
        sum(bytes, INDEX_CHECKSUM);
    }

    /// The label of the first namespace, or of the second.
    fn label(&mut self, namespace: usize) -> &mut [u8] {
        let start = self.newer.slot_offset(self.slots[namespace]) as usize;
        self.area(start..start + LABEL)
    }

    /// Changes what the label of the second namespace says.
    fn change_label(&mut self, change: impl FnOnce(&mut NamespaceLabel)) {
        let (version, slot) = (self.newer.version, self.slots[1]);
        let bytes = self.label(1);
        let mut label = NamespaceLabel::decode(bytes, version, slot).unwrap();
        change(&mut label);
        bytes.copy_from_slice(&label.encode());
    }
}

/// Makes the checksum at `field` right.
fn sum(bytes: &mut [u8], field: usize) {
    let sum = fletcher64_without_field(bytes, field);
    bytes[field..field + 8].copy_from_slice(&sum.to_le_bytes());
}

fn put(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// A kind of damage.
pub struct LabelDamage {
    pub name: &'static str,
    /// Does it.
    pub inflict: fn(&mut Labelled),
}

fn damage(name: &'static str, inflict: fn(&mut Labelled)) -> LabelDamage {
    LabelDamage { name, inflict }
}

/// All kinds of damage to labels, by what is damaged.
pub fn sections() -> [(&'static str, Vec<LabelDamage>); 3] {
    [("Index blocks", index_blocks()), ("Labels", labels()), ("File with labels", file())]
}

fn index_blocks() -> Vec<LabelDamage> {
    vec![
        damage("nothing", |_| {}),
        damage("the index block that counts, zeroed", |image| image.newer_bytes().fill(0)),
        damage("the other one, zeroed", |image| image.older_bytes().fill(0)),
        damage("wrong checksum in the one that counts", |image| image.newer_bytes()[80] ^= 1),
        damage("wrong checksum in both", |image| {
            image.newer_bytes()[80] ^= 1;
            image.older_bytes()[80] ^= 1;
        }),
        damage("the one that counts is torn: its second half is the other's", |image| {
            let older = image.older_bytes()[72..].to_vec();
            image.newer_bytes()[72..].copy_from_slice(&older);
        }),
        damage("both zeroed", |image| {
            image.newer_bytes().fill(0);
            image.older_bytes().fill(0);
        }),
        damage("both of one sequence number", |image| {
            let sequence = image.older_bytes()[20];
            image.change_index(|index| index[20] = sequence);
        }),
        damage("sequence number 0", |image| image.change_index(|index| index[20] = 0)),
        damage("sequence number 7 in both", |image| image.change_both(|index| index[20] = 7)),
        damage("myoff beyond the area", |image| {
            image.change_index(|index| put(index, 24, 1 << 40));
        }),
        damage("mysize that wraps around, in both", |image| {
            image.change_both(|index| put(index, 32, u64::MAX - 255));
        }),
        damage("mysize 0, in both", |image| image.change_both(|index| put(index, 32, 0))),
        damage("otheroff is its own", |image| {
            image.change_index(|index| index.copy_within(24..32, 40));
        }),
        damage("labeloff within the index blocks, in both", |image| {
            image.change_both(|index| put(index, 48, 256));
        }),
        damage("more slots than the area holds, in both", |image| {
            image.change_both(|index| index[56..60].fill(0xff));
        }),
        damage("labels of 32 KiB, in both", |image| image.change_both(|index| index[19] = 8)),
        damage("version 1.3, in both", |image| image.change_both(|index| index[62] = 3)),
        damage("every slot is in use", |image| image.change_index(|index| index[72..].fill(0))),
        damage("every slot is free", |image| image.change_index(|index| index[72..].fill(0xff))),
    ]
}

fn labels() -> Vec<LabelDamage> {
    vec![
        damage("torn: its first half is another's", |image| {
            let first = image.label(0)[..LABEL / 2].to_vec();
            image.label(1)[..LABEL / 2].copy_from_slice(&first);
        }),
        damage("wrong checksum", |image| image.label(1)[LABEL_CHECKSUM] ^= 1),
        damage("zeroed", |image| image.label(1).fill(0)),
        damage("says another slot", |image| image.change_label(|label| label.slot = 100)),
        damage("says a slot that does not exist", |image| {
            image.change_label(|label| label.slot = u32::MAX);
        }),
        damage("the same label in two slots", |image| {
            let first = image.label(0).to_vec();
            image.label(1).copy_from_slice(&first);
        }),
        damage("two labels of one uuid", |image| {
            let uuid = Uuid::from_bytes(*image.label(0).first_chunk().unwrap());
            image.change_label(|label| label.uuid = uuid);
        }),
        damage("two of the same bytes", |image| image.change_label(|label| label.dpa = 0)),
        damage("two that overlap by a page", |image| {
            image.change_label(|label| {
                label.dpa -= 4096;
                label.rawsize += 4096;
            });
        }),
        damage("begins within a page", |image| image.change_label(|label| label.dpa += 512)),
        damage("of no bytes", |image| image.change_label(|label| label.rawsize = 0)),
        damage("reaches into the labels", |image| {
            image.change_label(|label| label.rawsize = 40 << 20);
        }),
        damage("ends behind the end of all numbers", |image| {
            image.change_label(|label| label.rawsize = u64::MAX - 4095);
        }),
        damage("one of two of its namespace", |image| image.change_label(|label| label.nlabel = 2)),
        damage("of a use that nobody knows", |image| {
            image.change_label(|label| label.abstraction_guid = Uuid::max());
        }),
        damage("says that it is raw", |image| {
            image.change_label(|label| label.abstraction_guid = Uuid::nil());
        }),
        damage("a uuid that its BTT does not name", |image| {
            image.change_label(|label| label.uuid = Uuid::from_u128(3));
        }),
        damage("the first one's name", |image| {
            let name = image.label(0)[16..80].to_vec();
            let label = image.label(1);
            label[16..80].copy_from_slice(&name);
            sum(label, LABEL_CHECKSUM);
        }),
        damage("a name that is not UTF-8", |image| {
            let label = image.label(1);
            label[16..80].fill(0xff);
            sum(label, LABEL_CHECKSUM);
        }),
    ]
}

fn file() -> Vec<LabelDamage> {
    vec![
        damage("cut off by 4 KiB", |image| image.bytes.truncate(image.bytes.len() - PAGE)),
        damage("cut off before the labels", |image| image.bytes.truncate(image.bytes.len() - AREA)),
        damage("cut off within the second namespace", |image| image.bytes.truncate(24 << 20)),
        damage("grown by 4 KiB", |image| {
            let size = image.bytes.len() + PAGE;
            image.bytes.resize(size, 0);
        }),
        damage("grown by 1 MiB", |image| {
            let size = image.bytes.len() + (1 << 20);
            image.bytes.resize(size, 0);
        }),
        damage("the labels are noise", |image| {
            let mut random = vhost_user_btt::pmem::simulated::Random::new(1);
            for word in image.area(0..AREA).chunks_mut(8) {
                word.copy_from_slice(&random.any().to_le_bytes());
            }
        }),
    ]
}
