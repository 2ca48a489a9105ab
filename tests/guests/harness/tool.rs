//! `nvdimmctl`, run to its end.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// The administrator's tool, on one file.
pub struct Tool<'a> {
    file: &'a Path,
    /// One of several namespaces.
    namespace: Option<&'a str>,
}

impl<'a> Tool<'a> {
    /// The tool for `file`, which need not exist yet.
    pub fn on(file: &'a Path) -> Self {
        Self { file, namespace: None }
    }

    /// The tool for one of several namespaces of the file.
    pub fn namespace(self, name: &'a str) -> Self {
        Self { namespace: Some(name), ..self }
    }

    /// A new file with labels and room for `size` bytes of namespaces.
    #[track_caller]
    pub fn create_labelled(&self, size: &str, label_bytes: u64) {
        self.run("create", &["--size", size, "--label-size", &label_bytes.to_string()]);
    }

    /// A further namespace.
    #[track_caller]
    pub fn create_namespace(&self, options: &[&str]) {
        self.run("create-namespace", options);
    }

    /// Makes the only namespace larger.
    #[track_caller]
    pub fn grow(&self, size: &str) {
        self.run("grow-namespace", &["--size", size]);
    }

    /// What `list --json` says.
    #[track_caller]
    pub fn list(&self) -> serde_json::Value {
        serde_json::from_slice(&self.run("list", &["--json"])).expect("JSON")
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

    /// Fills the disk from an image that was made for sectors of another size.
    #[track_caller]
    pub fn import_unfit(&self, image: &Path) {
        self.run("import", &[image.to_str().expect("a name in UTF-8"), "--force"]);
    }

    /// Writes all sectors in order to a new file.
    #[track_caller]
    pub fn export_to(&self, image: &Path) {
        self.run("export", &[image.to_str().expect("a name in UTF-8")]);
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
    pub fn export(&self) -> Vec<u8> {
        let output = self.command("export", &[]).output().expect("nvdimmctl");
        assert!(output.status.success(), "nvdimmctl export ended with {}", output.status);
        output.stdout
    }

    /// The bytes of a namespace as they are, whatever its mode.
    #[track_caller]
    pub fn export_raw(&self, to: &Path) {
        self.run("export", &[to.to_str().expect("a name in UTF-8"), "--force-raw"]);
    }

    /// A command of `nvdimmctl dax`, and what it prints.
    #[track_caller]
    pub fn dax(&self, verb: &str, options: &[&str]) -> Vec<u8> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
        command.args(["dax", verb]).arg(self.file).args(options);
        let output = command.stdin(Stdio::null()).output().expect("nvdimmctl");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nvdimmctl dax {verb} {options:?}: {complaint}");
        output.stdout
    }

    /// Fails unless the tool finds every invariant to hold.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.run("check-namespace", &[]);
    }

    #[track_caller]
    fn run(&self, verb: &str, options: &[&str]) -> Vec<u8> {
        let output = self.command(verb, options).output().expect("nvdimmctl");
        assert!(
            output.status.success(),
            "nvdimmctl {verb} {options:?} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    fn command(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvdimmctl"));
        command.arg(verb).arg(self.file).args(options).stdin(Stdio::null());
        if let Some(name) = self.namespace {
            command.args(["--namespace", name]);
        }
        command
    }
}
