//! Numbers of bytes in messages, as options take them.

/// A number of bytes as an option takes it: exact, with the largest suffix that leaves no rest.
#[must_use]
pub(crate) fn amount(bytes: u64) -> String {
    let units = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];
    let fitting =
        units.into_iter().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match fitting {
        Some((letter, shift)) => format!("{}{letter}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (bytes, text) in
            [(0, "0"), (1, "1"), (1024, "1K"), (1536, "1536"), (96 << 20, "96M"), (1 << 42, "4T")]
        {
            assert_eq!(amount(bytes), text);
        }
    }
}
