//! The user's command, which says whether a state is right.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::choice::State;
use super::image::{Image, ImageError};

/// What a shell ends with when it cannot execute, or not find, a program.
const SHELL_CANNOT_RUN: [i32; 2] = [126, 127];

/// What stands for the image in a command.
const IMAGE: &str = "{image}";
/// What stands for the file of marks.
const MARKS: &str = "{marks}";

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The command cannot be run.
    #[error("cannot run {program:?}")]
    CannotRun {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The command says that it cannot be run.
    #[error("the command ends with {status}, as a shell does that cannot run a program")]
    NotFound {
        /// Its exit status.
        status: i32,
    },
    /// A state cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file for the command cannot be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the command says of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Passed,
    /// It is not, and how the command has ended.
    Failed(String),
    /// There is none: the command took longer than it may. Says how long that was.
    Hung(String),
}

impl Verdict {
    /// Returns whether the state was checked and is not right.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Verdict::Failed(_))
    }
}

/// How states are checked.
#[derive(Debug, Clone)]
pub struct Check {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
    /// It gets a copy of the image, to which it may write.
    pub copies: bool,
    /// Its output is shown.
    pub shows_output: bool,
    /// A folder for the files that it gets.
    pub folder: PathBuf,
}

impl Check {
    /// Returns whether the command is told of marks.
    #[must_use]
    pub fn sees_marks(&self) -> bool {
        self.command.iter().any(|word| word.contains(MARKS))
    }

    /// Brings `image` into `state` and runs the command on it.
    ///
    /// # Errors
    ///
    /// There is no verdict.
    pub fn run(&self, image: &mut Image<'_>, state: &State) -> Result<Verdict, CheckError> {
        image.set(state)?;
        let marks = self.folder.join("marks");
        let written = |path: &Path, result: io::Result<()>| {
            result.map_err(|source| CheckError::File { path: path.into(), source })
        };
        if self.sees_marks() {
            let mut lines = image.timeline().point().marks.join("\n");
            lines.push('\n');
            written(&marks, fs::write(&marks, lines))?;
        }
        if !self.copies {
            let verdict = self.run_on(image.path(), &marks, state)?;
            image.check_unchanged()?;
            return Ok(verdict);
        }
        let copy = self.folder.join("copy.raw");
        written(&copy, fs::copy(image.path(), &copy).map(drop))?;
        let verdict = self.run_on(&copy, &marks, state);
        written(&copy, fs::remove_file(&copy))?;
        verdict
    }

    fn run_on(&self, image: &Path, marks: &Path, state: &State) -> Result<Verdict, CheckError> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (image, marks) = (text(image), text(marks));
        let mut words =
            self.command.iter().map(|word| word.replace(IMAGE, &image).replace(MARKS, &marks));
        let program = words.next().unwrap_or_default();
        let output = || if self.shows_output { Stdio::inherit() } else { Stdio::null() };
        let child = Command::new(&program)
            .args(words)
            .env("POWERCUT_STATE", state.to_string())
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .spawn();
        let fails = |source| CheckError::CannotRun { program: program.clone(), source };
        let mut child = child.map_err(fails)?;
        match self.wait(&mut child).map_err(fails)? {
            None => Ok(Verdict::Hung(format!("no end within {} seconds", self.limit.as_secs()))),
            Some(status) => verdict(status),
        }
    }

    /// Waits for the command; `None`: it took too long, and was killed with all that it has started.
    fn wait(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if begun.elapsed() > self.limit {
                // It may have ended meanwhile, and is there until it is waited for.
                let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
                child.wait()?;
                return Ok(None);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

fn verdict(status: ExitStatus) -> Result<Verdict, CheckError> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Verdict::Passed),
        (Some(code), _) if SHELL_CANNOT_RUN.contains(&code) => {
            Err(CheckError::NotFound { status: code })
        }
        (Some(code), _) => Ok(Verdict::Failed(format!("exit status {code}"))),
        (None, signal) => Ok(Verdict::Failed(format!("signal {}", signal.unwrap_or_default()))),
    }
}
