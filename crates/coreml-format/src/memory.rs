//! Folders in memory that are opened by path, as those on disk are: for browsers, which have no disk.
//!
//! ```
//! use coreml_format::memory::MemoryFolder;
//!
//! let files = [("a/one.txt".to_owned(), b"1".to_vec().into())];
//! let folder = MemoryFolder::mount(files)?;
//! let text = coreml_format::file::read_text(&folder.root().join("a/one.txt"), 1)?;
//! assert_eq!(text, "1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use prost::bytes::Bytes;

/// Files by path relative to their root. Folders are the beginnings of these paths.
type Files = BTreeMap<PathBuf, Bytes>;

/// First component of all paths in memory, before a number.
const ROOT: &str = "memory:";

/// The mounted folders by number.
static MOUNTED: RwLock<BTreeMap<u64, Arc<Files>>> = RwLock::new(BTreeMap::new());

/// A folder in memory, there under [`root`](Self::root) until this is dropped. What was opened stays open.
#[derive(Debug)]
pub struct MemoryFolder {
    number: u64,
    root: PathBuf,
}

impl MemoryFolder {
    /// Makes files available by path. Their names are relative, with `/` between folders.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if a name is empty, absolute, leads out of the folder, is given twice, or is a
    /// folder of another file.
    pub fn mount(files: impl IntoIterator<Item = (String, Bytes)>) -> io::Result<Self> {
        let refuse = |name: &str, found: &str| {
            let message = format!("`{name}`: expected a relative path of one file, found {found}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        };
        let mut all = Files::new();
        for (name, bytes) in files {
            let path = Path::new(&name);
            if name.is_empty() || !path.components().all(|c| matches!(c, Component::Normal(_))) {
                return refuse(&name, "another one");
            }
            // Without `//` and a `/` at its end.
            if all.insert(path.components().collect(), bytes).is_some() {
                return refuse(&name, "it twice");
            }
        }
        let folders: BTreeSet<&Path> = all.keys().flat_map(|file| file.ancestors().skip(1)).collect();
        if let Some(both) = all.keys().find(|file| folders.contains(file.as_path())) {
            return refuse(&both.to_string_lossy(), "a file and a folder");
        }
        let mut mounted = MOUNTED.write().unwrap_or_else(PoisonError::into_inner);
        let number = mounted.last_key_value().map_or(1, |(last, _)| last + 1);
        mounted.insert(number, Arc::new(all));
        Ok(Self { number, root: PathBuf::from(format!("{ROOT}{number}")) })
    }

    /// Path of the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for MemoryFolder {
    fn drop(&mut self) {
        MOUNTED.write().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// What a path in memory is.
pub(crate) enum Entry {
    File(Bytes),
    /// Names in a folder.
    Folder(Vec<PathBuf>),
    Nothing,
}

/// What a path is, or `None` if it does not lead into a mounted folder.
pub(crate) fn entry(path: &Path) -> Option<Entry> {
    let (files, relative) = place(path)?;
    let Some(relative) = relative else { return Some(Entry::Nothing) };
    if let Some(bytes) = files.get(&relative) {
        return Some(Entry::File(bytes.clone()));
    }
    let mut names: Vec<PathBuf> = files
        .range(relative.clone()..)
        .map_while(|(file, _)| file.strip_prefix(&relative).ok())
        .filter_map(|rest| rest.components().next().map(|first| PathBuf::from(first.as_os_str())))
        .collect();
    names.dedup();
    Some(if names.is_empty() && !relative.as_os_str().is_empty() { Entry::Nothing } else { Entry::Folder(names) })
}

/// The path without `.` and `..`, if it leads into a mounted folder; the error if it leads out of it.
pub(crate) fn canonical(path: &Path) -> Option<io::Result<PathBuf>> {
    let (_, relative) = place(path)?;
    let root = path.components().next()?;
    let relative = relative.ok_or_else(|| io::ErrorKind::NotFound.into());
    Some(relative.map(|relative| Path::new(root.as_os_str()).join(relative)))
}

/// The files of the folder that a path leads into, and the rest of it, none if it leads out again.
fn place(path: &Path) -> Option<(Arc<Files>, Option<PathBuf>)> {
    let mut components = path.components();
    let Component::Normal(root) = components.next()? else { return None };
    let number = root.to_str()?.strip_prefix(ROOT)?.parse().ok()?;
    let files = MOUNTED.read().unwrap_or_else(PoisonError::into_inner).get(&number)?.clone();
    let mut relative = Some(PathBuf::new());
    for component in components {
        let inside = relative.as_mut().is_some_and(|at| match component {
            Component::Normal(name) => {
                at.push(name);
                true
            }
            Component::ParentDir => at.pop(),
            _ => true,
        });
        if !inside {
            relative = None;
        }
    }
    Some((files, relative))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file;

    fn folder(names: &[&str]) -> io::Result<MemoryFolder> {
        MemoryFolder::mount(names.iter().map(|n| ((*n).to_owned(), Bytes::from(n.as_bytes().to_vec()))))
    }

    #[test]
    fn files_and_folders_are_there_until_it_is_dropped() {
        let memory = folder(&["a/b/c.txt", "a/b.txt", "a.txt", "a/b/d/e"]).expect("mounted");
        let at = |name: &str| memory.root().join(name);
        assert_eq!(file::read_text(&at("a/b/c.txt"), 9).expect("a file"), "a/b/c.txt");
        assert_eq!(&*file::map(&at("./a/../a.txt"), 9).expect("a file"), b"a.txt");
        assert!(file::is_dir(&at("a/b")) && !file::is_dir(&at("a.txt")) && file::is_dir(memory.root()));
        assert!(file::is_file(&at("a.txt")) && !file::is_file(&at("a")) && file::exists(&at("a/b/d")));
        let names = |name: &str| -> Vec<PathBuf> {
            file::entries(&at(name)).expect("a folder").map(|e| e.expect("an entry")).collect()
        };
        assert_eq!(names(""), [at("a"), at("a.txt")]);
        assert_eq!(names("a"), [at("a/b"), at("a/b.txt")]);
        assert_eq!(names("a/b"), [at("a/b/c.txt"), at("a/b/d")]);
        // Too large, no file, no folder, outside.
        assert!(file::read(&at("a.txt"), 4).expect_err("too large").to_string().contains("at most 4 bytes, found 5"));
        assert!(file::map(&at("a"), 9).expect_err("a folder").to_string().contains("found a folder"));
        assert!(file::entries(&at("a.txt")).is_err() && file::entries(&at("b")).is_err());
        assert!(!file::exists(&at("a/../../x")) && !file::exists(&at("a.t")) && !file::exists(&at("a/b/c.txt/x")));
        assert!(file::canonical(&at("a/./b/..")).is_ok_and(|p| p == at("a")));
        let gone = at("a.txt");
        drop(memory);
        assert!(!file::exists(&gone) && file::read(&gone, 9).is_err());
    }

    #[test]
    fn names_that_are_no_relative_path_of_one_file_are_refused() {
        for names in [&[""][..], &["/a"], &["../a"], &["a/../b"], &["a", "a"], &["a", "a/b"], &["a/b", "a//b"]] {
            let error = folder(names).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{names:?}: {error}");
        }
        let empty = folder(&[]).expect("an empty folder");
        assert!(file::entries(empty.root()).is_ok_and(|mut all| all.next().is_none()));
    }
}
