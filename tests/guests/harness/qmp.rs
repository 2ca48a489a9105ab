//! QEMU's own protocol for its management.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Emulated, on a busy machine, a step takes seconds.
const LIMIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to QEMU.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// What makes QEMU listen at `socket`.
    pub fn arguments(socket: &Path) -> Vec<String> {
        vec!["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display())]
    }

    /// Connects to a QEMU that was started with these arguments.
    #[track_caller]
    pub fn connect(socket: &Path) -> Qmp {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "QEMU does not listen: {error}"),
            }
            thread::sleep(PAUSE);
        };
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        assert!(qmp.receive().get("QMP").is_some(), "no greeting");
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line of QEMU's");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Executes a command; returns what it returns.
    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.stream.get_mut().write_all(line.as_bytes()).expect("a connection to QEMU");
        loop {
            let answer = self.receive();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
        }
    }

    /// Migrates to `uri`; returns what has come of it: `completed` or `failed`.
    #[track_caller]
    pub fn migrate(&mut self, uri: &str) -> String {
        // The guest dirties its memory faster than a busy machine copies it.
        self.execute("migrate-set-parameters", &json!({ "downtime-limit": 5000 }));
        self.execute("migrate", &json!({ "uri": uri }));
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = self.execute("query-migrate", &json!({}));
            match found["status"].as_str() {
                Some(status @ ("completed" | "failed" | "cancelled")) => return status.to_owned(),
                status => assert!(Instant::now() < deadline, "the migration is {status:?}"),
            }
            thread::sleep(PAUSE);
        }
    }
}
