//! Selects the required files of a repository: the components, each in one format, and the small files beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use glob::Pattern;

use super::error::HubError;
use super::listing::RemoteFile;

/// Selection from a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All components with tokenizer and configuration.
    Model,
    /// One component or file, by path.
    File(String),
    /// Files by patterns.
    Matching(Patterns),
}

/// Patterns of paths with `*`, `?` and `[…]`, where `*` also stands for `/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Patterns {
    /// Files that match one of `include`, or that a model needs if there is none, and that match none of `exclude`.
    ///
    /// # Errors
    /// [`HubError::Settings`] for a malformed pattern.
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Self, HubError> {
        let pattern = |text: &S| {
            let text = text.as_ref();
            Pattern::new(text).map_err(|e| HubError::Settings(format!("the pattern `{text}`: {}", e.msg)))
        };
        let all = |texts: &[S]| texts.iter().map(pattern).collect::<Result<Vec<_>, _>>();
        Ok(Self { include: all(include)?, exclude: all(exclude)? })
    }

    /// Text that differs for other patterns.
    pub(crate) fn name(&self) -> String {
        let all = |patterns: &[Pattern]| patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join("\0");
        format!("{}\0\0{}", all(&self.include), all(&self.exclude))
    }
}

/// Formats of a component, best first: packages run on every engine and need no unpacking.
const FORMATS: [&str; 3] = [".mlpackage", ".mlmodelc", ".mlmodelc.zip"];
/// Suffixes of checkpoint weights.
const CHECKPOINT: &str = ".safetensors";
/// Suffixes and names of tokenizer, template and configuration files.
const SMALL: [&str; 2] = [".json", ".jinja"];
const SMALL_NAMES: [&str; 4] = ["meta.yaml", "tokenizer.model", "merges.txt", "vocab.txt"];

/// A file of a component.
struct Part<'a> {
    /// Path of the component without extension: `folder/name`.
    stem: &'a str,
    /// Index into [`FORMATS`].
    format: usize,
}

/// The component that a path belongs to; `None` for other files.
fn part(path: &str) -> Option<Part<'_>> {
    let mut end = 0;
    for segment in path.split('/') {
        let is_file = end + segment.len() == path.len();
        end += segment.len();
        for (format, suffix) in FORMATS.iter().enumerate() {
            // Packages are folders, archives are files.
            if suffix.ends_with(".zip") == is_file && segment.len() > suffix.len() && segment.ends_with(suffix) {
                return Some(Part { stem: &path[..end - suffix.len()], format });
            }
        }
        end += 1;
    }
    None
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The required files, in listing order.
///
/// # Errors
/// A message if nothing matches, or two required files could not coexist on every file system.
pub(crate) fn select(files: Vec<RemoteFile>, selection: &Selection) -> Result<Vec<RemoteFile>, String> {
    let chosen = match selection {
        Selection::Model => select_model(files)?,
        Selection::File(path) => select_file(files, path)?,
        Selection::Matching(patterns) => select_matching(files, patterns)?,
    };
    check_conflicts(&chosen)?;
    Ok(chosen)
}

