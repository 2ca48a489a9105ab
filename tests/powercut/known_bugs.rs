//! Programs with known bugs, and the same without: the first are found, and nothing is found in the second.

use std::fs;

use crate::setup::{Found, Guest, Place, text};

/// Versions that a program writes.
pub const VERSIONS: u8 = 4;
/// Where the pointer is.
pub const POINTER: u64 = 8;

/// Where the data of a version are.
pub fn data_of(version: u8) -> u64 {
    100 + 8 * u64::from(version)
}

/// Writes data of eight sectors, and then a pointer to them.
fn update(guest: &mut Guest, version: u8, has_barrier: bool) {
    guest.write(data_of(version), &[version; 4096]);
    if has_barrier {
        guest.flush();
    }
    guest.write(POINTER, &[version; 512]);
}

/// The data are whole, and no version that was synced is lost.
pub const CHECK: &str = r#"
set -e
pointer=$(od -An -tu1 -j4096 -N1 "$1" | tr -d ' ')
synced=$(sed -n 's/^synced-//p' "$2" | tail -n 1)
[ "$pointer" -ge "${synced:-0}" ]
[ "$pointer" = 0 ] ||
    [ "$(dd if="$1" bs=512 skip=$((100 + 8 * pointer)) count=8 2>/dev/null | od -An -v -tu1 -w1 | sort -u | tr -d ' \n')" = "$pointer" ]
"#;

pub fn recorded(has_barrier: bool) -> Place {
    let place = Place::new();
    place.record(|guest, mark| {
        for version in 1..=VERSIONS {
            update(guest, version, has_barrier);
            guest.flush();
            mark(&format!("synced-{version}"));
        }
    });
    place
}

#[test]
fn an_update_of_two_places_without_a_barrier_is_found_with_a_reproducer_of_one_sector() {
    let place = recorded(false);
    let found = place.states(&["--model", "drop-1"], CHECK);
    found.assert_failed();
    assert!(
        found.said.contains("dropping only sector 108 (request 1, before mark synced-1)"),
        "{}",
        found.said
    );
    assert_eq!(found, place.states(&["--model", "drop-1"], CHECK), "a second run");

    // The reproducer is an image with all that was written but that sector.
    let out = place.path("bad.raw");
    let state = found.reproducer();
    let made = place.states(&["--state", &state, "--out", text(&out)], CHECK);
    assert_eq!(made.code, 1, "{made:?}");
    let mut expected = vec![0; 1 << 20];
    expected[109 * 512..116 * 512].fill(1);
    expected[4096..4608].fill(1);
    assert!(fs::read(&out).unwrap() == expected);
    // Others find it as well, and no state without reordering shows it.
    for model in ["keep-1", "drop-2", "random:1"] {
        place.states(&["--model", model], CHECK).assert_failed();
    }
    place.states(&["--model", "prefix"], CHECK).assert_clean();
    place.states(&["--model", "flush"], CHECK).assert_clean();
}

#[test]
fn the_same_with_a_barrier_is_right_in_all_states_and_fails_when_flushes_are_ignored() {
    let place = recorded(true);
    for model in ["prefix", "flush", "drop-1", "drop-2", "keep-1", "keep-2", "random:7", "torn"] {
        let found = place.states(&["--model", model, "--timeout", "300"], CHECK);
        found.assert_clean();
    }
    let control = place.states(&["--model", "ignore-flush"], CHECK);
    control.assert_failed();
}

#[test]
fn what_is_called_synced_before_it_is_flushed_is_found() {
    let place = Place::new();
    place.record(|guest, mark| {
        for version in 1..=VERSIONS {
            update(guest, version, true);
            mark(&format!("synced-{version}"));
        }
    });
    let found = place.states(&["--model", "keep-1"], CHECK);
    found.assert_failed();
    assert!(found.said.contains("synced-1"), "{}", found.said);
}

/// The checksum of cksum(1).
fn cksum(bytes: &[u8]) -> u32 {
    let mut length = bytes.len();
    let mut all = bytes.to_vec();
    while length > 0 {
        all.push((length & 0xff) as u8);
        length >>= 8;
    }
    let step = |sum: u32, byte: u8| {
        (0..8).fold(sum ^ u32::from(byte) << 24, |sum, _| {
            if sum >> 31 == 1 { sum << 1 ^ 0x04c1_1db7 } else { sum << 1 }
        })
    };
    !all.into_iter().fold(0, step)
}

