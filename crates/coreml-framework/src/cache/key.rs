//! Cache key of a compiled model: SHA-256 over its source files and the system version.

use std::io::Read;
use std::path::{Path, PathBuf};

use coreml_format::file;
use sha2::{Digest, Sha256};

use super::CacheError;

/// Maximum folder depth: packages have two or three levels; a link to a parent is endless.
const MAX_DEPTH: usize = 16;

/// Maximum number of files; packages have a handful.
const MAX_FILES: usize = 100_000;

/// Hash prefix; changes with the cache layout.
const LAYOUT: &[u8] = b"candle-coreml compiled models 1\0";

/// Identifies a compiled model: 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(String);

impl CacheKey {
    /// Computes the key of a model (`.mlpackage` folder or `.mlmodel` file) on a system.
    ///
    /// Covers the relative names and contents of all files; links are followed, as download caches link into packages.
    /// Names of enclosing folders and timestamps are ignored.
    ///
    /// # Errors
    /// If a file cannot be read, or folders are too deep or have too many files.
    pub fn of(source: &Path, os_version: &str) -> Result<Self, CacheError> {
        let mut files = Vec::new();
        collect(source, &mut Vec::new(), &mut files)?;
        files.sort();
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        part(&mut hash, os_version.as_bytes());
        for (name, path) in files {
            part(&mut hash, name.as_bytes());
            hash.update(contents(&path)?);
        }
        Ok(Self::from(hash))
    }

    /// [`CacheKey::of`], computed once while this process runs and the files keep their sizes, times and identities.
    ///
    /// # Errors
    /// Same as `of`.
    pub fn remembered(source: &Path, os_version: &str) -> Result<Self, CacheError> {
        super::memo::key(source, os_version)
    }

    /// Key by the place of a model and by its files' names, sizes, times and identities, without reading them: for
    /// compiled models, which are loaded where they lie.
    ///
    /// # Errors
    /// Same as `of`.
    pub fn of_stamps(source: &Path, os_version: &str) -> Result<Self, CacheError> {
        let path = std::fs::canonicalize(source).map_err(|e| CacheError::io(source, e))?;
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        part(&mut hash, os_version.as_bytes());
        part(&mut hash, path.as_os_str().as_encoded_bytes());
        for (name, size, modified, identity) in super::memo::stamps(&path)? {
            part(&mut hash, name.as_bytes());
            let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            part(&mut hash, format!("{size} {} {identity:?}", since.as_nanos()).as_bytes());
        }
        Ok(Self::from(hash))
    }

    /// One key for several models in order, such as the components of a language model.
    pub fn joined<'a>(keys: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut hash = Sha256::new();
        hash.update(LAYOUT);
        keys.into_iter().for_each(|key| part(&mut hash, key.as_str().as_bytes()));
        Self::from(hash)
    }

    /// The hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses a key from its digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (text.len() == 64 && digits).then(|| Self(text.to_owned()))
    }
}

