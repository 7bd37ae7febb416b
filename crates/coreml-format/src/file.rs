//! Opens untrusted files: regular files only, and no larger than a given limit.
//!
//! Opening a named pipe blocks until it has a writer, a device such as `/dev/zero` never ends, and a sparse file
//! claims more bytes than a disk has. So the path is checked before opening, the open file is checked again, as the
//! path may have changed by then, and whole files are read up to a limit.
//!
//! Windows folders contain no named pipes or devices; there only the file type is checked.
//!
//! Paths of [folders in memory](crate::memory) are read as those on disk are.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use prost::bytes::Bytes;

use crate::memory::{self, Entry};

/// Reason why a file cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct FileError {
    /// File path.
    pub path: PathBuf,
    /// Cause; its text does not repeat the path.
    pub cause: FileCause,
}

/// Cause of a [`FileError`]. If it is the source of an [`io::Error`], [`io::Error::get_ref`] finds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileCause {
    /// A system error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a regular file.
    #[error("expected a regular file, found {found}")]
    Kind {
        /// Kind of file, such as "a named pipe".
        found: &'static str,
    },
    /// The file exceeds the size limit.
    #[error("expected at most {limit} bytes, found {found}")]
    Size {
        /// Limit in bytes.
        limit: u64,
        /// File size in bytes; more than the limit if it grows while being read.
        found: u64,
    },
}

impl From<FileCause> for io::Error {
    fn from(cause: FileCause) -> Self {
        match cause {
            FileCause::Io(e) => e,
            FileCause::Kind { .. } => io::Error::new(io::ErrorKind::InvalidInput, cause),
            FileCause::Size { .. } => io::Error::new(io::ErrorKind::FileTooLarge, cause),
        }
    }
}

fn at(path: &Path) -> impl Fn(FileCause) -> FileError {
    move |cause| FileError { path: path.to_owned(), cause }
}

/// Kind of a non-regular file.
fn kind(of: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let ty = of.file_type();
        for (is, name) in [
            (ty.is_fifo(), "a named pipe"),
            (ty.is_socket(), "a socket"),
            (ty.is_char_device(), "a character device"),
            (ty.is_block_device(), "a block device"),
        ] {
            if is {
                return name;
            }
        }
    }
    if of.is_dir() { "a folder" } else { "neither a file nor a folder" }
}

fn regular(of: Metadata) -> Result<Metadata, FileCause> {
    if of.is_file() { Ok(of) } else { Err(FileCause::Kind { found: kind(&of) }) }
}

/// Checks that a path refers to a regular file, for libraries that open it themselves. Links are followed.
///
/// # Errors
/// [`FileError`] if it does not exist or is not a regular file.
pub fn check(path: &Path) -> Result<Metadata, FileError> {
    std::fs::metadata(path).map_err(FileCause::Io).and_then(regular).map_err(at(path))
}

/// Opens a regular file for reading, without blocking. Links are followed.
///
/// # Errors
/// [`FileError`] if it cannot be opened, or is a folder, a named pipe, a socket or a device.
pub fn open(path: &Path) -> Result<File, FileError> {
    open_sized(path).map(|(file, _)| file)
}

/// [`open`] that also returns the file size.
fn open_sized(path: &Path) -> Result<(File, u64), FileError> {
    // Opening alone can have side effects on a device, so check the path first.
    check(path)?;
    open_at_once(path).map_err(at(path))
}

/// Opens the path, then checks that it is a regular file.
fn open_at_once(path: &Path) -> Result<(File, u64), FileCause> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // If a pipe or a terminal has replaced the file: do not block, do not make it the controlling terminal. Both
        // flags are ignored for regular files.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    let file = options.open(path)?;
    let size = regular(file.metadata()?)?.len();
    Ok((file, size))
}

/// True if there is a file or a folder. Links are followed.
pub fn exists(path: &Path) -> bool {
    match memory::entry(path) {
        Some(entry) => !matches!(entry, Entry::Nothing),
        None => path.exists(),
    }
}

