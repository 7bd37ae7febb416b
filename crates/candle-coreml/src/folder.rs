//! What a folder holds: Core ML packages, a checkpoint, or no language model, for a reason that one sentence tells.
//!
//! Only names are looked at, and the first bytes of files that are often not what they are called.

use std::path::{Path, PathBuf};

use coreml_format::{file, foreign};

use crate::error::{Error, Result};
use crate::files;

/// Maximum number of entries of a folder that are looked at.
const MOST: usize = 10_000;

/// Names in a folder, sorted.
struct Names {
    folder: PathBuf,
    files: Vec<String>,
    folders: Vec<String>,
}

impl Names {
    fn read(folder: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: folder.to_owned(), source };
        let mut all = Self { folder: folder.to_owned(), files: Vec::new(), folders: Vec::new() };
        for entry in file::entries(folder).map_err(io)?.take(MOST) {
            let path = entry.map_err(io)?;
            let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
            if file::is_dir(&path) { all.folders.push(name) } else { all.files.push(name) }
        }
        all.files.sort();
        all.folders.sort();
        Ok(all)
    }

    fn has_packages(&self) -> bool {
        self.files.iter().chain(&self.folders).any(|name| files::is_model(Path::new(name)))
    }

    fn has_checkpoint(&self) -> bool {
        self.files.iter().any(|n| n == "config.json") && !self.ending(&[".safetensors"]).is_empty()
    }

    /// Files with one of these endings.
    fn ending(&self, endings: &[&str]) -> Vec<&str> {
        let fits = |name: &&str| endings.iter().any(|e| name.to_lowercase().ends_with(e));
        self.files.iter().map(String::as_str).filter(fits).collect()
    }

    /// Folders in it that hold a model.
    fn inside(&self) -> Vec<String> {
        let holds = |name: &&String| {
            Self::read(&self.folder.join(name.as_str())).is_ok_and(|n| n.has_packages() || n.has_checkpoint())
        };
        self.folders.iter().take(100).filter(holds).map(|n| self.folder.join(n).display().to_string()).collect()
    }

    /// Why a folder with neither packages nor a checkpoint has no language model, and what to do.
    fn reason(&self) -> String {
        let first = |names: &[&str]| names.first().map(|n| format!("`{n}`")).unwrap_or_default();
        let zips = self.ending(&[".zip"]);
        if let [one] = zips.as_slice() {
            let (folder, file) = (self.folder.display(), self.folder.join(one));
            return format!("`{one}` is a zip archive: unpack it with `unzip '{}' -d '{folder}'`", file.display());
        }
        if !zips.is_empty() {
            let (count, folder) = (zips.len(), self.folder.display());
            return format!(
                "its {count} models are zip archives: unpack them with `unzip '{folder}/*.zip' -d '{folder}'`"
            );
        }
        match self.inside().as_slice() {
            [] => {}
            [one] => return format!("the model is in the folder `{one}`: give that"),
            several => return format!("it has several models: give the folder of one: `{}`", several.join("`, `")),
        }
        let archives = self.ending(&[".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z"]);
        if !archives.is_empty() {
            return format!("{} is an archive: unpack it first", first(&archives));
        }
        let gguf = self.ending(&[".gguf"]);
        if !gguf.is_empty() {
            return format!(
                "{} is a GGUF model of llama.cpp: get the .safetensors files or Core ML packages of this model",
                first(&gguf)
            );
        }
        let torch = self.ending(&[".bin", ".pt", ".pth", ".ckpt"]);
        if !torch.is_empty() {
            return format!(
                "{} has weights of PyTorch: save them as .safetensors with transformers' `save_pretrained`",
                first(&torch)
            );
        }
        let others = self.ending(&[".onnx", ".h5", ".keras", ".tflite", ".pte", ".msgpack"]);
        if !others.is_empty() {
            return format!(
                "{} is a model for another runtime: expected Core ML packages or .safetensors",
                first(&others)
            );
        }
        let tensors = self.ending(&[".safetensors"]);
        if !tensors.is_empty() {
            return format!("it has {}, but no config.json: copy it from the model's repository", first(&tensors));
        }
        if self.files.iter().any(|n| n == "config.json" || n == "meta.yaml") {
            return "it has a configuration, but neither Core ML packages nor .safetensors: download the weights too"
                .to_owned();
        }
        if self.files.is_empty() && self.folders.is_empty() {
            return "an empty folder".to_owned();
        }
        "it has neither Core ML packages nor a checkpoint (config.json, .safetensors)".to_owned()
    }
}

/// The names in a folder, or the error for what is none.
fn names(path: &Path) -> Result<Names> {
    let fail = |message: String| Err(Error::Components { path: path.to_owned(), message });
    if !file::is_file(path) {
        return Names::read(path);
    }
    if let Some(found) = foreign::of_file(path).filter(|_| path.extension().is_none_or(|e| e != "json")) {
        return fail(format!("expected the folder of a language model, found {found}"));
    }
    match path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }) {
        Some(folder) => {
            fail(format!("expected the folder of a language model, found a file: give `{}`", folder.display()))
        }
        None => fail("expected the folder of a language model, found a file".to_owned()),
    }
}

