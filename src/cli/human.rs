//! JSON with sizes for people, as `ndctl list --human` prints them.

use serde_json::Value;

/// Names whose values are numbers of bytes.
const SIZES: [&str; 6] =
    ["size", "raw_size", "available_size", "max_available_extent", "free_size", "align"];
/// Names whose values are places in a file.
const PLACES: [&str; 2] = ["start", "end"];
/// Letters of the units, each 1024 (or 1000) times the one before it.
const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Replaces every number of bytes by a text: sizes as `64.00 MiB (67.11 MB)`, places as `0x4000`.
pub(super) fn humanize(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(humanize),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_u64() {
                    Some(bytes) if PLACES.contains(&name.as_str()) => {
                        *value = format!("{bytes:#x}").into();
                    }
                    Some(bytes) if SIZES.contains(&name.as_str()) => *value = size(bytes).into(),
                    _ => humanize(value),
                }
            }
        }
        _ => {}
    }
}

/// Returns a size in the largest binary unit of which there is at least one, and in the decimal one.
fn size(bytes: u64) -> String {
    let largest = (1..).zip(UNITS).take_while(|(power, _)| bytes >> (10 * power) > 0).last();
    let Some((power, unit)) = largest else { return bytes.to_string() };
    let binary = hundredths(bytes, 1 << (10 * power));
    let decimal = hundredths(bytes, 1000_u128.pow(power));
    format!("{binary} {unit}iB ({decimal} {unit}B)")
}

/// Returns a number in terms of `unit`, rounded to two decimals.
fn hundredths(bytes: u64, unit: u128) -> String {
    let hundredths = (u128::from(bytes) * 100 + unit / 2) / unit;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_ndctl_shows_them() {
        assert_eq!(size(512), "512");
        assert_eq!(size(64 << 20), "64.00 MiB (67.11 MB)");
        assert_eq!(size((3 << 30) + (1 << 29)), "3.50 GiB (3.76 GB)");
        assert_eq!(size(u64::MAX), "16.00 EiB (18.45 EB)");
    }

    #[test]
    fn numbers_that_are_no_sizes_stay() {
        let mut value = serde_json::json!([{ "size": 2048, "start": 4096, "sector_size": 512 }]);
        humanize(&mut value);
        let shown = serde_json::json!(
            [{ "size": "2.00 KiB (2.05 KB)", "start": "0x1000", "sector_size": 512 }]
        );
        assert_eq!(value, shown);
    }
}
