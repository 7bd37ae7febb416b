//! Downloads the required files of a commit in parallel, under a lock, and publishes them atomically.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coreml_format::task;

use super::FreeSpace;
use super::error::HubError;
use super::fetch::{Fetcher, part_path};
use super::http::{BREATH, Client};
use super::listing::RemoteFile;
use super::progress::Event;
use super::unzip;
use crate::cache::paths::{RECEIPT, Receipt, ReceiptFile, write_small};

/// Number of concurrent downloads.
const THREADS: usize = 4;

/// Folders of a download. All are on one file system, so that a rename publishes.
#[derive(Debug)]
pub(crate) struct Places {
    /// Partial files.
    pub(crate) parts: PathBuf,
    /// Verified files.
    pub(crate) partial: PathBuf,
    /// The complete model.
    pub(crate) published: PathBuf,
}

/// Contents of a download.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) free: &'a FreeSpace,
    pub(crate) consent: &'a (dyn Fn(u64) -> bool + Send + Sync),
    pub(crate) repository: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) files: &'a [RemoteFile],
}

/// Acquires a lock; notifies the observer if it has to wait.
pub(crate) fn lock(client: &Client, path: &Path) -> Result<File, HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(HubError::io(path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => client.observer.event(&Event::Waiting),
        Err(TryLockError::Error(e)) => return Err(HubError::Io { path: path.to_owned(), source: e }),
    }
    while !task::current().is_empty() {
        let stopped = |_| HubError::Stopped(path.display().to_string());
        task::check().map_err(stopped)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(BREATH),
            Err(TryLockError::Error(e)) => return Err(HubError::Io { path: path.to_owned(), source: e }),
        }
    }
    file.lock().map_err(HubError::io(path))?;
    Ok(file)
}

impl Download<'_> {
    /// Downloads missing files and publishes them. The caller holds the lock.
    pub(crate) fn run(&self, places: &Places) -> Result<(), HubError> {
        self.adopt_damaged(places)?;
        for folder in [&places.parts, &places.partial] {
            fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        }
        self.plan(places)?;
        self.fetch_all(places)?;
        self.publish(places)
    }

    /// Turns a published model with missing or truncated files into an unfinished one; keeps its good files.
    fn adopt_damaged(&self, places: &Places) -> Result<(), HubError> {
        let published = &places.published;
        if !fs::symlink_metadata(published.join(RECEIPT)).is_ok_and(|m| m.is_file()) {
            return Ok(());
        }
        tracing::warn!("{} is damaged and is completed again", published.display());
        if places.partial.exists() {
            return fs::remove_dir_all(published).map_err(HubError::io(published));
        }
        fs::rename(published, &places.partial).map_err(HubError::io(&places.partial))
    }

    /// Returns true if a verified file exists. Only verified files get this name, but it may have been truncated since.
    fn is_there(&self, places: &Places, file: &RemoteFile) -> bool {
        let metadata = fs::symlink_metadata(places.partial.join(&file.path));
        metadata.is_ok_and(|m| m.is_file() && m.len() == file.size)
    }

    /// Notifies the observer of the plan; fails if the disk is too full.
    fn plan(&self, places: &Places) -> Result<(), HubError> {
        let (mut bytes, mut present) = (0u64, 0u64);
        for file in self.files {
            bytes = bytes.saturating_add(file.size);
            present = present.saturating_add(if self.is_there(places, file) {
                file.size
            } else {
                fs::metadata(part_path(&places.parts, file)).map_or(0, |m| m.len().min(file.size))
            });
        }
        let needed = bytes - present.min(bytes);
        if needed > 0 && !(self.consent)(needed) {
            return Err(HubError::Declined { id: self.repository.to_owned(), bytes: needed });
        }
        self.client.observer.event(&Event::Planned { files: self.files.len(), bytes, present });
        let available = self.free.of(&places.partial).map_err(HubError::io(&places.partial))?;
        if needed > available {
            return Err(HubError::Space { path: places.partial.clone(), needed, available });
        }
        Ok(())
    }

    fn fetch_all(&self, places: &Places) -> Result<(), HubError> {
        let stop = AtomicBool::new(false);
        let fetcher = Fetcher {
            client: self.client,
            repository: self.repository,
            commit: self.commit,
            parts: &places.parts,
            stop: &stop,
        };
        let missing: Vec<&RemoteFile> = self.files.iter().filter(|f| !self.is_there(places, f)).collect();
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(e) = fetcher.fetch(file, &places.partial.join(&file.path)) {
                    stop.store(true, Ordering::Relaxed);
                    let mut first = failure.lock().unwrap_or_else(|p| p.into_inner());
                    // The other threads stopped because of the first error.
                    if first.is_none() {
                        *first = Some(e);
                    }
                }
            }
        };
        let tasks = task::current();
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(missing.len()) {
                scope.spawn(|| tasks.run(work));
            }
        });
        failure.into_inner().unwrap_or_else(|p| p.into_inner()).map_or(Ok(()), Err)
    }

    /// Unpacks archives, writes the receipt, and gives the folder its final name.
    fn publish(&self, places: &Places) -> Result<(), HubError> {
        let mut unpacked = Vec::new();
        for file in self.files.iter().filter(|f| f.path.ends_with(".mlmodelc.zip")) {
            let archive = places.partial.join(&file.path);
            let target = archive.with_extension("");
            // The folder may be left over from an attempt that failed after this archive.
            fs::remove_dir_all(&target).or_else(missing_is_fine).map_err(HubError::io(&target))?;
            unzip::unpack(&archive, &target, &|p| self.free.of(p))?;
            unpacked.push((archive, target));
        }
        for (archive, _) in &unpacked {
            fs::remove_file(archive).map_err(HubError::io(archive))?;
        }
        let mut files: Vec<ReceiptFile> = Vec::new();
        for file in self.files.iter().filter(|f| !f.path.ends_with(".mlmodelc.zip")) {
            let digest = Some(file.digest.to_string());
            files.push(ReceiptFile { path: file.path.clone(), size: file.size, digest });
        }
        for (_, target) in &unpacked {
            list(&places.partial, target, &mut files).map_err(HubError::io(target))?;
        }
        let receipt = Receipt { model: self.repository.to_owned(), commit: self.commit.to_owned(), files };
        let path = places.partial.join(RECEIPT);
        let text =
            serde_json::to_vec_pretty(&receipt).map_err(|e| HubError::Io { path: path.clone(), source: e.into() })?;
        write_small(&path, &text).map_err(HubError::io(&path))?;
        sync_folders(&places.partial).map_err(HubError::io(&places.partial))?;
        // The target may be an existing empty folder.
        fs::remove_dir(&places.published).or_else(missing_is_fine).map_err(HubError::io(&places.published))?;
        fs::rename(&places.partial, &places.published).map_err(HubError::io(&places.published))?;
        if let Some(parent) = places.published.parent() {
            sync_folder(parent).map_err(HubError::io(parent))?;
        }
        Ok(())
    }
}

fn missing_is_fine(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

/// All files below a folder, for the receipt.
fn list(root: &Path, folder: &Path, files: &mut Vec<ReceiptFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            list(root, &path, files)?;
        } else {
            let relative = path.strip_prefix(root).map_err(io::Error::other)?;
            let parts: Vec<_> = relative.iter().map(|p| p.to_string_lossy().into_owned()).collect();
            files.push(ReceiptFile { path: parts.join("/"), size: metadata.len(), digest: None });
        }
    }
    Ok(())
}

/// Syncs a folder, so that file names reach the disk, if the system supports it.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}
