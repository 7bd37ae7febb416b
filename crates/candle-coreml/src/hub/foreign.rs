//! The Hugging Face cache: used if it already has a model; never written.
//!
//! `{hub}/models--org--name/refs/{revision}` has the commit, `snapshots/{commit}/` the files as links into `blobs/`.

use std::fs;
use std::path::{Path, PathBuf};

use super::listing::RemoteFile;
use super::{ModelId, Selection};
use crate::cache::paths::{folder_name, is_commit, read_small};

/// The commit that a revision had when downloaded.
fn commit(model: &Path, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.to_owned());
    }
    let text = read_small(&model.join("refs").join(revision)).ok()?;
    let commit = String::from_utf8(text).ok()?.trim().to_owned();
    is_commit(&commit).then_some(commit)
}

/// The snapshot of a commit if it has all required files with their sizes.
pub(crate) fn complete(hub: &Path, id: &ModelId, commit: &str, files: &[RemoteFile]) -> Option<PathBuf> {
    let snapshot = hub.join(folder_name(id.repository())).join("snapshots").join(commit);
    let is_there = |f: &RemoteFile| {
        let archive = f.path.ends_with(".zip");
        !archive && fs::metadata(snapshot.join(&f.path)).is_ok_and(|m| m.is_file() && m.len() == f.size)
    };
    files.iter().all(is_there).then_some(snapshot)
}

/// The snapshot of a revision if, as far as can be told offline, it has what is required: a component, and all files
/// that its components refer to.
pub(crate) fn plausible(hub: &Path, id: &ModelId, selection: &Selection) -> Option<PathBuf> {
    let model = hub.join(folder_name(id.repository()));
    let snapshot = model.join("snapshots").join(commit(&model, id.revision())?);
    let components: Vec<PathBuf> = match selection {
        // Names alone do not tell what patterns would choose on the hub.
        Selection::Matching(_) => return None,
        Selection::File(path) => vec![snapshot.join(path)],
        Selection::Model => {
            let entries = fs::read_dir(&snapshot).ok()?.flatten().map(|e| e.path());
            let extension = |p: &PathBuf| p.extension().is_some_and(|e| e == "mlpackage" || e == "mlmodelc");
            entries.filter(extension).collect()
        }
    };
    (!components.is_empty() && components.iter().all(|c| is_whole(c))).then_some(snapshot)
}

/// Returns true if a component has the files it refers to.
fn is_whole(component: &Path) -> bool {
    if component.is_file() {
        return true;
    }
    if component.extension().is_some_and(|e| e == "mlmodelc") {
        return component.join("coremldata.bin").is_file();
    }
    // Items in the package's manifest.
    let manifest = read_small(&component.join("Manifest.json")).ok();
    let manifest: Option<serde_json::Value> = manifest.and_then(|m| serde_json::from_slice(&m).ok());
    let items = manifest.as_ref().and_then(|m| m.get("itemInfoEntries")).and_then(|i| i.as_object());
    items.is_some_and(|items| {
        !items.is_empty()
            && items.values().all(|item| {
                let path = item.get("path").and_then(|p| p.as_str()).filter(|p| super::listing::check_name(p).is_ok());
                path.is_some_and(|p| holds_a_file(&component.join("Data").join(p), 8))
            })
    })
}

/// Returns true for a file, or a folder with a file below it.
fn holds_a_file(path: &Path, depth: usize) -> bool {
    if path.is_file() {
        return true;
    }
    depth > 0 && fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|e| holds_a_file(&e.path(), depth - 1)))
}
