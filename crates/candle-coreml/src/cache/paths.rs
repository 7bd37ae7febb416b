//! Where models lie in the cache, and how a complete one is told from an unfinished one.
//!
//! ```text
//! {root}/.locks/models--org--name.lock   one writer per model
//! {root}/models--org--name/
//!     .candle-coreml                     says that this folder is ours
//!     refs/main                          the commit that a revision meant when it was last asked for
//!     parts/                             files on their way, resumable
//!     snapshots/{commit}.partial/        verified files of an unfinished download
//!     snapshots/{commit}/                a complete model with its receipt; this name appears last
//!     snapshots/{commit}-{selection}/    single components
//!     configs/{commit}.json              what was discovered about the model
//! ```
//!
//! The folder names of models and snapshots are those of the Hugging Face hub's own cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use coreml_format::file;
use serde::{Deserialize, Serialize};

/// Says that a model's folder was made by this library.
pub(crate) const MARKER: &str = ".candle-coreml";
/// Lists the files of a complete snapshot.
pub(crate) const RECEIPT: &str = ".candle-coreml-receipt.json";
/// Suffix of a snapshot that is being downloaded.
pub(crate) const PARTIAL: &str = ".partial";
/// Suffix of a snapshot that is being deleted.
pub(crate) const REMOVED: &str = ".removed";
/// Largest receipt or reference that is read.
const LARGEST_RECORD: u64 = 16 << 20;

/// What a complete snapshot consists of.
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
    /// Bytes.
    pub size: u64,
    /// `sha256:…` or `git:…`; none for files that were unpacked from an archive.
    pub digest: Option<String>,
}

impl Receipt {
    /// Reads the receipt of a snapshot; none where there is none or it is not understood.
    pub fn read(snapshot: &Path) -> Option<Self> {
        serde_json::from_slice(&read_small(&snapshot.join(RECEIPT)).ok()?).ok()
    }

    /// Whether all files are there with their sizes. Contents were verified before the snapshot got its name.
    pub fn is_intact(&self, snapshot: &Path) -> bool {
        self.files.iter().all(|f| {
            let path = snapshot.join(&f.path);
            fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == f.size)
        })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.size))
    }
}

/// A whole file that has to be small.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    file::read(path, LARGEST_RECORD).map_err(|e| e.cause.into())
}

/// Writes a small file whole or not at all. The caller holds the lock of the folder.
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
        // The first error is the one to report.
        fs::remove_file(&temporary).ok();
    }
    written
}

/// The cache that the environment names: `CANDLE_COREML_CACHE`, else `candle-coreml` in `XDG_CACHE_HOME`, else
/// `~/.cache/candle-coreml`. None without a home folder.
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

/// `org/name` from `models--org--name`.
pub(crate) fn repository_of(folder_name: &str) -> Option<String> {
    let rest = folder_name.strip_prefix("models--").filter(|r| !r.is_empty())?;
    Some(rest.replacen("--", "/", 1))
}

/// Whether a name is a commit: 40 lower-case hexadecimal digits.
pub(crate) fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name is one that this library gives to a complete snapshot.
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

    /// The folder of this name below a root.
    pub(crate) fn named(root: &Path, name: String) -> Self {
        Self { root: root.to_owned(), name }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// Whether this library made it: a real folder with our marker.
    pub(crate) fn is_ours(&self) -> bool {
        let real = |p: &Path, folder: bool| {
            fs::symlink_metadata(p).is_ok_and(|m| if folder { m.is_dir() } else { m.is_file() })
        };
        real(&self.path(), true) && real(&self.path().join(MARKER), false)
    }

    /// Makes the folder and its marker. A folder of others, such as Hugging Face's own cache, is left alone.
    #[cfg(feature = "hub")]
    pub(crate) fn create(&self) -> io::Result<()> {
        let path = self.path();
        fs::create_dir_all(&path)?;
        if !self.is_ours() {
            for entry in fs::read_dir(&path)? {
                // What an interrupted attempt to write the marker left is fine.
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

    /// File with the commit of a revision; a `/` in a revision is written `%2F`.
    #[cfg(feature = "hub")]
    pub(crate) fn reference(&self, revision: &str) -> PathBuf {
        self.path().join("refs").join(revision.replace('/', "%2F"))
    }

    /// File with what was discovered about a snapshot.
    #[cfg(feature = "hub")]
    pub(crate) fn config(&self, snapshot: &str) -> PathBuf {
        self.path().join("configs").join(format!("{snapshot}.json"))
    }

    /// File whose lock a writer of this folder holds. It is never deleted: two processes must lock the same file.
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

/// When a snapshot was last used: the time of its receipt.
pub(crate) fn last_used(snapshot: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(snapshot.join(RECEIPT)).and_then(|m| m.modified()).ok()
}

/// Notes that a snapshot was used. A read-only cache just keeps its old time.
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
