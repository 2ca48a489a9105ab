//! Unusable labels, whose namespaces are therefore missing.
//!
//! A bad label costs its own namespace only. Linux ignores labels that are invalid by themselves
//! (`slot_valid`). If labels overlap (`nd_label_reserve_dpa`) or have the same uuid (`has_uuid_at_pos`),
//! Linux rejects all labels of the NVDIMM. Here only the labels that contradict each other are ignored,
//! because it is not known which of them is right.

use std::collections::HashMap;
use std::ops::Range;

use uuid::Uuid;

use super::label::{LabelArea, LabelFault, NamespaceLabel};

/// A label that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostLabel {
    /// Its slot.
    pub slot: u32,
    /// Why it does not count.
    pub fault: LabelFault,
    /// What it says, which need not be so.
    pub label: NamespaceLabel,
    /// It is whole in itself: the bytes that it names are not free. Otherwise the location of its
    /// namespace is unknown.
    pub is_whole: bool,
}

impl LostLabel {
    /// The bytes that it lays claim to, if that can be believed.
    #[must_use]
    pub fn range(&self) -> Option<Range<u64>> {
        self.is_whole.then(|| range(&self.label))
    }
}

/// The labels of a file, those that count apart from the others.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// By address; none overlaps another.
    pub usable: Vec<NamespaceLabel>,
    /// By slot.
    pub lost: Vec<LostLabel>,
}

/// Sorts the labels of an NVDIMM whose namespaces have the first `data_size` bytes.
pub(super) fn sort(area: &LabelArea, data_size: u64) -> Sorted {
    let (mut whole, mut lost) = (Vec::new(), Vec::new());
    for (slot, label) in area.labels() {
        match label.and_then(|label| check_range(label, data_size)) {
            Ok(label) => whole.push(label),
            Err(fault) => {
                let label = area.as_it_seems(slot);
                lost.push(LostLabel { slot, fault, label, is_whole: false });
            }
        }
    }
    whole.sort_by_key(|label| label.dpa);
    let faults = contradictions(&whole);
    let mut usable = Vec::new();
    for (label, fault) in whole.into_iter().zip(faults) {
        match fault {
            None => usable.push(label),
            Some(fault) => {
                lost.push(LostLabel { slot: label.slot, fault, label, is_whole: true });
            }
        }
    }
    lost.sort_by_key(|lost| lost.slot);
    Sorted { usable, lost }
}

fn check_range(label: NamespaceLabel, data_size: u64) -> Result<NamespaceLabel, LabelFault> {
    let (dpa, rawsize) = (label.dpa, label.rawsize);
    match dpa.checked_add(rawsize) {
        Some(end) if end <= data_size && rawsize > 0 => Ok(label),
        _ => Err(LabelFault::Range { dpa, rawsize }),
    }
}

/// What is wrong with each of `labels`, which are ordered by address, in view of the others.
fn contradictions(labels: &[NamespaceLabel]) -> Vec<Option<LabelFault>> {
    let mut faults = vec![None; labels.len()];
    let mut longest = 0;
    for (index, label) in labels.iter().enumerate().skip(1) {
        // Whatever overlaps anything before it overlaps what reaches farthest of that.
        if label.dpa < range(&labels[longest]).end {
            faults[index] = Some(LabelFault::Overlap { other: labels[longest].uuid });
            faults[longest].get_or_insert(LabelFault::Overlap { other: label.uuid });
        }
        if range(label).end > range(&labels[longest]).end {
            longest = index;
        }
    }
    let mut counts: HashMap<Uuid, u16> = HashMap::new();
    for label in labels {
        let count = counts.entry(label.uuid).or_default();
        *count = count.saturating_add(1);
    }
    for (label, fault) in labels.iter().zip(&mut faults) {
        let labels = label.nlabel.max(counts[&label.uuid]);
        if labels > 1 {
            *fault = Some(LabelFault::Interleaved { labels });
        }
    }
    faults
}

/// The bytes of a label that was checked to lie in the data area.
fn range(label: &NamespaceLabel) -> Range<u64> {
    label.dpa..label.dpa + label.rawsize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nvdimm::label::{LabelName, LabelVersion};

    fn label(uuid: u128, range: Range<u64>) -> NamespaceLabel {
        NamespaceLabel {
            version: LabelVersion::V1_2,
            uuid: Uuid::from_u128(uuid),
            name: LabelName::NONE,
            flags: 0,
            nlabel: 1,
            position: 0,
            isetcookie: 0,
            lbasize: 512,
            dpa: range.start,
            rawsize: range.end - range.start,
            slot: 0,
            align: 0,
            type_guid: Uuid::nil(),
            abstraction_guid: Uuid::nil(),
        }
    }

    #[test]
    fn labels_of_one_uuid_and_interleaved_ones_do_not_count() {
        let mut labels = [label(1, 0..1), label(2, 1..2), label(1, 2..3), label(3, 3..4)];
        labels[3].nlabel = 4;
        let faults = contradictions(&labels);
        let interleaved = |labels| Some(LabelFault::Interleaved { labels });
        assert_eq!(faults, [interleaved(2), None, interleaved(2), interleaved(4)]);
    }

    proptest! {
        #[test]
        fn those_that_overlap_do_not_count_and_all_others_do(
            ranges in prop::collection::vec((0..100u64, 1..30u64), 0..12),
        ) {
            let mut labels: Vec<NamespaceLabel> = ranges
                .iter()
                .zip(1..)
                .map(|((start, length), uuid)| label(uuid, *start..start + length))
                .collect();
            labels.sort_by_key(|label| label.dpa);
            let faults = contradictions(&labels);
            for (one, fault) in labels.iter().zip(faults) {
                let overlaps = labels.iter().any(|other| {
                    let (one_range, range) = (range(one), range(other));
                    other.uuid != one.uuid && one_range.start < range.end && range.start < one_range.end
                });
                prop_assert_eq!(fault.is_some(), overlaps);
            }
        }
    }
}
