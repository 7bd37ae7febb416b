//! Layout of the model cache, and how complete models differ from unfinished ones.
//!
//! ```text
//! {root}/.locks/models--org--name.lock   one writer per model
//! {root}/models--org--name/
//!     .candle-coreml                     marks this folder as ours
//!     refs/main                          the commit that a revision last resolved to
//!     parts/                             partial files, resumable
//!     snapshots/{commit}.partial/        verified files of an unfinished download
//!     snapshots/{commit}/                a complete model with its receipt; renamed here last
//!     snapshots/{commit}-{selection}/    single components
//!     configs/{commit}.json              discovered model configuration
//! ```
//!
//! The folder names of models and snapshots are those of the Hugging Face hub's own cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use coreml_format::file;
use serde::{Deserialize, Serialize};

/// Marks a model folder as created by this library.
pub(crate) const MARKER: &str = ".candle-coreml";
/// Lists the files of a complete snapshot.
pub(crate) const RECEIPT: &str = ".candle-coreml-receipt.json";
/// Suffix of a snapshot being downloaded.
pub(crate) const PARTIAL: &str = ".partial";
/// Suffix of a snapshot being deleted.
pub(crate) const REMOVED: &str = ".removed";
/// Maximum size of a receipt or reference in bytes.
const LARGEST_RECORD: u64 = 16 << 20;

/// Contents of a complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// `org/name`.
    pub model: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<ReceiptFile>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptFile {
    /// Path below the snapshot, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// `sha256:…` or `git:…`; `None` for files unpacked from an archive.
    pub digest: Option<String>,
}

impl Receipt {
    /// Reads the receipt of a snapshot; `None` if it is missing or malformed.
    pub fn read(snapshot: &Path) -> Option<Self> {
        serde_json::from_slice(&read_small(&snapshot.join(RECEIPT)).ok()?).ok()
    }

    /// Returns true if all files exist with their sizes. Contents were verified before the snapshot got its name.
    pub fn is_intact(&self, snapshot: &Path) -> bool {
        self.files.iter().all(|f| {
            let path = snapshot.join(&f.path);
            fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == f.size)
        })
    }

    /// Total size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.size))
    }
}

/// Reads a file whole, up to a small size limit.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    file::read(path, LARGEST_RECORD).map_err(|e| e.cause.into())
}

/// Writes a small file atomically. The caller holds the lock of the folder.
#[cfg(feature = "hub")]
pub(crate) fn write_small(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut f| f.write_all(content).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Report the first error.
        fs::remove_file(&temporary).ok();
    }
    written
}

/// The cache root from the environment: `CANDLE_COREML_CACHE`, else `candle-coreml` in `XDG_CACHE_HOME`, else
/// `~/.cache/candle-coreml`. `None` without a home folder.
pub fn default_root() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(root) = variable("CANDLE_COREML_CACHE") {
        return Some(root);
    }
    let base = variable("XDG_CACHE_HOME").filter(|p| p.is_absolute());
    Some(base.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("candle-coreml"))
}

/// Folder name of a model: `models--org--name`.
pub(crate) fn folder_name(repository: &str) -> String {
    format!("models--{}", repository.replace('/', "--"))
}

/// Parses `org/name` from `models--org--name`.
pub(crate) fn repository_of(folder_name: &str) -> Option<String> {
    let rest = folder_name.strip_prefix("models--").filter(|r| !r.is_empty())?;
    Some(rest.replacen("--", "/", 1))
}

