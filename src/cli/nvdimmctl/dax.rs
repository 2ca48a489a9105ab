//! `dax`: the devices of a namespace in dax mode, in the words of daxctl.

use crate::cli::size::Size;
use crate::dax::Align;

/// The value of `--device-align`, and of a device's `--align`.
pub(super) fn device_alignment(text: &str) -> Result<Align, String> {
    let Size(bytes) = text.parse().map_err(|error: crate::cli::SizeError| error.to_string())?;
    Align::of_bytes(bytes).ok_or_else(|| "not one of 4K, 2M, 1G".into())
}
