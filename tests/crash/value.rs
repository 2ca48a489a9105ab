//! What sectors hold: contents that say whose they are.

use std::fmt;
use std::sync::Arc;

use vhost_user_btt::pmem::simulated::Random;

/// Bytes at both ends of a sector that say which sector and which version it is.
const LABEL: usize = 16;

/// What a sector reads as.
#[derive(Clone)]
pub enum Value {
    /// These bytes, and a number that only the same bytes have.
    Bytes(u64, Arc<[u8]>),
    /// An error.
    Error,
}

impl Value {
    /// The contents of version `version` of `sector`: it says so at both ends, and no two versions of
    /// any sectors have a word between them in common but by chance.
    pub fn stamp(sector: u64, version: u64, size: usize) -> Value {
        let mut bytes = vec![0; size];
        let mut random = Random::new(sector << 32 | version);
        let (words, _) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = random.any().to_le_bytes();
        }
        let mut label = [0; LABEL];
        label[..8].copy_from_slice(&sector.to_le_bytes());
        label[8..].copy_from_slice(&version.to_le_bytes());
        bytes[..LABEL].copy_from_slice(&label);
        bytes[size - LABEL..].copy_from_slice(&label);
        Value::of(&bytes)
    }

    pub fn zeroes(size: usize) -> Value {
        Value::of(&vec![0; size])
    }

    pub fn of(bytes: &[u8]) -> Value {
        // FNV, eight bytes at a time.
        let (words, rest) = bytes.as_chunks::<8>();
        let rest = rest.iter().map(|byte| u64::from(*byte));
        let numbers = words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest);
        let hash = numbers.fold(0xcbf2_9ce4_8422_2325_u64, |hash, number| {
            (hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        });
        Value::Bytes(hash, bytes.into())
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Value::Bytes(_, bytes) => bytes,
            Value::Error => &[],
        }
    }

    /// A number that only the same value has.
    pub fn identity(&self) -> u64 {
        match self {
            Value::Bytes(hash, _) => *hash,
            Value::Error => 1,
        }
    }

    /// Sector and version of a whole stamp; zeroes are version 0 of sector 0. `None`: it is neither.
    pub fn labels(&self, size: usize) -> Option<(u64, u64)> {
        let (words, _) = self.bytes().as_chunks::<8>();
        let [sector, version, ..] = *words else { return None };
        let [sector, version] = [sector, version].map(u64::from_le_bytes);
        let is_zero = || self.bytes().iter().all(|byte| *byte == 0);
        let is_whole = *self == Value::stamp(sector, version, size);
        if is_whole || (sector, version) == (0, 0) && is_zero() {
            Some((sector, version))
        } else {
            None
        }
    }

    /// These bytes, with those from `offset` on replaced.
    pub fn replaced(&self, offset: usize, with: &[u8]) -> Value {
        let mut bytes = self.bytes().to_vec();
        bytes[offset..offset + with.len()].copy_from_slice(with);
        Value::of(&bytes)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Bytes(_, ours), Value::Bytes(_, theirs)) => ours == theirs,
            (Value::Error, Value::Error) => true,
            _ => false,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value::Bytes(hash, bytes) = self else {
            return f.write_str("an error");
        };
        let label = |bytes: &[u8]| {
            let (words, _) = bytes.as_chunks::<8>();
            let [sector, version] = [0, 1].map(|word| u64::from_le_bytes(words[word]));
            if (sector, version) == (0, 0) {
                "zeroes".to_owned()
            } else if version > 1 << 32 {
                "something else".to_owned()
            } else {
                format!("sector {sector} version {version}")
            }
        };
        let (head, tail) = (label(&bytes[..LABEL]), label(&bytes[bytes.len() - LABEL..]));
        if head == tail {
            write!(f, "{head}")?;
        } else {
            write!(f, "begins as {head}, ends as {tail}")?;
        }
        write!(f, " ({:04x})", *hash as u16)
    }
}
