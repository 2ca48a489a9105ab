//! Libraries that are preloaded into our programs, from `tests/shims`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the library `name` for this test program; returns where it is.
pub fn build(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("{name}-{}.so", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/shims/{name}.rs"));
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let built = Command::new(rustc)
        .args(["--crate-type", "cdylib", "--edition", "2024", "-C", "opt-level=1", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    library
}