/// Checks that a path is a model's file, or a folder with Core ML models.
///
/// # Errors
/// [`Error::OtherForm`] for a checkpoint; [`Error::Components`] with the reason for what is no language model.
pub(crate) fn expect_packages(path: &Path) -> Result<()> {
    if files::is_model(path) {
        return Ok(());
    }
    let names = names(path)?;
    if names.has_packages() {
        return Ok(());
    }
    Err(if names.has_checkpoint() {
        let message =
            "a checkpoint, which Core ML does not run: convert it with `candle-coreml convert`, or run it on \
                       another device"
                .to_owned();
        Error::OtherForm { path: path.to_owned(), message }
    } else {
        Error::Components { path: path.to_owned(), message: names.reason() }
    })
}

/// Checks that a path is a folder with a checkpoint, whose files have been downloaded.
///
/// # Errors
/// [`Error::OtherForm`] for Core ML models; [`Error::Components`] with the reason for what is no language model.
#[cfg(any(test, feature = "candle-models"))]
pub(crate) fn expect_checkpoint(path: &Path) -> Result<()> {
    let other = || Error::OtherForm {
        path: path.to_owned(),
        message: "Core ML models, which run on the device coreml only: expected a checkpoint".to_owned(),
    };
    if files::is_model(path) {
        return Err(other());
    }
    let names = names(path)?;
    if !names.has_checkpoint() {
        return Err(match names.has_packages() {
            true => other(),
            false => Error::Components { path: path.to_owned(), message: names.reason() },
        });
    }
    for name in names.ending(&[".safetensors"]) {
        let file = path.join(name);
        // The length of a header may begin like JSON.
        if let Some(found) = foreign::of_file(&file).filter(|found| !found.contains("JSON")) {
            return Err(Error::File { path: file, message: format!("expected safetensors, found {found}") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these empty files; a name that ends with `/` is a folder.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in names {
            let path = folder.path().join(name);
            let parent = if name.ends_with('/') { Some(path.as_path()) } else { path.parent() };
            std::fs::create_dir_all(parent.expect("a parent")).expect("a folder");
            if !name.ends_with('/') {
                std::fs::write(path, b"").expect("written");
            }
        }
        folder
    }

    #[test]
    fn what_is_no_language_model_is_told_in_one_sentence() {
        for (names, part) in [
            (&[][..], "an empty folder"),
            (&["README.md"], "neither Core ML packages nor a checkpoint"),
            (&["a.mlpackage.zip", "tokenizer.json"], "`a.mlpackage.zip` is a zip archive: unpack it with `unzip '"),
            (&["a.zip", "b.zip"], "its 2 models are zip archives: unpack them with `unzip '"),
            (&["inner/m.mlpackage/"], "the model is in the folder `"),
            (&["one/m.mlmodelc/", "two/config.json", "two/model.safetensors"], "several models"),
            (&["m-Q4_K.GGUF"], "GGUF"),
            (&["config.json", "pytorch_model.bin"], "weights of PyTorch"),
            (&["model.onnx"], "another runtime"),
            (&["m.tar.gz"], "an archive"),
            (&["model.safetensors"], "no config.json"),
            (&["config.json", "tokenizer.json"], "download the weights too"),
            (&["meta.yaml"], "download the weights too"),
        ] {
            let folder = folder(names);
            for result in [expect_packages(folder.path()), expect_checkpoint(folder.path())] {
                let message = result.expect_err("no model").to_string();
                assert!(message.contains(part) && !message.contains(". "), "{names:?}: {message}");
                assert!(message.starts_with(&folder.path().display().to_string()), "{message}");
            }
        }
    }

    #[test]
    fn a_model_in_another_form_is_told_from_none() {
        let packages = folder(&["m.mlpackage/", "config.json"]);
        let checkpoint = folder(&["config.json", "model.safetensors"]);
        let both = folder(&["m.mlpackage/", "config.json", "model.safetensors"]);
        std::fs::write(checkpoint.path().join("model.safetensors"), [8u8; 64]).expect("written");
        std::fs::write(both.path().join("model.safetensors"), [8u8; 64]).expect("written");
        expect_packages(packages.path()).expect("packages");
        expect_packages(&packages.path().join("m.mlpackage")).expect("a package");
        expect_checkpoint(checkpoint.path()).expect("a checkpoint");
        expect_packages(both.path()).expect("packages");
        expect_checkpoint(both.path()).expect("a checkpoint");
        for error in [
            expect_packages(checkpoint.path()),
            expect_checkpoint(packages.path()),
            expect_checkpoint(&packages.path().join("m.mlpackage")),
        ] {
            let error = error.expect_err("another form");
            assert!(matches!(error, Error::OtherForm { .. }), "{error}");
        }
    }

    #[test]
    fn files_that_were_not_downloaded_are_named() {
        let folder = folder(&["config.json", "model.safetensors", "m.zip"]);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
        std::fs::write(folder.path().join("model.safetensors"), pointer).expect("written");
        let message = expect_checkpoint(folder.path()).expect_err("a pointer").to_string();
        assert!(message.contains("git lfs pull") && message.contains("model.safetensors"), "{message}");
        std::fs::write(folder.path().join("m.zip"), b"PK\x03\x04").expect("written");
        for (name, part) in [("m.zip", "a zip archive"), ("config.json", "found a file: give `")] {
            let message = expect_packages(&folder.path().join(name)).expect_err("a file").to_string();
            assert!(message.contains(part), "{message}");
        }
        let message = expect_packages(&folder.path().join("gone")).expect_err("nothing").to_string();
        assert!(message.contains("gone"), "{message}");
    }
}
