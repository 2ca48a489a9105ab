//! `nvdimmctl`, run to its end.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// The administrator's tool, on one file.
pub struct Tool<'a> {
    file: &'a Path,
}

impl<'a> Tool<'a> {
    /// The tool for `file`, which need not exist yet.
    pub fn on(file: &'a Path) -> Self {
        Self { file }
    }

    /// A new label-less NVDIMM file with one namespace of whole sectors.
    #[track_caller]
    pub fn create_disk(&self, size: &str, sector_size: u32) {
        self.run("create", &["--size", size]);
        let sector_size = sector_size.to_string();
        self.run("create-namespace", &["--sector-size", &sector_size]);
    }

    /// Fills the disk from a file of raw sectors.
    #[track_caller]
    pub fn import(&self, raw: &Path) {
        let raw = File::open(raw).unwrap_or_else(|error| panic!("{}: {error}", raw.display()));
        let status = self.command("import", &[]).stdin(raw).status().expect("nvdimmctl");
        assert!(status.success(), "nvdimmctl import ended with {status}");
    }

    /// The SHA-256 of all sectors in order.
    #[track_caller]
    pub fn sha256_of_export(&self) -> String {
        let mut child =
            self.command("export", &[]).stdout(Stdio::piped()).spawn().expect("nvdimmctl");
        let hash = super::sha256(child.stdout.take().expect("stdout is piped"));
        let status = child.wait().expect("our own child");
        assert!(status.success(), "nvdimmctl export ended with {status}");
        hash
    }

    /// All sectors in order.
    #[track_caller]
    #[cfg(feature = "power-fail")]
    pub fn export(&self) -> Vec<u8> {
        let output = self.command("export", &[]).output().expect("nvdimmctl");
        assert!(output.status.success(), "nvdimmctl export ended with {}", output.status);
        output.stdout
    }

    /// Fails unless the tool finds every invariant to hold.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.run("check-namespace", &[]);
    }

    #[track_caller]
    fn run(&self, verb: &str, options: &[&str]) {
        let output = self.command(verb, options).output().expect("nvdimmctl");
        assert!(
            output.status.success(),
            "nvdimmctl {verb} {options:?} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn command(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
        command.arg(verb).arg(self.file).args(options).stdin(Stdio::null());
        command
    }
}