/// True if there is a regular file. Links are followed.
pub fn is_file(path: &Path) -> bool {
    match memory::entry(path) {
        Some(entry) => matches!(entry, Entry::File(_)),
        None => path.is_file(),
    }
}

/// True if there is a folder. Links are followed.
pub fn is_dir(path: &Path) -> bool {
    match memory::entry(path) {
        Some(entry) => matches!(entry, Entry::Folder(_)),
        None => path.is_dir(),
    }
}

/// Paths of what a folder holds, in no certain order.
///
/// # Errors
/// A system error if it is no folder, or can't be read.
pub fn entries(folder: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<PathBuf>>>> {
    match memory::entry(folder) {
        Some(Entry::Folder(names)) => {
            let folder = folder.to_owned();
            Ok(Box::new(names.into_iter().map(move |name| Ok(folder.join(name)))))
        }
        Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
        Some(Entry::Nothing) => Err(io::ErrorKind::NotFound.into()),
        None => Ok(Box::new(std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())))),
    }
}

/// The path without `.`, `..` and links.
///
/// # Errors
/// A system error if there is nothing.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    memory::canonical(path).unwrap_or_else(|| path.canonicalize())
}

/// A file in memory of at most `limit` bytes; `None` if the path leads elsewhere.
fn in_memory(path: &Path, limit: u64) -> Option<Result<Bytes, FileError>> {
    let found = match memory::entry(path)? {
        Entry::File(bytes) if bytes.len() as u64 > limit => Err(FileCause::Size { limit, found: bytes.len() as u64 }),
        Entry::File(bytes) => Ok(bytes),
        Entry::Folder(_) => Err(FileCause::Kind { found: "a folder" }),
        Entry::Nothing => Err(FileCause::Io(io::ErrorKind::NotFound.into())),
    };
    Some(found.map_err(at(path)))
}

/// The first bytes of a file, `count` of them or all.
///
/// # Errors
/// [`FileError`] as for [`open`].
pub fn beginning(path: &Path, count: u64) -> Result<Vec<u8>, FileError> {
    if let Some(bytes) = in_memory(path, u64::MAX) {
        return bytes.map(|b| b[..b.len().min(usize::try_from(count).unwrap_or(usize::MAX))].to_vec());
    }
    let mut bytes = Vec::new();
    open(path)?.take(count).read_to_end(&mut bytes).map_err(|e| at(path)(e.into()))?;
    Ok(bytes)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`FileError`] as for [`open`], if the file is larger, or if allocation fails.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    if let Some(bytes) = in_memory(path, limit) {
        return bytes.map(|b| b.to_vec());
    }
    let (file, size) = open_sized(path)?;
    let fail = at(path);
    if size > limit {
        return Err(fail(FileCause::Size { limit, found: size }));
    }
    let mut content = Vec::new();
    let room = usize::try_from(size).map(|n| content.try_reserve_exact(n));
    if !matches!(room, Ok(Ok(()))) {
        return Err(fail(FileCause::Io(io::ErrorKind::OutOfMemory.into())));
    }
    // A file may grow meanwhile, or report no bytes and have some, as those in /proc do.
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(|e| fail(e.into()))?;
    match content.len() as u64 {
        found if found > limit => Err(fail(FileCause::Size { limit, found })),
        _ => Ok(content),
    }
}

/// Memory-maps a regular file of at most `limit` bytes.
///
/// Like any mapped file: truncating or rewriting it meanwhile can crash the process or change the data; model
/// files are not written in place.
///
/// # Errors
/// [`FileError`] as for [`open`], or if the file is larger.
pub fn map(path: &Path, limit: u64) -> Result<Bytes, FileError> {
    if let Some(bytes) = in_memory(path, limit) {
        return bytes;
    }
    let (file, size) = open_sized(path)?;
    let fail = at(path);
    if size > limit {
        return Err(fail(FileCause::Size { limit, found: size }));
    }
    // Some systems refuse to map an empty file.
    if size == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is read-only and owned by the bytes; for concurrent changes to the file see above.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| fail(e.into()))?;
    Ok(Bytes::from_owner(map))
}

