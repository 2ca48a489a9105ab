//! The text format of Prometheus.

#![allow(clippy::cast_precision_loss, reason = "what is counted up to 2^53 is shown exactly")]

use std::fmt::Write as _;

use crate::vhost_user::control::{DeviceReport, OperationReport, PagesReport, QueueReport};

/// One sample: its labels, and its value.
type Sample = (Vec<(&'static str, String)>, f64);

/// A metric: its name, what it means, and its value.
type Metric<T> = (&'static str, &'static str, fn(&T) -> f64);

/// The metrics of `devices`.
pub(super) fn text(devices: &[DeviceReport]) -> String {
    let mut text = String::new();
    let gauge = |value: fn(&DeviceReport) -> f64| -> Vec<Sample> {
        devices.iter().map(|device| (labels(device), value(device))).collect()
    };
    let connected = gauge(|device| f64::from(u8::from(device.frontend.is_some())));
    family(&mut text, "frontend_connected", "gauge", "Whether a frontend is connected", &connected);
    let connections = gauge(|device| device.connections as f64);
    family(
        &mut text,
        "connections_total",
        "counter",
        "Frontends that have connected",
        &connections,
    );
    let quiesced = gauge(|device| f64::from(u8::from(device.quiesced)));
    family(&mut text, "quiesced", "gauge", "Whether nothing is taken off the rings", &quiesced);
    let size = gauge(|device| device.disk.as_ref().map_or(0.0, |disk| disk.size as f64));
    family(&mut text, "size_bytes", "gauge", "Bytes of the disk", &size);
    let syncs = gauge(|device| device.syncs.count as f64);
    family(&mut text, "syncs_total", "counter", "Syncs of the medium", &syncs);
    let failed = gauge(|device| device.syncs.errors as f64);
    family(&mut text, "sync_errors_total", "counter", "Syncs that have failed", &failed);
    let time = gauge(|device| seconds(device.syncs.time));
    family(&mut text, "sync_seconds_total", "counter", "Time of the syncs", &time);
    pages(&mut text, devices);
    operations(&mut text, devices);
    queues(&mut text, devices);
    text
}

/// How media in the page cache are mapped.
fn pages(text: &mut String, devices: &[DeviceReport]) {
    let metrics: [Metric<PagesReport>; 2] = [
        ("filled_bytes", "Bytes in memory that were entered in the page tables", |pages| {
            pages.filled as f64
        }),
        ("huge_bytes", "Bytes that are mapped by pages of 2 MiB", |pages| pages.huge as f64),
    ];
    for (name, help, value) in metrics {
        let sample = |device: &DeviceReport| Some((labels(device), value(&device.pages?)));
        family(text, name, "gauge", help, &devices.iter().filter_map(sample).collect::<Vec<_>>());
    }
}

/// What is counted by kind of requests.
fn operations(text: &mut String, devices: &[DeviceReport]) {
    let counts: [Metric<OperationReport>; 3] = [
        ("requests_total", "Requests that were completed", |operation| operation.count as f64),
        ("request_errors_total", "Requests that have failed", |operation| operation.errors as f64),
        ("request_bytes_total", "Bytes of the requests", |operation| operation.bytes as f64),
    ];
    for (name, help, value) in counts {
        let samples = each_operation(devices).map(|(labels, operation)| (labels, value(operation)));
        family(text, name, "counter", help, &samples.collect::<Vec<_>>());
    }
    let name = "request_seconds";
    head(text, name, "histogram", "Time of requests, from the ring and back to it");
    for (labels, operation) in each_operation(devices) {
        let mut below = 0;
        for (bound, count) in &operation.latency {
            below += count;
            let bound = ("le", format!("{}", seconds(*bound)));
            let labels = labels.iter().cloned().chain([bound]).collect();
            sample(text, &format!("{name}_bucket"), &(labels, below as f64));
        }
        let all = labels.iter().cloned().chain([("le", "+Inf".to_owned())]).collect();
        sample(text, &format!("{name}_bucket"), &(all, below as f64));
        sample(text, &format!("{name}_sum"), &(labels.clone(), seconds(operation.time)));
        sample(text, &format!("{name}_count"), &(labels, below as f64));
    }
}

fn each_operation(
    devices: &[DeviceReport],
) -> impl Iterator<Item = (Vec<(&'static str, String)>, &OperationReport)> {
    each_queue(devices).flat_map(|(labels, queue)| {
        queue.requests.iter().map(move |(kind, operation)| {
            let kind = ("kind", kind.clone());
            (labels.iter().cloned().chain([kind]).collect(), operation)
        })
    })
}

/// What is counted of queues.
fn queues(text: &mut String, devices: &[DeviceReport]) {
    let counts: [Metric<QueueReport>; 7] = [
        ("batches_total", "Batches of requests", |queue| queue.batches.iter().sum::<u64>() as f64),
        ("fences_total", "Fences of the medium", |queue| queue.fences as f64),
        ("polls_total", "Looks at an empty ring", |queue| queue.polls as f64),
        ("kicks_total", "Kicks of the guest", |queue| queue.kicks as f64),
        ("interrupts_total", "Interrupts of the guest", |queue| queue.interrupts as f64),
        ("throttles_total", "Waits for a rate limit", |queue| queue.throttles as f64),
        ("throttled_seconds_total", "Time of these waits", |queue| seconds(queue.throttled)),
    ];
    for (name, help, value) in counts {
        let samples = each_queue(devices).map(|(labels, queue)| (labels, value(queue)));
        family(text, name, "counter", help, &samples.collect::<Vec<_>>());
    }
}

fn each_queue(
    devices: &[DeviceReport],
) -> impl Iterator<Item = (Vec<(&'static str, String)>, &QueueReport)> {
    devices.iter().flat_map(|device| {
        device.queues.iter().enumerate().map(|(number, queue)| {
            let number = ("queue", number.to_string());
            (labels(device).into_iter().chain([number]).collect(), queue)
        })
    })
}

fn labels(device: &DeviceReport) -> Vec<(&'static str, String)> {
    let identity = &device.identity;
    let file = identity.file.to_string_lossy().into_owned();
    vec![
        ("device", identity.name.clone()),
        ("file", file),
        ("namespace", identity.namespace.clone()),
        ("socket", identity.socket.clone()),
    ]
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: &[Sample]) {
    head(text, name, kind, help);
    for one in samples {
        sample(text, name, one);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP vhost_user_btt_{name} {help}.");
    let _ = writeln!(text, "# TYPE vhost_user_btt_{name} {kind}");
}

fn sample(text: &mut String, name: &str, (labels, value): &Sample) {
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let _ = writeln!(text, "vhost_user_btt_{name}{{{}}} {value}", labels.join(","));
}

/// The value of a label, in which three characters have to be escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