/// A record: its number, the checksum in decimal, and the payload. `next` overwrites an older one.
fn write_records(guest: &mut Guest, mark: &dyn Fn(&str)) {
    for number in 1..=VERSIONS {
        let mut record = [b'a' + number; 512];
        record[..8].copy_from_slice(format!("{number:<8}").as_bytes());
        let sum = format!("{:<16}", cksum(&record[24..]));
        record[8..24].copy_from_slice(sum.as_bytes());
        guest.write(50 + u64::from(number) % 2, &record);
        guest.flush();
        mark(&format!("logged-{number}"));
    }
}

/// Takes a record for whole if its header is there.
const WITHOUT_CHECKSUM: &str = r#"
for sector in 50 51; do
    number=$(dd if="$1" bs=1 skip=$((sector * 512)) count=8 2>/dev/null | tr -d ' \0')
    [ -n "$number" ] || continue
    kinds=$(dd if="$1" bs=1 skip=$((sector * 512 + 24)) count=488 2>/dev/null | od -An -v -tu1 -w1 | sort -u | wc -l)
    [ "$kinds" = 1 ] || exit 1
done
"#;

/// Takes a record for whole if its checksum is right: then its payload has to be.
const WITH_CHECKSUM: &str = r#"
for sector in 50 51; do
    sum=$(dd if="$1" bs=1 skip=$((sector * 512 + 8)) count=16 2>/dev/null | tr -d ' \0')
    payload() { dd if="$1" bs=1 skip=$((sector * 512 + 24)) count=488 2>/dev/null; }
    [ "$(payload "$1" | cksum | cut -d' ' -f1)" = "$sum" ] || continue
    [ "$(payload "$1" | od -An -v -tu1 -w1 | sort -u | wc -l)" = 1 ] || exit 1
done
"#;

#[test]
fn a_log_without_checksums_is_found_by_torn_sectors_and_one_with_checksums_is_right() {
    let place = Place::new();
    place.record(write_records);
    let found = place.states(&["--model", "torn"], WITHOUT_CHECKSUM);
    found.assert_failed();
    assert!(found.said.contains("tearing sector 51 of request 1"), "{}", found.said);
    place.states(&["--model", "torn"], WITH_CHECKSUM).assert_clean();
    place.states(&["--model", "drop-1"], WITHOUT_CHECKSUM).assert_clean();
}

/// A page of 16 KiB is of one version.
const WHOLE_PAGE: &str = r#"
[ "$(dd if="$1" bs=16384 skip=2 count=1 2>/dev/null | od -An -v -tu1 -w1 | sort -u | wc -l)" = 1 ]
"#;

#[test]
fn a_page_that_is_overwritten_in_place_is_whole_on_a_disk_with_atomic_requests_of_its_size() {
    let place = Place::new();
    place.record(|guest, _| {
        for version in 1..=VERSIONS {
            guest.write(64, &[version; 16384]);
            guest.flush();
        }
    });
    place.states(&["--model", "atomic:16384"], WHOLE_PAGE).assert_clean();
    for model in ["atomic:8192", "request-torn", "drop-1"] {
        place.states(&["--model", model], WHOLE_PAGE).assert_failed();
    }
}

#[test]
fn shards_are_parts_of_all_and_a_budget_is_kept() {
    let place = recorded(false);
    let checked = |arguments: &[&str]| place.states(arguments, "true").checked();
    let all = checked(&[]);
    let shards: usize =
        ["1/3", "2/3", "3/3"].map(|shard| checked(&["--shard", shard])).iter().sum();
    assert_eq!(shards, all);
    assert_eq!(checked(&["--budget", "10"]), 10);
    assert_eq!(checked(&["--model", "drop-2", "--budget", "10"]), 10);
    let some = checked(&["--from", "synced-2", "--to", "synced-3"]);
    assert!(some > 0 && some < all, "{some} of {all}");

    let out = place.path("out.xml");
    let found: Found = place.states(&["--junit", text(&out)], CHECK);
    let report = fs::read_to_string(out).unwrap();
    assert_eq!(report.matches("<testcase ").count(), found.checked());
    assert_eq!(report.matches("<failure ").count(), found.said.matches("FAILED").count());
}

#[test]
fn a_budget_of_pairs_is_drawn_out_of_millions_without_a_look_at_all() {
    let place = Place::new();
    place.record(|guest, _| (0..300).for_each(|number| guest.write(number * 4, &[1; 1024])));
    // At the last entry alone there are 180000 pairs of sectors, and 20 million at all.
    let found = place.states(&["--model", "drop-2", "--budget", "30"], "true");
    found.assert_clean();
    assert_eq!(found.checked(), 30);
}
