//! `cargo xtask check tidy`: project conventions that neither the compiler nor a linter checks.
//!
//! A rule takes the files of the repository and returns one line per violation. Adding one takes a file and a row in
//! [`RULES`].

use std::path::{Path, PathBuf};
use std::process::Command;

mod circles;
mod figures;
mod headers;
mod length;
mod links;
mod map;

/// A text file of the repository.
pub(crate) struct File {
    /// Path from the root, separated by `/`.
    path: String,
    text: String,
}

/// Every rule: name and check.
const RULES: &[(&str, fn(&[File]) -> Vec<String>)] = &[
    ("length", length::check),
    ("headers", headers::check),
    ("map", map::check),
    ("figures", figures::check),
    ("links", links::check),
    ("circles", circles::check),
];

/// Checks every rule on the files that git tracks or would track.
///
/// # Errors
/// All violations, one per line.
pub(crate) fn run() -> Result<(), String> {
    let files = files()?;
    let breaches: Vec<String> = RULES
        .iter()
        .flat_map(|(rule, check)| check(&files).into_iter().map(move |breach| format!("{rule}: {breach}")))
        .collect();
    if breaches.is_empty() { Ok(()) } else { Err(format!("\n{}", breaches.join("\n"))) }
}

/// Root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust and Markdown files of the working tree, except ignored ones.
fn files() -> Result<Vec<File>, String> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs", "*.md"])
        .current_dir(root())
        .output()
        .map_err(|e| format!("git ls-files: {e}"))?;
    if !listing.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listing.stderr)));
    }
    let listing = String::from_utf8(listing.stdout).map_err(|e| format!("git ls-files: {e}"))?;
    let mut files = Vec::new();
    for path in listing.lines() {
        // Files deleted but not yet staged are listed, too.
        if let Ok(text) = std::fs::read_to_string(root().join(path)) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}
