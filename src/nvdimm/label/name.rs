//! The name in a namespace's label.

use std::fmt;

use uuid::Uuid;

/// Bytes of the field (the kernel's `NSLABEL_NAME_LEN`).
const SIZE: usize = 64;

/// The name field of a label: up to 63 bytes of text, filled up with NULs. As it is on the medium,
/// whatever another system has put there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LabelName([u8; SIZE]);

/// Why a text cannot be the name of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// More than 63 bytes.
    #[error("a name has up to 63 bytes, not {0}")]
    TooLong(usize),
    /// White space around it, which Linux would cut off, or a control character.
    #[error("a name has no control characters, and no white space before or after it")]
    Characters,
    /// It could be taken for another way to name a namespace.
    #[error("a name must not look like a uuid, or like a device name (namespace0.0)")]
    Misleading,
}

impl LabelName {
    /// No name.
    pub const NONE: LabelName = LabelName([0; SIZE]);

    /// The name `text`; the empty text is no name.
    pub fn new(text: &str) -> Result<LabelName, NameFault> {
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(NameFault::Characters);
        }
        if text.starts_with("namespace0.") || Uuid::try_parse(text).is_ok() {
            return Err(NameFault::Misleading);
        }
        let mut bytes = [0; SIZE];
        match bytes[..SIZE - 1].get_mut(..text.len()) {
            Some(place) => place.copy_from_slice(text.as_bytes()),
            None => return Err(NameFault::TooLong(text.len())),
        }
        Ok(LabelName(bytes))
    }

    pub(super) fn from_bytes(bytes: [u8; SIZE]) -> LabelName {
        LabelName(bytes)
    }

    pub(super) fn bytes(&self) -> [u8; SIZE] {
        self.0
    }
}

impl fmt::Display for LabelName {
    /// The text up to the first NUL, with U+FFFD for what is not UTF-8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(SIZE);
        f.write_str(&String::from_utf8_lossy(&self.0[..end]))
    }
}

impl fmt::Debug for LabelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_text() {
        let longest = "x".repeat(63);
        for name in ["", "a", "my disk", "Größe", &longest] {
            assert_eq!(LabelName::new(name).map(|name| name.to_string()), Ok(name.to_string()));
        }
        assert_eq!(LabelName::new(""), Ok(LabelName::NONE));
        assert_eq!(LabelName::new(&"x".repeat(64)), Err(NameFault::TooLong(64)));
        for name in [" a", "a ", "a\nb", "\t", "a\0b"] {
            assert_eq!(LabelName::new(name), Err(NameFault::Characters), "{name:?}");
        }
        for name in ["namespace0.0", "namespace0.12", "91bc6a2e-7e79-4e0e-8d7c-64d9a1a5b3f1"] {
            assert_eq!(LabelName::new(name), Err(NameFault::Misleading), "{name:?}");
        }
    }
}
