//! Parsing and printing sizes with units.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, as it is written in ndctl (`256M`, powers of 1024), or with the units of IEC 80000-13:
/// `1.5 GiB` and `256Mi` are powers of 1024, `10GB` is 10 · 1000³.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a suffix.
    #[error(
        "not a size; write bytes, or a number with K, M, G, T, P or E (also Ki or KiB, 1024 each; kB is 1000)"
    )]
    Malformed,
    /// Not a whole number of bytes.
    #[error("not a whole number of bytes")]
    Fraction,
    /// More than 2⁶³ bytes.
    #[error("more than a file can have")]
    TooLarge,
}

/// Letters of units, each 1024 times (or in `kB`, `MB` and so on 1000 times) the one before it.
const UNITS: [(char, u32); 6] = [('K', 1), ('M', 2), ('G', 3), ('T', 4), ('P', 5), ('E', 6)];

/// Decimals that are read.
const MOST_DECIMALS: usize = 12;

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let unit = unit_of(suffix.trim_start()).ok_or(SizeError::Malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let malformed = |_| SizeError::Malformed;
        let whole: u64 = whole.parse().map_err(malformed)?;
        let mut bytes = u128::from(whole) * unit;
        if !fraction.is_empty() {
            if fraction.len() > MOST_DECIMALS {
                return Err(SizeError::Malformed);
            }
            let scale = 10u128.pow(fraction.len() as u32);
            let part = u128::from(fraction.parse::<u64>().map_err(malformed)?) * unit;
            if part % scale != 0 {
                return Err(SizeError::Fraction);
            }
            bytes += part / scale;
        }
        match i64::try_from(bytes) {
            Ok(bytes) => Ok(Size(bytes.cast_unsigned())),
            Err(_) => Err(SizeError::TooLarge),
        }
    }
}

/// Returns the number of bytes that a suffix stands for; `None` if it is none.
fn unit_of(suffix: &str) -> Option<u128> {
    let mut letters = suffix.chars();
    let Some(first) = letters.next() else {
        return Some(1);
    };
    if suffix.eq_ignore_ascii_case("B") {
        return Some(1);
    }
    let (_, power) = UNITS.into_iter().find(|(unit, _)| first.eq_ignore_ascii_case(unit))?;
    match letters.as_str().to_ascii_lowercase().as_str() {
        "" | "i" | "ib" => Some(1 << (10 * power)),
        "b" => Some(1000_u128.pow(power)),
        _ => None,
    }
}

impl fmt::Display for Size {
    /// In the largest unit of which there is at least one, with up to two decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = UNITS.map(|(letter, power)| (letter, 10 * power));
        let unit = units.into_iter().rev().find(|(_, shift)| self.0 >> shift > 0);
        let Some((letter, shift)) = unit else {
            return write!(f, "{} B", self.0);
        };
        let hundredths = (u128::from(self.0) * 100) >> shift;
        let (whole, fraction) = (hundredths / 100, hundredths % 100);
        match (fraction, fraction % 10) {
            (0, _) => write!(f, "{whole} {letter}iB"),
            (_, 0) => write!(f, "{whole}.{} {letter}iB", fraction / 10),
            _ => write!(f, "{whole}.{fraction:02} {letter}iB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64B", 64),
            ("128K", 128 << 10),
            ("128 KiB", 128 << 10),
            ("256m", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("1.1T", 1_209_462_790_553),
            ("2GB", 2_000_000_000),
            ("1 kB", 1000),
            ("3Ti", 3 << 40),
            ("1P", 1 << 50),
            ("2PiB", 2 << 50),
            ("1.5MB", 1_500_000),
        ] {
            let parsed = text.parse();
            if text == "1.1T" {
                assert_eq!(parsed, Err(SizeError::Fraction), "{text}");
            } else {
                assert_eq!(parsed, Ok(Size(bytes)), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "K", "-1", "1X", "1KiBi", "1Bi", "1iB", "1.2.3M", "1e3", "0x10", "."] {
            assert_eq!(text.parse::<Size>(), Err(SizeError::Malformed), "{text:?}");
        }
        assert_eq!("1.5".parse::<Size>(), Err(SizeError::Fraction));
        for text in ["9223372036854775808", "8388608T", "99999999999999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (67_104_768, "63.99 MiB"),
            (256 << 20, "256 MiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 40) + (1 << 38), "1.25 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    /// Units as they may be written, and what they stand for.
    const SUFFIXES: [(&str, u64); 13] = [
        ("", 1),
        ("B", 1),
        ("k", 1 << 10),
        ("KiB", 1 << 10),
        ("kB", 1000),
        (" M", 1 << 20),
        ("mib", 1 << 20),
        ("G", 1 << 30),
        (" gb", 1_000_000_000),
        ("T", 1 << 40),
        ("Ti", 1 << 40),
        ("TiB", 1 << 40),
        ("P", 1 << 50),
    ];

    proptest! {
        #[test]
        fn a_number_with_a_unit_is_so_many_bytes(
            number in prop_oneof![any::<u64>(), 0..1u64 << 24],
            (suffix, unit) in prop::sample::select(SUFFIXES.to_vec()),
        ) {
            let expected = number
                .checked_mul(unit)
                .filter(|bytes| i64::try_from(*bytes).is_ok())
                .map(Size)
                .ok_or(SizeError::TooLarge);
            prop_assert_eq!(format!("{number}{suffix}").parse::<Size>(), expected);
        }

        /// Decimals, in arithmetic that cannot overflow.
        #[test]
        fn decimals_have_to_be_whole_bytes(
            (whole, decimals) in (0..5000u64, 0..1_000_000_000_000u64),
            digits in 1..=MOST_DECIMALS,
            (suffix, unit) in prop::sample::select(SUFFIXES.to_vec()),
        ) {
            let decimals = decimals % 10u64.pow(digits as u32);
            let scale = 10u128.pow(digits as u32);
            let scaled = (u128::from(whole) * scale + u128::from(decimals)) * u128::from(unit);
            let expected = if !scaled.is_multiple_of(scale) {
                Err(SizeError::Fraction)
            } else if let Ok(bytes) = i64::try_from(scaled / scale) {
                Ok(Size(bytes.cast_unsigned()))
            } else {
                Err(SizeError::TooLarge)
            };
            prop_assert_eq!(format!("{whole}.{decimals:0digits$}{suffix}").parse::<Size>(), expected);
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,40}") {
            if let Ok(Size(bytes)) = text.parse::<Size>() {
                prop_assert!(i64::try_from(bytes).is_ok());
            }
        }

        /// What is shown is cut off after two decimals, and never more than there is.
        #[test]
        fn what_is_shown_is_nearly_what_there_is(bytes in 0..u64::MAX >> 1) {
            let shown = Size(bytes).to_string();
            let (number, unit) = shown.split_once(' ').unwrap();
            let unit = unit_of(unit).unwrap();
            let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
            prop_assert!(decimals.len() <= 2 && (decimals.is_empty() || !decimals.ends_with('0')));
            let hundredths: u128 = format!("{whole}{decimals:0<2}").parse().unwrap();
            let exact = u128::from(bytes) * 100 / unit;
            prop_assert_eq!(hundredths, exact);
            prop_assert!(exact >= 100 || bytes < 1024);
        }
    }
}