/// Returns true if a name is a commit hash: 40 lower-case hexadecimal digits.
pub(crate) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns true if a name has the form of a complete snapshot.
pub(crate) fn is_snapshot(name: &str) -> bool {
    let (commit, selection) = name.split_once('-').map_or((name, None), |(c, s)| (c, Some(s)));
    is_commit(commit) && selection.is_none_or(|s| s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The folder of one model.
#[derive(Debug, Clone)]
pub(crate) struct ModelFolder {
    root: PathBuf,
    name: String,
}

impl ModelFolder {
    /// The folder of `org/name` below a root.
    #[cfg(feature = "hub")]
    pub(crate) fn new(root: &Path, repository: &str) -> Self {
        Self::named(root, folder_name(repository))
    }

    /// The folder with this name below a root.
    pub(crate) fn named(root: &Path, name: String) -> Self {
        Self { root: root.to_owned(), name }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// Returns true if this library created it: a real folder with our marker.
    pub(crate) fn is_ours(&self) -> bool {
        let real = |p: &Path, folder: bool| {
            fs::symlink_metadata(p).is_ok_and(|m| if folder { m.is_dir() } else { m.is_file() })
        };
        real(&self.path(), true) && real(&self.path().join(MARKER), false)
    }

    /// Creates the folder and its marker. Foreign folders, such as Hugging Face's own cache, are not modified.
    #[cfg(feature = "hub")]
    pub(crate) fn create(&self) -> io::Result<()> {
        let path = self.path();
        fs::create_dir_all(&path)?;
        if !self.is_ours() {
            for entry in fs::read_dir(&path)? {
                // Leftovers of an interrupted attempt to write the marker are fine.
                if !entry?.file_name().to_string_lossy().starts_with(MARKER) {
                    return Err(io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        "a folder that candle-coreml did not make",
                    ));
                }
            }
            write_small(&path.join(MARKER), b"A model cache of candle-coreml.\n")?;
        }
        ["refs", "snapshots", "parts", "configs"].iter().try_for_each(|part| fs::create_dir_all(path.join(part)))
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    pub(crate) fn parts(&self) -> PathBuf {
        self.path().join("parts")
    }

    /// File that holds the commit of a revision; `/` in a revision is written as `%2F`.
    #[cfg(feature = "hub")]
    pub(crate) fn reference(&self, revision: &str) -> PathBuf {
        self.path().join("refs").join(revision.replace('/', "%2F"))
    }

    /// File that holds the discovered configuration of a snapshot.
    #[cfg(feature = "hub")]
    pub(crate) fn config(&self, snapshot: &str) -> PathBuf {
        self.path().join("configs").join(format!("{snapshot}.json"))
    }

    /// Lock file for writers of this folder. Never deleted: all processes must lock the same file.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join(".locks").join(format!("{}.lock", self.name))
    }

    /// Opens the lock file.
    pub(crate) fn open_lock(&self) -> io::Result<File> {
        let path = self.lock_file();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::options().create(true).truncate(false).write(true).open(path)
    }
}

/// Time of last use of a snapshot: the modification time of its receipt.
pub(crate) fn last_used(snapshot: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(snapshot.join(RECEIPT)).and_then(|m| m.modified()).ok()
}

/// Records that a snapshot was used. In a read-only cache the old time stays.
#[cfg(feature = "hub")]
pub(crate) fn touch(snapshot: &Path) {
    let receipt = File::options().write(true).open(snapshot.join(RECEIPT));
    if let Err(e) = receipt.and_then(|f| f.set_modified(SystemTime::now())) {
        tracing::debug!("{}: the time of use is not noted: {e}", snapshot.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_snapshots_from_anything_else() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(is_snapshot(commit) && is_snapshot(&format!("{commit}-0123456789abcdef")));
        for bad in ["", "main", &commit[1..], &format!("{commit}.partial"), &format!("{commit}-x"), "../x"] {
            assert!(!is_snapshot(bad), "{bad}");
        }
        assert_eq!(repository_of("models--org--a--b").as_deref(), Some("org/a--b"));
        assert_eq!(repository_of("models--"), None);
        assert_eq!(folder_name("org/name"), "models--org--name");
    }

    #[test]
    fn a_receipt_notices_missing_and_shortened_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = ReceiptFile { path: "a".to_owned(), size: 2, digest: None };
        let receipt = Receipt { model: "o/n".to_owned(), commit: "0".repeat(40), files: vec![file] };
        assert!(!receipt.is_intact(folder.path()), "missing");
        std::fs::write(folder.path().join("a"), "x").expect("written");
        assert!(!receipt.is_intact(folder.path()), "too short");
        std::fs::write(folder.path().join("a"), "xy").expect("written");
        assert!(receipt.is_intact(folder.path()));
        assert_eq!(Receipt::read(folder.path()), None);
        std::fs::write(folder.path().join(RECEIPT), "{").expect("written");
        assert_eq!(Receipt::read(folder.path()), None, "not JSON");
    }
}
