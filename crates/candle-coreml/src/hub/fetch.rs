//! Downloads one file: into a resumable part, verified, then renamed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use coreml_format::task;

use super::digest::{Digest, Hasher, name_hash};
use super::error::HubError;
use super::http::{Answer, Client, Failure};
use super::listing::RemoteFile;
use super::progress::Event;
use crate::cache::paths::{read_small, write_small};
use crate::net::url;

const BUFFER: usize = 128 << 10;
/// Amount of new content that makes a failed attempt count as progress.
const PROGRESS: u64 = 1 << 20;

/// Fetches files of one commit.
pub(crate) struct Fetcher<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repository: &'a str,
    pub(crate) commit: &'a str,
    /// Folder of the parts.
    pub(crate) parts: &'a Path,
    /// Set to stop the download early.
    pub(crate) stop: &'a AtomicBool,
}

/// Path of a partial file. Its name identifies the content and the file, so that it is found again, even after a later
/// commit that left the file unchanged.
pub(crate) fn part_path(parts: &Path, file: &RemoteFile) -> PathBuf {
    parts.join(format!("{}-{}.part", file.digest.digits(), name_hash(&file.path)))
}

/// A partial file with its running checksum.
struct Part<'a> {
    wanted: &'a RemoteFile,
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
}

impl<'a> Part<'a> {
    /// Opens a partial file and hashes its existing content.
    fn open(path: PathBuf, wanted: &'a RemoteFile) -> Result<Self, HubError> {
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut part = Self {
            file: open.map_err(HubError::io(&path))?,
            hasher: wanted.digest.hasher(wanted.size),
            length: 0,
            path,
            wanted,
        };
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = part.file.read(&mut buffer).map_err(HubError::io(&part.path))?;
            if n == 0 {
                return Ok(part);
            }
            part.length += n as u64;
            if part.length > wanted.size {
                part.clear()?;
                return Ok(part);
            }
            part.hasher.update(&buffer[..n]);
        }
    }

    /// Restarts from zero.
    fn clear(&mut self) -> Result<(), HubError> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(HubError::io(&self.path))?;
        self.length = 0;
        self.hasher = self.wanted.digest.hasher(self.wanted.size);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.length == self.wanted.size
    }

    /// Path of the file with the content's ETag.
    fn tag_path(&self) -> PathBuf {
        self.path.with_extension("etag")
    }

    /// The ETag of the existing content; weak ones do not guarantee identical bytes.
    fn tag(&self) -> Option<String> {
        let tag = String::from_utf8(read_small(&self.tag_path()).ok()?).ok()?;
        (tag.starts_with('"') && tag.ends_with('"') && tag.bytes().all(|b| (b' '..0x7f).contains(&b))).then_some(tag)
    }

    fn remember_tag(&self, answer: &Answer) {
        let tag = answer.header("etag").unwrap_or_default();
        // Without the tag, only the checksum verifies resumed content.
        if let Err(e) = write_small(&self.tag_path(), tag.as_bytes()) {
            tracing::debug!("{}: {e}", self.tag_path().display());
        }
    }
}

