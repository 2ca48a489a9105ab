//! A child process whose output is kept, searched and shown.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines of a process that went wrong are worth showing.
const TAIL_LINES: usize = 60;

/// A running child. It dies with this value, and with the thread that started it.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    /// Lines before this index have been matched or passed over by [`Process::wait_for_line`].
    next_line: usize,
}

#[derive(Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutputState {
    lines: Vec<String>,
    /// How many of the two streams have reached their end.
    ended_streams: u32,
}

impl OutputState {
    /// Both streams have reached their end, which for our children means that they have ended.
    fn has_ended(&self) -> bool {
        self.ended_streams == 2
    }
}

impl Process {
    /// Starts `command`, collecting what it says on both streams.
    #[track_caller]
    pub fn start(name: &str, command: &Command) -> Self {
        // Not even a harness that is killed leaves guests behind.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        for stream in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
            let output = Arc::clone(&output);
            thread::spawn(move || output.collect(stream));
        }
        Self { name: name.to_owned(), child, output, next_line: 0 }
    }

    /// Waits for the next line that matches, and returns it.
    #[track_caller]
    pub fn wait_for_line(
        &mut self,
        what: &str,
        limit: Duration,
        mut matches: impl FnMut(&str) -> bool,
    ) -> String {
        let deadline = Instant::now() + limit;
        let mut state = self.output.state.lock().unwrap();
        loop {
            while let Some(line) = state.lines.get(self.next_line) {
                self.next_line += 1;
                if matches(line) {
                    return line.clone();
                }
            }
            let failure = if state.has_ended() {
                Some("has ended")
            } else if Instant::now() >= deadline {
                Some("did not say so in time")
            } else {
                None
            };
            if let Some(failure) = failure {
                drop(state);
                panic!("waiting for {what}: {} {failure} (limit {limit:?})", self.name);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            state = self.output.changed.wait_timeout(state, remaining).unwrap().0;
        }
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait_for_end(mut self, limit: Duration) -> ExitStatus {
        let state = self.output.state.lock().unwrap();
        let (state, wait) = self
            .output
            .changed
            .wait_timeout_while(state, limit, |state| !state.has_ended())
            .unwrap();
        drop(state);
        assert!(!wait.timed_out(), "{} has not ended within {limit:?}", self.name);
        self.child.wait().expect("our own child")
    }

    /// Returns whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    #[track_caller]
    pub fn terminate(self, limit: Duration) -> ExitStatus {
        self.send("TERM");
        self.wait_for_end(limit)
    }

    /// Sends a signal, by its name.
    #[track_caller]
    pub fn send(&self, signal: &str) {
        let (signal, pid) = (format!("-{signal}"), self.child.id().to_string());
        let sent = Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", &signal, &pid]).status();
        assert!(sent.expect("a shell").success(), "{} is not there for a signal", self.name);
    }

    /// SIGSTOP, and waits until none of its threads runs any more.
    #[track_caller]
    pub fn stop(&self, limit: Duration) {
        self.send("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        let runs = |task: std::io::Result<std::fs::DirEntry>| {
            let status = task.and_then(|task| std::fs::read_to_string(task.path().join("status")));
            // A thread that is gone by now does not run.
            status.is_ok_and(|status| !status.contains("State:\tT"))
        };
        let deadline = Instant::now() + limit;
        while std::fs::read_dir(&tasks).expect("its threads").any(runs) {
            assert!(Instant::now() < deadline, "{} does not stop", self.name);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL, and waits for the kernel to have taken the process apart (locks, sockets, mappings). Returns all
    /// that it had said by then; the last line may be half of one.
    #[track_caller]
    pub fn kill(mut self, limit: Duration) -> Vec<String> {
        self.kill_now();
        let state = self.output.state.lock().unwrap();
        let (mut state, wait) = self
            .output
            .changed
            .wait_timeout_while(state, limit, |state| !state.has_ended())
            .unwrap();
        assert!(!wait.timed_out(), "the output of {} does not end", self.name);
        std::mem::take(&mut state.lines)
    }

    /// As [`Process::kill`]. Returns what has not been waited for.
    #[track_caller]
    pub fn kill_unheard(self, limit: Duration) -> Vec<String> {
        let next = self.next_line;
        self.kill(limit).split_off(next)
    }

    fn kill_now(&mut self) {
        // Both fail only if it has ended by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_now();
        if thread::panicking() {
            let state = self.output.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let first = state.lines.len().saturating_sub(TAIL_LINES);
            eprintln!("--- the end of what {} said:", self.name);
            for line in &state.lines[first..] {
                eprintln!("{line}");
            }
            eprintln!("--- ({} lines in all)", state.lines.len());
        }
    }
}

impl Output {
    fn collect(&self, stream: impl Read) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // A broken pipe ends the output like its end does.
        while matches!(stream.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.state.lock().unwrap().lines.push(text);
            self.changed.notify_all();
            line.clear();
        }
        self.state.lock().unwrap().ended_streams += 1;
        self.changed.notify_all();
    }
}
