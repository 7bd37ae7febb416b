//! Unpacks `.mlmodelc.zip`; archives are untrusted.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::error::HubError;
use super::listing::check_name;
use crate::archive::{ALWAYS_ALLOWED, LARGEST_RATIO, MOST_ENTRIES, is_litter};

/// Validated entries of an archive: index, path below the model's folder, declared size.
struct Plan {
    files: Vec<(usize, String, u64)>,
    total: u64,
}

/// Unpacks an archive into `target`, which appears only once complete. A single top-level folder `….mlmodelc` is
/// stripped. `free` returns the free bytes of the file system.
///
/// # Errors
/// If names escape the folder, entries are links, encrypted or damaged, the content exceeds the declared size or the
/// limit, or the disk is full. Leaves nothing behind.
pub(crate) fn unpack(archive: &Path, target: &Path, free: &dyn Fn(&Path) -> io::Result<u64>) -> Result<(), HubError> {
    let fail = |message: String| HubError::Archive { path: archive.to_owned(), message };
    let opened = coreml_format::file::open(archive).map_err(|e| e.cause.into());
    let file = opened.map_err(HubError::io(archive))?;
    let packed = file.metadata().map_err(HubError::io(archive))?.len();
    let mut zip = ZipArchive::new(file).map_err(|e| fail(format!("not a zip archive: {e}")))?;
    let plan = plan(&mut zip, packed, archive)?;
    let mut work = target.as_os_str().to_owned();
    work.push(".unpacking");
    let work = PathBuf::from(work);
    let parent = target.parent().unwrap_or(Path::new("."));
    let available = free(parent).map_err(HubError::io(parent))?;
    if available < plan.total {
        return Err(HubError::Space { path: parent.to_owned(), needed: plan.total, available });
    }
    remove_tree(&work)?;
    let written = plan
        .files
        .iter()
        .try_for_each(|(index, name, size)| write_entry(&mut zip, *index, &work.join(name), *size, archive));
    let done = written.and_then(|()| fs::rename(&work, target).map_err(HubError::io(target)));
    if done.is_err() {
        // Report the first error.
        remove_tree(&work).ok();
    }
    done
}

fn remove_tree(path: &Path) -> Result<(), HubError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::Io { path: path.to_owned(), source: e }),
        _ => Ok(()),
    }
}

fn plan(zip: &mut ZipArchive<File>, packed: u64, archive: &Path) -> Result<Plan, HubError> {
    let fail = |message: String| HubError::Archive { path: archive.to_owned(), message };
    if zip.len() > MOST_ENTRIES {
        return Err(fail(format!("{} entries; at most {MOST_ENTRIES} are accepted", zip.len())));
    }
    let (mut files, mut total) = (Vec::new(), 0u64);
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|e| fail(format!("entry {index}: {e}")))?;
        let name = entry.name().map_err(|e| fail(format!("entry {index}: {e}")))?.into_owned();
        check_name(name.strip_suffix('/').unwrap_or(&name)).map_err(|reason| {
            let name = name.chars().take(200).collect();
            HubError::Name { what: archive.display().to_string(), name, reason }
        })?;
        // File type of a Unix mode, in the upper bits: 0o100000 is a regular file, 0o040000 a folder.
        let kind = entry.unix_mode().map_or(0, |m| m & 0o170_000);
        if entry.is_symlink() || !matches!(kind, 0 | 0o100_000 | 0o040_000) {
            return Err(fail(format!("`{name}` is a link or a special file")));
        }
        if entry.encrypted() {
            return Err(fail(format!("`{name}` is encrypted")));
        }
        total = total.saturating_add(entry.size());
        if !entry.is_dir() && !is_litter(&name) {
            files.push((index, name, entry.size()));
        }
    }
    let limit = packed.saturating_mul(LARGEST_RATIO).max(ALWAYS_ALLOWED);
    if total > limit {
        return Err(fail(format!("it declares {total} bytes, but holds {packed}: more than {LARGEST_RATIO} times")));
    }
    strip_common_folder(&mut files);
    let mut names: Vec<String> = files.iter().map(|f| f.1.to_lowercase()).collect();
    names.sort();
    if names.windows(2).any(|w| w[0] == w[1]) {
        return Err(fail("two entries have the same name".to_owned()));
    }
    if files.is_empty() {
        return Err(fail("it is empty".to_owned()));
    }
    Ok(Plan { files, total })
}

/// Archives of a folder prefix every name with the folder's.
fn strip_common_folder(files: &mut [(usize, String, u64)]) {
    let Some((first, _)) = files.first().and_then(|f| f.1.split_once('/')) else { return };
    let prefix = format!("{first}/");
    if first.ends_with(".mlmodelc") && files.iter().all(|f| f.1.starts_with(&prefix)) {
        for file in files {
            file.1.drain(..prefix.len());
        }
    }
}