/// Reads a UTF-8 file of at most `limit` bytes.
///
/// # Errors
/// [`FileError`] as for [`read`], or if the bytes are not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let invalid = |e: std::string::FromUtf8Error| {
        at(path)(io::Error::new(io::ErrorKind::InvalidData, format!("expected UTF-8 text: {}", e.utf8_error())).into())
    };
    String::from_utf8(read(path, limit)?).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_are_read_up_to_the_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a");
        std::fs::write(&file, "four").expect("written");
        assert_eq!(read(&file, 4).expect("at the limit"), b"four");
        assert_eq!(read_text(&file, u64::MAX).expect("text"), "four");
        assert_eq!(&*map(&file, 4).expect("at the limit"), b"four");
        assert!(matches!(map(&file, 3).expect_err("too large").cause, FileCause::Size { limit: 3, found: 4 }));
        let error = read(&file, 3).expect_err("too large");
        assert!(matches!(error.cause, FileCause::Size { limit: 3, found: 4 }), "{error}");
        std::fs::write(&file, "").expect("written");
        assert_eq!(read(&file, 0).expect("empty"), b"");
        assert!(map(&file, 0).expect("empty").is_empty());
        std::fs::write(&file, [0xff]).expect("written");
        assert!(read_text(&file, 1).expect_err("no text").to_string().contains("UTF-8"));
    }

    #[test]
    fn sparse_files_are_refused_by_their_size_before_memory_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sparse");
        let file = File::create(&path).and_then(|f| f.set_len(1 << 42));
        // Not supported by every file system.
        if file.is_ok() {
            let error = read(&path, 1 << 20).expect_err("4 TiB").to_string();
            assert!(error.contains("1048576 bytes, found 4398046511104"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_named_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().expect("mkfifo is there");
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
        std::os::unix::fs::symlink(path("pipe"), path("link")).expect("a link");
        let kinds = [
            (path("pipe"), "a named pipe"),
            (path("link"), "a named pipe"),
            (path("socket"), "a socket"),
            (folder.path().to_owned(), "a folder"),
            ("/dev/zero".into(), "a character device"),
        ];
        let (done, answers) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for (path, kind) in kinds {
                // The second case occurs if a pipe replaces a file between check and opening; a socket cannot be opened
                // at all.
                let late = open_at_once(&path).map(drop).map_err(at(&path));
                let mapped = map(&path, 1 << 20).map(drop);
                let opened =
                    [open(&path).map(drop), late, mapped, read(&path, 1 << 20).map(drop), check(&path).map(drop)];
                for error in opened.map(|result| result.expect_err("no regular file")) {
                    let socket = kind == "a socket" && matches!(error.cause, FileCause::Io(_));
                    assert!(socket || error.to_string().ends_with(&format!("found {kind}")), "{error}");
                }
            }
            done.send(()).expect("the test listens");
        });
        answers.recv_timeout(std::time::Duration::from_secs(60)).expect("nothing waits, everything is named");
    }

    #[test]
    fn causes_are_kept_inside_of_io_errors() {
        let error = check(&std::env::temp_dir()).expect_err("a folder");
        assert!(error.to_string().ends_with(": expected a regular file, found a folder"), "{error}");
        let wrapped = io::Error::from(error.cause);
        let inner = wrapped.get_ref().and_then(|e| e.downcast_ref::<FileCause>());
        assert!(matches!(inner, Some(FileCause::Kind { found: "a folder" })), "{wrapped}");
        let missing = open(Path::new("/there/is/nothing")).expect_err("nothing");
        assert_eq!(io::Error::from(missing.cause).kind(), io::ErrorKind::NotFound);
    }
}
