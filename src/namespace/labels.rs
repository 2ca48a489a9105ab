//! Which BTT a label says that its namespace holds.

use crate::btt::Version;
use crate::nvdimm::label::LabelVersion;
use crate::nvdimm::{Abstraction, Namespace};

/// Labels of which version say, by which abstraction, that the namespace holds a BTT of which version; as
/// Linux looks for it and ndctl writes it. The first row of a label version is what is made by default.
const TABLE: [(LabelVersion, Abstraction, Version); 3] = [
    (LabelVersion::V1_2, Abstraction::Btt2, Version::V2_0),
    (LabelVersion::V1_2, Abstraction::Btt, Version::V1_1),
    // These labels have no abstraction.
    (LabelVersion::V1_1, Abstraction::Unstated, Version::V1_1),
];

/// Returns the version of the BTT that is made in a namespace with a label of this version, where none was
/// asked for.
pub(super) fn default_version(label: LabelVersion) -> Version {
    let row = TABLE.iter().find(|(version, ..)| *version == label);
    row.map_or(Version::V1_1, |(.., btt)| *btt)
}

/// Returns the abstraction by which a label says that its namespace holds a BTT of version `btt`; `None` if
/// Linux finds no such BTT by a label of this version.
pub(super) fn abstraction(label: LabelVersion, btt: Version) -> Option<Abstraction> {
    let row = TABLE.iter().find(|(version, _, of)| (*version, *of) == (label, btt));
    row.map(|(_, abstraction, _)| *abstraction)
}

/// Returns the version that a BTT in `namespace` has to have: by the namespace's label, or as `requested`
/// where that does not say; `None`: either.
#[must_use]
pub fn expected_version(namespace: &Namespace, requested: Option<Version>) -> Option<Version> {
    let states =
        |abstraction| namespace.abstraction == abstraction && abstraction != Abstraction::Unstated;
    let row = TABLE.into_iter().find(|(_, abstraction, _)| states(*abstraction));
    row.map(|(.., btt)| btt).or(requested)
}
