//! The demo model: a small language model inside the command, so that it answers without files and without a network.
//!
//! Engines map files, so the model is unpacked once, below the cache; where nothing can be written there, into a
//! temporary folder.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_coreml::CacheManager;
use candle_coreml::archive::unzip;
use tempfile::TempDir;
use zip::ZipArchive;

/// The name that selects it wherever a model is named.
pub(crate) const NAME: &str = "demo";
/// The name of its folder.
pub(crate) const MODEL: &str = "tiny-qwen3";

/// Its files, as `models/tiny-qwen3` has them.
const ARCHIVE: &[u8] = include_bytes!("../demo/tiny-qwen3.zip");

/// The folder in use where the cache can't be written; deleted by [`clean_up`].
static TEMPORARY: Mutex<Option<TempDir>> = Mutex::new(None);

/// Says on standard error that the demo model answers, and how to choose another one.
pub(crate) fn announce() {
    note!(
        "demo model: knows sums, capitals and little else; choose a real one with --model org/name, --model DIR or \
         `candle-coreml setup`"
    );
}

fn archive() -> Result<ZipArchive<Cursor<&'static [u8]>>, String> {
    ZipArchive::new(Cursor::new(ARCHIVE)).map_err(|e| format!("the demo model in this program: {e}"))
}

/// Names, sizes and checksums of the files.
fn entries(archive: &mut ZipArchive<Cursor<&'static [u8]>>) -> Result<Vec<(String, u64, u32)>, String> {
    (0..archive.len())
        .map(|i| {
            let entry = archive.by_index_raw(i).map_err(|e| e.to_string())?;
            let name = entry.name().map_err(|e| e.to_string())?.into_owned();
            Ok((name, entry.size(), entry.crc32()))
        })
        .collect()
}

/// True if all files are in a folder with their sizes.
fn is_whole(folder: &Path, entries: &[(String, u64, u32)]) -> bool {
    entries.iter().all(|(name, size, _)| folder.join(name).metadata().is_ok_and(|m| m.is_file() && m.len() == *size))
}

/// Unpacks the files into a new folder.
fn unpack(folder: &Path) -> Result<(), String> {
    for (name, content) in unzip("the demo model in this program", ARCHIVE).map_err(|e| e.to_string())? {
        let path = folder.join(&name);
        let fail = |e: std::io::Error| format!("{}: {e}", path.display());
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(fail)?;
        std::fs::write(&path, content).map_err(fail)?;
    }
    Ok(())
}

/// The folder below `root`, unpacked if it is not whole there. It appears under its name when it is complete.
fn below(root: &Path) -> Result<PathBuf, String> {
    let entries = entries(&mut archive()?)?;
    // Another version of the model has another folder.
    let version = entries.iter().fold(0u32, |mixed, (_, _, crc)| mixed.rotate_left(5) ^ crc);
    let parent = root.join(NAME).join(format!("{version:08x}"));
    let folder = parent.join(MODEL);
    if is_whole(&folder, &entries) {
        return Ok(folder);
    }
    let fail = |e: std::io::Error| format!("{}: {e}", parent.display());
    std::fs::create_dir_all(&parent).map_err(fail)?;
    let work = TempDir::new_in(&parent).map_err(fail)?;
    let fresh = work.path().join(MODEL);
    unpack(&fresh)?;
    if folder.exists() {
        // Damaged: out of the way, and gone with the temporary folder.
        let _ = std::fs::rename(&folder, work.path().join("damaged"));
    }
    match std::fs::rename(&fresh, &folder) {
        // Another process was first.
        Err(_) if is_whole(&folder, &entries) => Ok(folder),
        Err(e) => Err(fail(e)),
        Ok(()) => Ok(folder),
    }
}

/// The folder of the demo model.
pub(crate) fn folder() -> Result<PathBuf, String> {
    let cache = CacheManager::from_environment();
    let refused = match cache.models().map(below) {
        Some(Ok(folder)) => return Ok(folder),
        Some(Err(e)) => e,
        None => "there is no home folder for the cache".to_owned(),
    };
    let mut temporary = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    if temporary.is_none() {
        let made = tempfile::Builder::new().prefix("candle-coreml-").tempdir();
        *temporary = Some(made.map_err(|e| {
            format!("the demo model can't be unpacked, neither into the cache ({refused}) nor elsewhere ({e})")
        })?);
    }
    let root = temporary.as_ref().ok_or("the demo model has no folder")?;
    below(root.path())
}

/// Deletes the temporary folder, if there is one.
pub(crate) fn clean_up() {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, DateTime, ZipWriter};

    use super::*;

    /// Files of the model by name; notes and questions for tests stay out.
    fn source() -> BTreeMap<String, Vec<u8>> {
        fn add(folder: &Path, prefix: &str, all: &mut BTreeMap<String, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry")) {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.path().is_dir() {
                    add(&entry.path(), &format!("{name}/"), all);
                } else if !["README.md", "heldout.jsonl"].contains(&name.as_str()) {
                    all.insert(name, std::fs::read(entry.path()).expect("read"));
                }
            }
        }
        let mut all = BTreeMap::new();
        add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(MODEL), "", &mut all);
        all
    }

    /// `UPDATE_DEMO=1` writes the archive.
    #[test]
    fn the_archive_has_the_files_of_the_repository() {
        let source = source();
        if std::env::var_os("UPDATE_DEMO").is_some() {
            let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Deflated)
                .compression_level(Some(9))
                .last_modified_time(DateTime::default());
            for (name, content) in &source {
                zip.start_file(name.as_str(), options).expect("a file");
                zip.write_all(content).expect("written");
            }
            let bytes = zip.finish().expect("an archive").into_inner();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/tiny-qwen3.zip");
            std::fs::write(path, bytes).expect("written");
            return;
        }
        let mut archive = archive().expect("an archive");
        assert_eq!(archive.len(), source.len());
        for (name, content) in &source {
            let mut found = Vec::new();
            archive.by_name(name).expect(name).read_to_end(&mut found).expect("read");
            assert!(found == *content, "{name} differs: UPDATE_DEMO=1 writes the archive");
        }
        assert!(ARCHIVE.len() < 2 << 20, "{} bytes", ARCHIVE.len());
    }

    #[test]
    fn it_is_unpacked_once_and_again_where_it_is_damaged() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = below(root.path()).expect("unpacked");
        let file = folder.join("tokenizer.json");
        let made = file.metadata().and_then(|m| m.modified()).expect("a time");
        assert_eq!(below(root.path()).expect("there"), folder);
        assert_eq!(file.metadata().and_then(|m| m.modified()).expect("a time"), made, "not unpacked again");
        std::fs::write(&file, "{").expect("damaged");
        assert_eq!(below(root.path()).expect("unpacked again"), folder);
        assert_eq!(std::fs::read(&file).expect("read"), source()["tokenizer.json"]);
        let parent = folder.parent().expect("a parent");
        assert_eq!(std::fs::read_dir(parent).expect("a folder").count(), 1, "nothing else is left");
        let blocked = root.path().join("file");
        std::fs::write(&blocked, "").expect("written");
        assert!(below(&blocked).expect_err("no folder").contains("file"));
    }
}
