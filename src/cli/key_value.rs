//! Option values of the form `KEY=VALUE,KEY,...`, as QEMU has them.

use super::size::SizeError;
use crate::vhost_user::{MOST_QUEUES, SocketSource};

/// Why a text is no such value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyValueError {
    #[error("{key:?} is none of {known}")]
    UnknownKey { key: String, known: String },
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("{0} needs a value: {0}=VALUE")]
    NoValue(&'static str),
    #[error("{key}={value}: {reason}")]
    // clap shows this message alone, so it has the reason in it, which is no source.
    BadValue { key: &'static str, value: String, reason: ValueError },
    #[error("{0} and {1} exclude each other")]
    Both(&'static str, &'static str),
    #[error("say which {what} it is: {key}=NAME")]
    Missing { key: &'static str, what: &'static str },
}

/// Why a value is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ValueError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("not a number")]
    Number,
    #[error("not a number from 1 to {MOST_QUEUES}")]
    Queues,
    #[error("none of 512, 4096, 8192, 16384 and 32768")]
    LogicalBlockSize,
    #[error("not a descriptor")]
    Descriptor,
    #[error("not 1 to 20 printable ASCII characters")]
    Serial,
    #[error("neither on nor off")]
    Switch,
    #[error("a size and the milliseconds of its refill_time belong together")]
    RefillTime,
}

/// The values of the keys `known` in `text`, in that order. Empty: the key stands alone.
pub(super) fn values<const N: usize>(
    text: &str,
    known: &[&'static str; N],
) -> Result<[Option<String>; N], KeyValueError> {
    let mut values = [const { None }; N];
    for part in split(text) {
        let (key, value) = part.split_once('=').unwrap_or((&part, ""));
        let Some(index) = known.iter().position(|known| *known == key) else {
            let (key, known) = (key.to_owned(), known.join(", "));
            return Err(KeyValueError::UnknownKey { key, known });
        };
        if values[index].replace(value.to_owned()).is_some() {
            return Err(KeyValueError::Twice(known[index]));
        }
    }
    Ok(values)
}

/// The parts between commas; two commas stand for one inside a part, as in QEMU.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let is_end = character == ',' && characters.next_if_eq(&',').is_none();
        match parts.last_mut() {
            Some(part) if !is_end => part.push(character),
            _ => parts.push(String::new()),
        }
    }
    parts
}

/// The value of a key that cannot do without.
pub(super) fn given(
    key: &'static str,
    value: Option<String>,
) -> Result<Option<String>, KeyValueError> {
    if value.as_deref() == Some("") { Err(KeyValueError::NoValue(key)) } else { Ok(value) }
}

/// The value of a key that cannot do without, parsed.
pub(super) fn parsed<T>(
    key: &'static str,
    value: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, ValueError>,
) -> Result<Option<T>, KeyValueError> {
    let Some(value) = given(key, value)? else { return Ok(None) };
    match parse(&value) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(reason) => Err(KeyValueError::BadValue { key, value, reason }),
    }
}

/// The value of a key that is as good as `on` where it stands alone.
pub(super) fn switch(key: &'static str, value: Option<&str>) -> Result<bool, KeyValueError> {
    match value {
        None | Some("off") => Ok(false),
        Some("" | "on") => Ok(true),
        Some(value) => {
            let (value, reason) = (value.to_owned(), ValueError::Switch);
            Err(KeyValueError::BadValue { key, value, reason })
        }
    }
}

/// The values of the keys `socket` and `fd`.
pub(super) fn socket(
    socket: Option<String>,
    fd: Option<String>,
) -> Result<SocketSource, KeyValueError> {
    match (given("socket", socket)?, parsed("fd", fd, descriptor)?) {
        (Some(_), Some(_)) => Err(KeyValueError::Both("socket", "fd")),
        (Some(path), None) => Ok(SocketSource::Path(path.into())),
        (None, Some(number)) => Ok(SocketSource::Descriptor(number)),
        (None, None) => Ok(SocketSource::Passed),
    }
}

fn descriptor(text: &str) -> Result<i32, ValueError> {
    text.parse().ok().filter(|number| *number >= 0).ok_or(ValueError::Descriptor)
}