impl From<Sha256> for CacheKey {
    fn from(hash: Sha256) -> Self {
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl std::fmt::Display for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Length-prefixed, so that no two lists of parts hash the same.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// All files below `path` with their relative names, `/`-separated on every system.
pub(super) fn collect(
    path: &Path,
    names: &mut Vec<String>,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<(), CacheError> {
    let kind = std::fs::metadata(path).map_err(|source| CacheError::io(path, source))?;
    if kind.is_file() {
        if files.len() == MAX_FILES {
            return Err(CacheError::source(path, format!("more than {MAX_FILES} files")));
        }
        files.push((names.join("/"), path.to_owned()));
        return Ok(());
    }
    if !kind.is_dir() {
        return Err(CacheError::source(path, "neither a file nor a folder"));
    }
    if names.len() == MAX_DEPTH {
        return Err(CacheError::source(path, format!("folders nested deeper than {MAX_DEPTH}")));
    }
    for entry in std::fs::read_dir(path).map_err(|source| CacheError::io(path, source))? {
        let entry = entry.map_err(|source| CacheError::io(path, source))?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| CacheError::source(&entry.path(), "a name that is not UTF-8"))?;
        // Finder metadata is not part of a model.
        if name == ".DS_Store" {
            continue;
        }
        names.push(name.to_owned());
        collect(&entry.path(), names, files)?;
        names.pop();
    }
    Ok(())
}

/// Digest of a file, read in chunks.
fn contents(path: &Path) -> Result<[u8; 32], CacheError> {
    let io = |source| CacheError::io(path, source);
    let mut file = file::open(path).map_err(|e| io(e.cause.into()))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn write(root: &Path, files: &BTreeMap<String, Vec<u8>>) {
        for (name, bytes) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::fs::write(path, bytes).expect("a file");
        }
    }

    fn key(files: &BTreeMap<String, Vec<u8>>, os: &str) -> CacheKey {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), files);
        CacheKey::of(folder.path(), os).expect("a key")
    }

    fn any_files() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
        // Names that are both file and folder, contents that could be mistaken for names.
        let name = prop::sample::select(vec!["a", "b", "ab", "d/a", "d/b", "d/e/a", "Manifest.json"]);
        prop::collection::btree_map(name.prop_map(str::to_owned), prop::collection::vec(97_u8..100, 0..3), 0..5)
    }

    proptest! {
        #![proptest_config(crate::cases(64))]
        #[test]
        #[cfg_attr(miri, ignore = "needs files")]
        fn keys_are_equal_exactly_where_names_contents_and_system_are(
            a in any_files(), b in any_files(), same in any::<bool>(), os in prop::sample::select(vec!["15.1", "15.2"]),
        ) {
            let b = if same { a.clone() } else { b };
            prop_assert_eq!(key(&a, "15.1") == key(&b, os), a == b && os == "15.1");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn a_key_is_that_of_known_bytes() {
        // Derived by hand: SHA-256 over the layout, "15.0", and "model" with the digest of "abc".
        let mut whole = LAYOUT.to_vec();
        whole.extend(4_u64.to_le_bytes());
        whole.extend(b"15.0");
        whole.extend(5_u64.to_le_bytes());
        whole.extend(b"model");
        whole.extend(Sha256::digest(b"abc"));
        let want: String = Sha256::digest(&whole).iter().map(|b| format!("{b:02x}")).collect();
        let got = key(&BTreeMap::from([("model".to_owned(), b"abc".to_vec())]), "15.0");
        assert_eq!(got.as_str(), want);
        assert_eq!(CacheKey::parse(&want), Some(got));
        assert_eq!(CacheKey::parse(&want.to_uppercase()), None);
        assert_eq!(CacheKey::parse("../../etc"), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn stamps_tell_files_apart_by_place_size_and_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for place in [&a, &b] {
            write(place, &BTreeMap::from([("model.mil".to_owned(), b"x".to_vec())]));
        }
        let of = |path: &Path, os: &str| CacheKey::of_stamps(path, os).expect("a key");
        let first = of(&a, "15");
        assert_eq!(of(&a.join("../a"), "15"), first);
        assert!(of(&b, "15") != first && of(&a, "16") != first);
        let file = std::fs::File::options().write(true).open(a.join("model.mil")).expect("a file");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
        let second = of(&a, "15");
        assert_ne!(second, first);
        std::fs::write(a.join("model.mil"), "xy").expect("a file");
        assert_ne!(of(&a, "15"), second);
        assert!(CacheKey::of_stamps(&folder.path().join("none"), "15").is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn files_of_the_finder_do_not_count_and_single_files_have_keys() {
        let plain = BTreeMap::from([("a".to_owned(), vec![1])]);
        let mut with = plain.clone();
        with.insert(".DS_Store".to_owned(), vec![2]);
        assert_eq!(key(&plain, "15"), key(&with, "15"));
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one.mlmodel"), folder.path().join("two.mlmodel"));
        std::fs::write(&one, b"same").expect("a file");
        std::fs::write(&two, b"same").expect("a file");
        assert_eq!(CacheKey::of(&one, "15").ok(), CacheKey::of(&two, "15").ok());
        assert!(CacheKey::of(&folder.path().join("none"), "15").is_err());
    }

    #[cfg(unix)]
    #[test]
    #[cfg_attr(miri, ignore = "needs files")]
    fn links_are_followed_but_not_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("blob"), b"weights").expect("a file");
        let package = folder.path().join("p");
        std::fs::create_dir(&package).expect("a folder");
        std::os::unix::fs::symlink("../blob", package.join("weight.bin")).expect("a link");
        let linked = CacheKey::of(&package, "15").expect("a key");
        assert_eq!(linked, key(&BTreeMap::from([("weight.bin".to_owned(), b"weights".to_vec())]), "15"));
        std::os::unix::fs::symlink(".", package.join("again")).expect("a link");
        let error = CacheKey::of(&package, "15").expect_err("a loop").to_string();
        assert!(error.contains("nested deeper"), "{error}");
    }
}