impl Fetcher<'_> {
    /// Downloads a file of the repository to `target`; retries wrong content once.
    pub(crate) fn fetch(&self, file: &RemoteFile, target: &Path) -> Result<(), HubError> {
        let folder = target.parent().unwrap_or(target);
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        let path = part_path(self.parts, file);
        for last in [false, true] {
            let found = self.complete(file, &path)?;
            let tag = path.with_extension("etag");
            if found == file.digest {
                fs::rename(&path, target).map_err(HubError::io(target))?;
                fs::remove_file(tag).ok();
                self.client.observer.event(&Event::Finished { file: &file.path });
                return Ok(());
            }
            fs::remove_file(&path).map_err(HubError::io(&path))?;
            fs::remove_file(tag).ok();
            if last {
                let (expected, found) = (file.digest.to_string(), found.to_string());
                return Err(HubError::Checksum { file: file.path.clone(), expected, found });
            }
            let cause = "the content has the wrong checksum";
            let delay = self.client.retry.delay(1, None);
            self.client.observer.event(&Event::Retry { what: &file.path, cause, delay });
            self.client.sleep(&file.path, delay)?;
        }
        Err(HubError::Stopped(file.path.clone()))
    }

    /// Completes a partial file, over any number of requests, syncs it to disk and returns its checksum.
    fn complete(&self, file: &RemoteFile, path: &Path) -> Result<Digest, HubError> {
        let mut part = Part::open(path.to_owned(), file)?;
        let (mut failures, mut best) = (0, part.length);
        self.client.observer.event(&Event::Started { file: &file.path, size: file.size, position: part.length });
        while !part.is_complete() {
            match self.attempt(&mut part) {
                Ok(()) => {}
                Err(failure) => {
                    if part.length >= best.saturating_add(PROGRESS) {
                        (failures, best) = (0, part.length);
                    }
                    self.client.pause(&file.path, failure, &mut failures)?;
                }
            }
        }
        part.file.sync_all().map_err(HubError::io(path))?;
        Ok(part.hasher.finish())
    }

    /// Requests the missing content once.
    fn attempt(&self, part: &mut Part<'_>) -> Result<(), Failure> {
        let file = part.wanted;
        let address = format!(
            "{}/{}/resolve/{}/{}",
            self.client.endpoint(),
            self.repository,
            self.commit,
            url::escape(&file.path, true)
        );
        let mut headers = Vec::new();
        if part.length > 0 {
            headers.push(("range", format!("bytes={}-", part.length)));
            headers.extend(part.tag().map(|tag| ("if-range", tag)));
        }
        let answer = self.client.get(&file.path, &address, &headers)?;
        self.position(part, &answer)?;
        part.remember_tag(&answer);
        self.receive(part, answer)
    }

    /// Moves the part to the start of the response body.
    fn position(&self, part: &mut Part<'_>, answer: &Answer) -> Result<(), Failure> {
        let size = part.wanted.size;
        if answer.status == 206 {
            let range = answer.header("content-range").unwrap_or_default().to_owned();
            let expected = format!("bytes {}-", part.length);
            let total = range.rsplit('/').next().unwrap_or_default();
            if range.starts_with(&expected) && (total == "*" || total == size.to_string()) {
                return Ok(());
            }
            part.clear()?;
            return Err(Failure::passing(format!("the server sent the range `{range}`; expected {expected}…/{size}")));
        }
        part.clear()?;
        if answer.status == 416 {
            return Err(Failure::passing(format!("{}: HTTP 416: the range is not available", answer.url)));
        }
        match answer.header("content-length").and_then(|v| v.parse::<u64>().ok()) {
            Some(length) if length != size => {
                Err(Failure::passing(format!("the server sends {length} bytes; the listing says {size}")))
            }
            _ => Ok(()),
        }
    }

    /// Appends the response body.
    fn receive(&self, part: &mut Part<'_>, answer: Answer) -> Result<(), Failure> {
        let file = part.wanted;
        let mut body = answer.body.into_reader();
        let mut buffer = vec![0; BUFFER];
        let mut watch = self.client.watch();
        loop {
            if self.stop.load(Ordering::Relaxed) || task::is_cancelled() {
                return Err(HubError::Stopped(file.path.clone()).into());
            }
            let n = body
                .read(&mut buffer)
                .map_err(|e| Failure::passing(format!("cut after {} of {} bytes: {e}", part.length, file.size)))?;
            if n == 0 && part.is_complete() {
                return Ok(());
            }
            if n == 0 {
                return Err(Failure::passing(format!("cut after {} of {} bytes", part.length, file.size)));
            }
            if part.length + n as u64 > file.size {
                part.clear()?;
                return Err(Failure::passing(format!("the server sends more than the {} bytes it listed", file.size)));
            }
            part.append(&buffer[..n])?;
            watch.received(n).map_err(Failure::passing)?;
            self.client.observer.event(&Event::Progress { file: &file.path, position: part.length });
            task::report(&file.path, part.length, file.size);
        }
    }
}
