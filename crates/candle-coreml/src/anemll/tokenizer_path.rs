//! Where the tokenizer of a model's folder is: beside the packages, or where `tokenizer_path` of `meta.yaml` says.

use std::path::{Component, Path, PathBuf};

use coreml_format::file;

use super::Meta;
use crate::error::{Error, Result};

/// The file without which a folder has no tokenizer.
const VOCABULARY: &str = "tokenizer.json";

/// The folder with the tokenizer of the model in `folder`.
///
/// # Errors
/// [`Error::File`] if `tokenizer_path` is absolute, leads out of the folder, or to a folder without a tokenizer while
/// there is none beside the packages either.
pub(crate) fn tokenizer_folder(folder: &Path) -> Result<PathBuf> {
    match Meta::of_folder(folder).tokenizer_path {
        Some(path) if !path.trim().is_empty() => inside(folder, path.trim()),
        _ => Ok(folder.to_owned()),
    }
}

fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let fail = |found: String| Error::File {
        path: folder.join("meta.yaml"),
        message: format!("`tokenizer_path`: expected a folder inside the model's, found {found}"),
    };
    // Files that were written on Windows have its separators.
    let relative = PathBuf::from(path.replace('\\', "/"));
    let windows = path.as_bytes().get(1) == Some(&b':');
    if windows || relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(fail(format!("`{path}`")));
    }
    let mut found = folder.join(&relative);
    if found.file_name().is_some_and(|name| name == VOCABULARY) {
        found.pop();
    }
    if !file::is_file(&found.join(VOCABULARY)) {
        if file::is_file(&folder.join(VOCABULARY)) {
            tracing::warn!("{} has no {VOCABULARY}: the one beside the packages is used", found.display());
            return Ok(folder.to_owned());
        }
        return Err(fail(format!("`{path}`, which has no {VOCABULARY}")));
    }
    // Links may lead elsewhere.
    let real = |path: &Path| file::canonical(path).map_err(|source| Error::Io { path: path.to_owned(), source });
    if !real(&found)?.starts_with(real(folder)?) {
        return Err(fail(format!("`{path}`, which leads elsewhere")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("model_info:\n  parameters:\n    tokenizer_path: {path}\n");
        std::fs::write(folder.path().join("meta.yaml"), text).expect("written");
        folder
    }

    fn with_tokenizer(folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(folder.join(VOCABULARY), "{}").expect("written");
    }

    #[test]
    fn the_folder_is_the_one_that_the_file_names() {
        for path in ["tokenizer", "./tokenizer", "tokenizer/", "tokenizer/tokenizer.json", "'tokenizer\\'"] {
            let folder = folder(path);
            with_tokenizer(&folder.path().join("tokenizer"));
            with_tokenizer(folder.path());
            let found = tokenizer_folder(folder.path()).expect(path);
            assert_eq!(found.components().next_back(), Some(Component::Normal("tokenizer".as_ref())), "{path}");
        }
        for path in ["''", "null", "."] {
            let folder = folder(path);
            with_tokenizer(folder.path());
            let found = tokenizer_folder(folder.path()).expect(path);
            assert_eq!(found.canonicalize().ok(), folder.path().canonicalize().ok(), "{path}");
        }
    }

    #[test]
    fn without_a_tokenizer_there_the_one_beside_the_packages_is_taken() {
        let folder = folder("elsewhere");
        let error = tokenizer_folder(folder.path()).expect_err("none").to_string();
        assert!(error.contains("meta.yaml") && error.contains("`elsewhere`, which has no tokenizer.json"), "{error}");
        with_tokenizer(folder.path());
        assert_eq!(tokenizer_folder(folder.path()).expect("beside"), folder.path());
    }

    #[test]
    fn what_leads_out_of_the_folder_is_refused() {
        for path in ["/etc", "../other", "a/../../b", "'C:\\x'", "'..\\x'", "'\\x'"] {
            let folder = folder(path);
            with_tokenizer(folder.path());
            let error = tokenizer_folder(folder.path()).expect_err(path).to_string();
            assert!(error.contains("`tokenizer_path`: expected a folder inside"), "{path}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_out_of_the_folder_are_refused() {
        let (folder, other) = (folder("tokenizer"), tempfile::tempdir().expect("a folder"));
        with_tokenizer(other.path());
        std::os::unix::fs::symlink(other.path(), folder.path().join("tokenizer")).expect("a link");
        let error = tokenizer_folder(folder.path()).expect_err("elsewhere").to_string();
        assert!(error.contains("leads elsewhere"), "{error}");
    }
}
