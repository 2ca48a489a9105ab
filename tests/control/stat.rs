//! What a daemon counts, and how it is shown.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::frontend::{Driver, IOERR, OK, T_FLUSH};
use crate::setup::{Place, pattern};

#[test]
fn requests_are_counted_by_kind_with_their_bytes_errors_and_times() {
    let place = Place::new("128M", &["first", "second"]);
    let _daemon = place.serve(&["first,queues=2", "second"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 2);
    for number in 0..5 {
        assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
    }
    driver.read(1, 0, 4096);
    assert_eq!(driver.request(0, T_FLUSH, 0, &[], 0).0, OK);
    assert_eq!(driver.write(0, 1 << 40, &[0; 512]), IOERR);

    let stat = place.stat("first");
    let requests = |queue: usize, kind: &str, what: &str| {
        stat["queues"][queue]["requests"][kind][what].as_u64().unwrap()
    };
    assert_eq!((requests(0, "write", "count"), requests(0, "write", "errors")), (6, 1));
    assert_eq!(requests(0, "write", "bytes"), 5 * 4096);
    assert_eq!((requests(1, "read", "count"), requests(1, "read", "bytes")), (1, 4096));
    assert_eq!((requests(0, "flush", "count"), requests(1, "write", "count")), (1, 0));
    let latency = stat["queues"][0]["requests"]["write"]["latency"].as_array().unwrap();
    assert_eq!(latency.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum::<u64>(), 6);
    assert!(requests(0, "write", "time") > 0);
    let count = |what: &str| stat["queues"][0][what].as_u64().unwrap();
    assert!(count("fences") >= 3 && count("kicks") >= 1, "{stat}");
    assert!(stat["syncs"]["count"].as_u64().unwrap() >= 1, "{stat}");
    let batches = stat["queues"][0]["batches"].as_array().unwrap();
    assert!(batches.iter().map(|count| count.as_u64().unwrap()).sum::<u64>() >= 1);
    // The neighbour has done nothing.
    assert_eq!(place.stat("second")["queues"][0]["requests"]["write"]["count"], 0);
}

#[test]
fn a_device_is_described_with_its_frontend() {
    let place = Place::new("128M", &["first"]);
    let _daemon = place.serve(&["first"], &[]);
    let stat = place.stat("first");
    assert_eq!((&stat["frontend"], &stat["connections"]), (&serde_json::Value::Null, &0.into()));
    assert_eq!((&stat["claim"], &stat["kind"]), (&"exclusive".into(), &"disk".into()));
    assert!(stat["disk"]["size"].as_u64().unwrap() > 30 << 20);
    assert!(stat["disk"]["arenas"][0]["lanes"].as_u64().unwrap() > 1, "{stat}");
    let driver = Driver::connect(place.connect("first"), 1);
    let stat = place.stat(place.socket("first").to_str().unwrap());
    assert_eq!(stat["frontend"]["pid"], std::process::id());
    let features = stat["frontend"]["features"].as_array().unwrap();
    assert!(features.contains(&"FLUSH".into()), "{features:?}");
    let features = stat["frontend"]["protocol-features"].as_array().unwrap();
    assert!(features.contains(&"BACKEND_REQ".into()), "{features:?}");
    assert!(place.ask(&["disks"]).unwrap().contains("connected"));
    drop(driver);
    assert_eq!(place.stat("first")["connections"], 1);
    let error = place.ask(&["stat", "other"]).unwrap_err();
    assert!(error.contains("serves no device"), "{error}");
}

#[test]
fn a_table_has_a_line_for_each_device() {
    let place = Place::new("128M", &["first", "second"]);
    let _daemon = place.serve(&["first", "second"], &[]);
    for options in [&["stat"][..], &["stat", "--watch=1", "--count=2"]] {
        let text = place.ask(options).unwrap();
        let tables = text.lines().filter(|line| line.starts_with("Device")).count();
        assert_eq!(text.lines().filter(|line| line.starts_with("first")).count(), tables);
        assert_eq!(text.lines().filter(|line| line.starts_with("second")).count(), tables);
        assert_eq!(tables, if options.len() == 1 { 1 } else { 2 });
    }
}

/// The samples of a text in the format of Prometheus, by name and labels; every rule that a scraper relies on
/// is checked.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut samples, mut finished, mut current) = (BTreeMap::new(), BTreeSet::new(), "");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "declared twice: {line}");
            assert!(finished.insert(current), "in two places: {line}");
            current = name;
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        let suffixes = ["_bucket", "_sum", "_count"];
        let family = match types.get(current) {
            Some(&"histogram") => suffixes.iter().find_map(|one| name.strip_suffix(one)).unwrap(),
            _ => name,
        };
        assert_eq!(family, current, "outside of its family: {line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        check_labels(labels.strip_suffix('}').unwrap());
        let value = value.parse().unwrap();
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

fn check_labels(labels: &str) {
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{labels}");
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (_, '\\') => assert!(['\\', '"', 'n'].contains(&characters.next().unwrap().1)),
                (end, '"') => break end,
                _ => {}
            }
        };
        rest = after[end + 1..].trim_start_matches(',');
    }
}

#[test]
fn prometheus_can_read_it() {
    let place = Place::new("128M", &["first", "second"]);
    let _daemon = place.serve(&["first,queues=2", "second"], &[]);
    let mut driver = Driver::connect(place.connect("first"), 2);
    for number in 0..20 {
        assert_eq!(driver.write(0, number * 8, &pattern(number)), OK);
    }
    let samples = parse(&place.ask(&["stat", "--prometheus"]).unwrap());
    let of = |name: &str, parts: &[&str]| -> Vec<f64> {
        let wanted = |series: &str| {
            series.starts_with(&format!("vhost_user_btt_{name}{{"))
                && parts.iter().all(|part| series.contains(part))
        };
        samples.iter().filter(|(series, _)| wanted(series)).map(|(_, value)| *value).collect()
    };
    let writes = ["device=\"first\"", "queue=\"0\"", "kind=\"write\""];
    assert_eq!(of("requests_total", &writes), [20.0]);
    assert_eq!(of("request_bytes_total", &writes), [20.0 * 4096.0]);
    assert_eq!(of("request_seconds_count", &writes), [20.0]);
    let all = [&writes[..], &["le=\"+Inf\""]].concat();
    assert_eq!(of("request_seconds_bucket", &all), [20.0]);
    assert_eq!(of("frontend_connected", &["device=\"first\""]), [1.0]);
    assert_eq!(of("frontend_connected", &["device=\"second\""]), [0.0]);
    assert!(of("size_bytes", &["device=\"second\""])[0] > 0.0);
}
