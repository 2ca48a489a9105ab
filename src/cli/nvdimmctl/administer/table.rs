//! Tables of devices and of what they do.

#![allow(clippy::cast_precision_loss, reason = "what is counted up to 2^53 is shown exactly")]

use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::size::Size;
use crate::vhost_user::control::{DeviceReport, OperationReport};

/// Kinds of requests that have columns of their own: what iostat calls them, and reports.
const KINDS: [(&str, &str); 4] = [("r", "read"), ("w", "write"), ("f", "flush"), ("d", "discard")];

/// What devices do: in `since`, with reports from before and the time that has passed, or else in all.
pub(super) fn statistics(
    devices: &[DeviceReport],
    since: Option<(&[DeviceReport], Duration)>,
) -> String {
    let unit = if since.is_some() { "/s" } else { "" };
    let mut text = format!("{:<20}", "Device");
    for (short, _) in KINDS {
        let heads =
            [format!("{short}{unit}"), format!("{short}kB{unit}"), format!("{short}_await")];
        let [count, bytes, wait] = heads;
        let _ = write!(text, " {count:>9} {bytes:>11} {wait:>8}");
    }
    let _ = writeln!(text, " {:>8} {:>8} {:>8} {:>7}", "p50", "p99", "p99.9", "errors");
    for device in devices {
        let before = since
            .and_then(|(before, _)| before.iter().find(|other| other.identity == device.identity));
        let seconds = since.map_or(1.0, |(_, taken)| taken.as_secs_f64().max(0.001));
        line(&mut text, device, before, seconds);
    }
    if since.is_none() {
        for device in devices {
            pages(&mut text, device);
        }
    }
    text
}

/// How the medium of a device is mapped.
fn pages(text: &mut String, device: &DeviceReport) {
    let Some(pages) = device.pages.filter(|pages| pages.passes > 0) else { return };
    let (name, filled, huge) = (&device.identity.name, pages.filled >> 20, pages.huge >> 20);
    let _ = writeln!(
        text,
        "Pages of {name}: {filled} MiB in memory and mapped, {huge} MiB by 2 MiB pages"
    );
}

/// The line of one device.
fn line(text: &mut String, device: &DeviceReport, before: Option<&DeviceReport>, seconds: f64) {
    let _ = write!(text, "{:<20}", device.identity.name);
    let since = |kind: &str| {
        let now = device.operation(kind);
        before.map_or_else(|| now.clone(), |before| now.since(&before.operation(kind)))
    };
    for (_, kind) in KINDS {
        let operation = since(kind);
        let (count, bytes) = (operation.count as f64 / seconds, operation.bytes as f64 / seconds);
        let wait = milliseconds(operation.time as f64 / operation.count.max(1) as f64);
        let _ = write!(text, " {count:>9.0} {:>11.1} {wait:>8}", bytes / 1024.0);
    }
    let mut all = OperationReport::default();
    for kind in ["read", "write", "flush", "discard", "write-zeroes", "other"] {
        all.add(&since(kind));
    }
    for part in [0.5, 0.99, 0.999] {
        let time = all.quantile(part).map_or_else(|| "-".into(), |time| milliseconds(time as f64));
        let _ = write!(text, " {time:>8}");
    }
    let _ = writeln!(text, " {:>7}", all.errors);
}

fn milliseconds(nanoseconds: f64) -> String {
    format!("{:.3}", nanoseconds / 1e6)
}

/// The devices, and who is connected to them.
pub(super) fn devices(devices: &[DeviceReport]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:<20} {:<5} {:>9} {:<24} STATE", "NAME", "KIND", "SIZE", "SOCKET");
    for device in devices {
        let identity = &device.identity;
        let size =
            device.disk.as_ref().map_or_else(String::new, |disk| Size(disk.size).to_string());
        let frontend = match &device.frontend {
            None => "no frontend".to_owned(),
            Some(frontend) => {
                let pid = frontend.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                format!("connected{pid} for {} s", frontend.connected)
            }
        };
        let state = if device.quiesced { ", quiesced" } else { "" };
        let (name, kind, socket) = (&identity.name, &identity.kind, &identity.socket);
        let _ = writeln!(text, "{name:<20} {kind:<5} {size:>9} {socket:<24} {frontend}{state}");
    }
    text
}