fn select_model(files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, String> {
    let mut best: HashMap<String, usize> = HashMap::new();
    for part in files.iter().filter_map(|f| part(&f.path)) {
        let format = best.entry(part.stem.to_owned()).or_insert(part.format);
        *format = part.format.min(*format);
    }
    if best.is_empty() {
        return select_checkpoint(&files).ok_or_else(|| {
            format!(
                "the repository has no Core ML components ({}) and no checkpoint ({CHECKPOINT}) among its {} files",
                FORMATS.join(", "),
                files.len()
            )
        });
    }
    let folders: BTreeSet<&str> = best.keys().map(|stem| folder(stem)).chain([""]).collect();
    let needed = |file: &RemoteFile| match part(&file.path) {
        Some(part) => best.get(part.stem) == Some(&part.format),
        None => is_small(&file.path) && folders.contains(folder(&file.path)),
    };
    Ok(files.iter().filter(|f| needed(f)).cloned().collect())
}

/// Returns true if a file belongs to the tokenizer, the template or the configuration.
fn is_small(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    !name.starts_with('.') && (SMALL.iter().any(|s| name.ends_with(s)) || SMALL_NAMES.contains(&name))
}

/// Weights at the top level of a repository without Core ML components, with their small files.
fn select_checkpoint(files: &[RemoteFile]) -> Option<Vec<RemoteFile>> {
    let top = || files.iter().filter(|f| folder(&f.path).is_empty());
    let weights = |f: &RemoteFile| f.path.ends_with(CHECKPOINT);
    // The modules of sentence-transformers lie in folders such as `1_Pooling` and `2_Dense`.
    let modules = top().any(|f| f.path == "modules.json");
    let module = |f: &RemoteFile| {
        let folder = folder(&f.path);
        modules && !folder.contains('/') && folder.split('_').next().is_some_and(|n| n.parse::<u8>().is_ok())
    };
    let wanted = |f: &&RemoteFile| (folder(&f.path).is_empty() || module(f)) && (weights(f) || is_small(&f.path));
    top().any(weights).then(|| files.iter().filter(wanted).cloned().collect())
}

fn select_file(files: Vec<RemoteFile>, path: &str) -> Result<Vec<RemoteFile>, String> {
    let below = format!("{path}/");
    let archive = format!("{path}.zip");
    let has_plain = files.iter().any(|f| f.path == path || f.path.starts_with(&below));
    let chosen: Vec<_> = files
        .into_iter()
        .filter(|f| if has_plain { f.path == path || f.path.starts_with(&below) } else { f.path == archive })
        .collect();
    if chosen.is_empty() { Err(format!("the repository has no `{path}`")) } else { Ok(chosen) }
}

fn select_matching(files: Vec<RemoteFile>, patterns: &Patterns) -> Result<Vec<RemoteFile>, String> {
    let matches = |all: &[Pattern], path: &str| all.iter().any(|p| p.matches(path));
    let count = files.len();
    let mut chosen = match patterns.include.is_empty() {
        true => select_model(files)?,
        false => files.into_iter().filter(|f| matches(&patterns.include, &f.path)).collect(),
    };
    chosen.retain(|f| !matches(&patterns.exclude, &f.path));
    if chosen.is_empty() { Err(format!("none of the repository's {count} files matches")) } else { Ok(chosen) }
}

/// Names that differ only in case, or a file at the path of a folder, cannot coexist.
fn check_conflicts(files: &[RemoteFile]) -> Result<(), String> {
    let folded: BTreeMap<String, &str> = files.iter().map(|f| (f.path.to_lowercase(), f.path.as_str())).collect();
    if folded.len() != files.len() {
        return Err("two of its files have names that differ in case alone".to_owned());
    }
    for path in folded.keys() {
        let mut parent = folder(path);
        while !parent.is_empty() {
            if let Some(file) = folded.get(parent) {
                return Err(format!("`{file}` is both a file and a folder"));
            }
            parent = folder(parent);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::digest::Digest;

    fn chosen(paths: &[&str], selection: &Selection) -> Result<Vec<String>, String> {
        let digest = Digest::git_blob(&"0".repeat(40)).expect("digits");
        let files = paths.iter().map(|p| RemoteFile { path: (*p).to_owned(), size: 1, digest: digest.clone() });
        select(files.collect(), selection).map(|files| files.into_iter().map(|f| f.path).collect())
    }

    #[test]
    fn each_component_comes_in_its_best_format() {
        let listing = [
            "README.md",
            "meta.yaml",
            "tokenizer.json",
            "chat_template.jinja",
            ".hidden.json",
            "model.safetensors",
            "a.mlpackage/Manifest.json",
            "a.mlpackage/Data/weights/weight.bin",
            "a.mlmodelc/model.mil",
            "a.mlmodelc.zip",
            "b.mlmodelc/weights/weight.bin",
            "b.mlmodelc.zip",
            "sub/c.mlmodelc.zip",
            "sub/config.json",
            "other/config.json",
        ];
        let expected = [
            "meta.yaml",
            "tokenizer.json",
            "chat_template.jinja",
            "a.mlpackage/Manifest.json",
            "a.mlpackage/Data/weights/weight.bin",
            "b.mlmodelc/weights/weight.bin",
            "sub/c.mlmodelc.zip",
            "sub/config.json",
        ];
        assert_eq!(chosen(&listing, &Selection::Model).expect("a model"), expected);
        assert!(chosen(&["README.md", "config.json"], &Selection::Model).is_err(), "no components");
        assert!(chosen(&[], &Selection::Model).is_err());
    }

    #[test]
    fn a_repository_without_components_gives_its_checkpoint() {
        let listing = [
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "onnx/model.safetensors",
            "pytorch_model.bin",
        ];
        assert_eq!(
            chosen(&listing, &Selection::Model).expect("a checkpoint"),
            [listing[1], listing[2], listing[3], listing[4], listing[5]]
        );
    }

    #[test]
    fn one_component_is_found_by_its_path() {
        let listing = ["a.mlpackage/Manifest.json", "ab.mlpackage/Manifest.json", "c.mlmodelc.zip", "d.mlmodel"];
        let file = |path: &str| chosen(&listing, &Selection::File(path.to_owned()));
        assert_eq!(file("a.mlpackage").expect("files"), ["a.mlpackage/Manifest.json"]);
        assert_eq!(file("c.mlmodelc").expect("files"), ["c.mlmodelc.zip"]);
        assert_eq!(file("d.mlmodel").expect("files"), ["d.mlmodel"]);
        assert!(file("e").is_err());
    }

    #[test]
    fn patterns_choose_among_all_files_or_leave_some_of_a_model_out() {
        let listing = ["README.md", "config.json", "a.safetensors", "onnx/m.onnx", "onnx/config.json"];
        let by = |include: &[&str], exclude: &[&str]| {
            let patterns = Patterns::new(include, exclude).expect("patterns");
            chosen(&listing, &Selection::Matching(patterns))
        };
        assert_eq!(by(&["*.json", "README*"], &[]).expect("files"), ["README.md", "config.json", "onnx/config.json"]);
        assert_eq!(by(&["onnx/*"], &["*.json"]).expect("files"), ["onnx/m.onnx"]);
        assert_eq!(by(&[], &["*.json"]).expect("files"), ["a.safetensors"]);
        assert!(by(&["*.bin"], &[]).expect_err("none").contains("5 files"));
        assert_eq!(Patterns::new(&["[a"], &[]).expect_err("malformed").kind(), "settings");
        assert_ne!(Patterns::new(&["a"], &[]).expect("one").name(), Patterns::new(&[], &["a"]).expect("one").name());
    }

    #[test]
    fn files_that_can_not_coexist_are_refused() {
        let conflict = |paths: &[&str]| chosen(paths, &Selection::Model).is_err();
        assert!(conflict(&["a.mlpackage/x", "a.mlpackage/X"]));
        assert!(conflict(&["a.mlpackage/x", "a.mlpackage/x/y"]));
        assert!(!conflict(&["a.mlpackage/x", "a.mlpackage/xx/y"]));
    }
}