fn write_entry(
    zip: &mut ZipArchive<File>,
    index: usize,
    path: &Path,
    size: u64,
    archive: &Path,
) -> Result<(), HubError> {
    let fail = |message: String| HubError::Archive { path: archive.to_owned(), message };
    let mut entry = zip.by_index(index).map_err(|e| fail(format!("entry {index}: {e}")))?;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let mut file = File::options().write(true).create_new(true).open(path).map_err(HubError::io(path))?;
    let mut buffer = vec![0; 128 << 10];
    let mut written = 0;
    loop {
        let n = entry.read(&mut buffer).map_err(|e| fail(format!("entry {index}: {e}")))?;
        if n == 0 {
            break;
        }
        written += n as u64;
        if written > size {
            return Err(fail(format!("entry {index} has more than the {size} bytes that it declares")));
        }
        file.write_all(&buffer[..n]).map_err(HubError::io(path))?;
    }
    if written != size {
        return Err(fail(format!("entry {index} has {written} bytes, but declares {size}")));
    }
    file.sync_all().map_err(HubError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// Creates an archive and unpacks it; returns the sorted names of the unpacked files.
    fn run(free: u64, make: impl FnOnce(&mut ZipWriter<File>)) -> Result<Vec<String>, HubError> {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = folder.path().join("m.mlmodelc.zip");
        let mut zip = ZipWriter::new(File::create(&archive).expect("a file"));
        make(&mut zip);
        zip.finish().expect("finished");
        let target = folder.path().join("in/m.mlmodelc");
        fs::create_dir(folder.path().join("in")).expect("a folder");
        let result = unpack(&archive, &target, &|_| Ok(free));
        let outside: Vec<_> = fs::read_dir(folder.path()).expect("entries").flatten().map(|e| e.file_name()).collect();
        assert_eq!(outside.len(), 2, "nothing was written elsewhere: {outside:?}");
        let inside = fs::read_dir(folder.path().join("in")).expect("entries").count();
        assert_eq!(inside, usize::from(result.is_ok()), "nothing is left behind");
        result?;
        let mut names = Vec::new();
        let mut folders = vec![target.clone()];
        while let Some(at) = folders.pop() {
            for entry in fs::read_dir(at).expect("entries").flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    names.push(path.strip_prefix(&target).expect("inside").to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn add(zip: &mut ZipWriter<File>, name: &str, content: &[u8]) {
        zip.start_file(name, SimpleFileOptions::default()).expect("started");
        zip.write_all(content).expect("written");
    }

    #[test]
    fn the_common_folder_and_litter_are_left_out() {
        let names = run(1 << 20, |zip| {
            zip.add_directory("m.mlmodelc/", SimpleFileOptions::default()).expect("a folder");
            add(zip, "m.mlmodelc/model.mil", b"program");
            add(zip, "m.mlmodelc/weights/weight.bin", &[7; 5000]);
            add(zip, "__MACOSX/m.mlmodelc/._model.mil", b"");
        });
        assert_eq!(names.expect("unpacked"), ["model.mil", "weights/weight.bin"]);
        let plain = run(1 << 20, |zip| add(zip, "model.mil", b"program"));
        assert_eq!(plain.expect("unpacked"), ["model.mil"]);
    }

    #[test]
    fn hostile_archives_are_refused() {
        for name in ["../x", "a/../../x", "/x", "C:/x", "a\\..\\x", "nul"] {
            let error = run(1 << 20, |zip| add(zip, name, b"x")).expect_err(name);
            assert!(matches!(error.kind(), "name" | "archive"), "{name}: {error}");
        }
        let link = run(1 << 20, |zip| {
            zip.add_symlink("a", "/etc/passwd", SimpleFileOptions::default()).expect("a link");
        });
        assert_eq!(link.expect_err("a link").kind(), "archive");
        let bomb = run(1 << 40, |zip| add(zip, "zeros", &vec![0; 64 << 20]));
        assert!(bomb.expect_err("a bomb").to_string().contains("200 times"));
        assert!(run(1 << 20, |zip| add(zip, "a", b"x")).is_ok());
        assert!(run(1 << 20, |_| ()).expect_err("empty").to_string().contains("empty"));
        assert_eq!(run(3, |zip| add(zip, "a", b"four")).expect_err("full").kind(), "space");
    }

    #[test]
    fn an_archive_that_lies_about_a_size_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = folder.path().join("m.mlmodelc.zip");
        let mut zip = ZipWriter::new(File::create(&archive).expect("a file"));
        add(&mut zip, "a", &[1; 1000]);
        zip.finish().expect("finished");
        let mut bytes = fs::read(&archive).expect("read");
        // The uncompressed size in the central directory: 24 bytes after its signature (APPNOTE 4.3.12).
        let at = bytes.windows(4).position(|w| w == b"PK\x01\x02").expect("a central directory") + 24;
        bytes[at..at + 4].copy_from_slice(&10u32.to_le_bytes());
        fs::write(&archive, bytes).expect("written");
        let target = folder.path().join("m.mlmodelc");
        assert_eq!(unpack(&archive, &target, &|_| Ok(u64::MAX)).expect_err("a lie").kind(), "archive");
        assert!(!target.exists());
        fs::write(&archive, b"not a zip").expect("written");
        assert_eq!(unpack(&archive, &target, &|_| Ok(u64::MAX)).expect_err("no zip").kind(), "archive");
    }
}
