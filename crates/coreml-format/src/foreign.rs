//! Files that are often taken for models, recognised by their first bytes, with what to do about them.

use std::path::Path;

use crate::file;
use crate::model_types::Body;
use crate::program::{Block, Program, TensorData, Value, ValueData};
use crate::spec::Specification;

/// How the beginning of a file tells what it is; at this offset.
struct Kind {
    offset: usize,
    magic: &'static [u8],
    is: &'static str,
}

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// No model begins like these: a specification begins with the key of one of its fields.
const KINDS: &[Kind] = &[
    Kind {
        offset: 0,
        magic: LFS,
        is: "a Git LFS pointer, which stands for a file that was not downloaded: run `git lfs pull` in its repository",
    },
    Kind { offset: 0, magic: b"PK\x03\x04", is: "a zip archive: unpack it and give the model inside (`unzip FILE`)" },
    Kind { offset: 0, magic: b"PK\x05\x06", is: "an empty zip archive" },
    Kind { offset: 0, magic: b"\x1f\x8b", is: "a gzip archive: unpack it first (`gunzip FILE` or `tar xzf FILE`)" },
    Kind { offset: 0, magic: b"BZh", is: "a bzip2 archive: unpack it first" },
    Kind { offset: 0, magic: b"\xfd7zXZ\0", is: "an xz archive: unpack it first" },
    Kind { offset: 0, magic: b"7z\xbc\xaf\x27\x1c", is: "a 7z archive: unpack it first" },
    Kind { offset: 257, magic: b"ustar", is: "a tar archive: unpack it and give the model inside (`tar xf FILE`)" },
    Kind {
        offset: 0,
        magic: b"book\0\0\0\0mark\0\0\0\0",
        is: "a macOS alias, which only names a file on the computer that made it: copy the file itself",
    },
    Kind { offset: 0, magic: b"bplist00", is: "a property list of macOS, not a model" },
    Kind { offset: 0, magic: b"\x89HDF\r\n\x1a\n", is: "an HDF5 file, perhaps of Keras: convert it with coremltools" },
    Kind { offset: 4, magic: b"TFL3", is: "a TensorFlow Lite model, which coremltools can't read either" },
    Kind { offset: 0, magic: b"GGUF", is: "a GGUF model of llama.cpp" },
    Kind { offset: 0, magic: b"<!DOCTYPE", is: "a web page: the download did not give the file itself" },
    Kind { offset: 0, magic: b"<!doctype", is: "a web page: the download did not give the file itself" },
    Kind { offset: 0, magic: b"<html", is: "a web page: the download did not give the file itself" },
    Kind { offset: 0, magic: b"<?xml", is: "an XML file, not a model" },
    Kind { offset: 0, magic: b"{", is: "a JSON file, not a model" },
];

/// Says what a file is that is not what it should be, by its first bytes.
pub fn recognise(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("an empty file");
    }
    let begins = |kind: &&Kind| bytes.get(kind.offset..).is_some_and(|rest| rest.starts_with(kind.magic));
    KINDS.iter().find(begins).map(|kind| kind.is)
}

/// [`recognise`] for a file; `None` if it can't be read.
pub fn of_file(path: &Path) -> Option<&'static str> {
    // Enough for every kind.
    recognise(&file::beginning(path, 512).ok()?)
}

/// Says of a folder without a model where one is.
pub(crate) fn inside(folder: &Path) -> Option<String> {
    let model = |path: &Path| path.extension().is_some_and(|e| e == "mlpackage" || e == "mlmodelc" || e == "mlmodel");
    let mut found: Vec<_> = file::entries(folder).ok()?.flatten().filter(|p| model(p)).collect();
    found.sort();
    let first = found.first()?.file_name()?.to_string_lossy().into_owned();
    Some(match found.len() {
        1 => format!("a folder with the model `{first}` in it: give that"),
        n => format!("a folder with {n} models in it: give one, such as `{first}`"),
    })
}

/// The first weight file that a specification names and that is not beside it, of a file taken out of its package.
pub(crate) fn missing_weights(spec: &Specification, folder: &Path) -> Option<String> {
    let own = match &spec.body {
        Body::Program(program) => missing_in(program, folder),
        _ => None,
    };
    own.or_else(|| spec.parts.iter().find_map(|part| missing_weights(part, folder)))
}

fn missing_in(program: &Program, folder: &Path) -> Option<String> {
    // All weights are in one file, or in few: the first missing one tells.
    program.functions.values().find_map(|function| missing_of(&function.block, folder))
}

fn missing_of(block: &Block, folder: &Path) -> Option<String> {
    block.operations.iter().find_map(|operation| {
        let literals = operation.inputs.values().flat_map(|a| a.bindings()).filter_map(|b| match b {
            crate::program::Binding::Value(value) => Some(value),
            crate::program::Binding::Name(_) => None,
        });
        let blob = |value: &Value| match &value.data {
            ValueData::Tensor(TensorData::Blob(at)) => Some(at.file.to_string()),
            _ => None,
        };
        let gone = |file: &String| {
            let relative = file.strip_prefix("@model_path").unwrap_or(file).trim_start_matches('/');
            !file::exists(&folder.join(relative))
        };
        let first = operation.attributes.values().chain(literals).find_map(blob);
        match first {
            Some(file) if gone(&file) => Some(file),
            Some(_) => None,
            None => operation.blocks.iter().find_map(|nested| missing_of(nested, folder)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn what_is_no_model_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.mlmodel");
        let mut tar = vec![b'a'; 300];
        tar[257..262].copy_from_slice(b"ustar");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n".to_vec();
        for (bytes, part) in [
            (pointer, "git lfs pull"),
            (b"PK\x03\x04\x14\0".to_vec(), "zip archive"),
            (b"\x1f\x8b\x08".to_vec(), "gunzip"),
            (b"book\0\0\0\0mark\0\0\0\0\x38".to_vec(), "macOS alias"),
            (b"<!DOCTYPE html>".to_vec(), "web page"),
            (tar, "tar archive"),
            (Vec::new(), "an empty file"),
        ] {
            std::fs::write(&path, &bytes).expect("written");
            let message = Model::open(&path).expect_err("no model").to_string();
            assert!(message.contains(part) && message.contains("a.mlmodel"), "{part}: {message}");
        }
        assert!(recognise(&[0x08, 4]).is_none());
    }

    #[test]
    fn a_folder_with_models_in_it_names_them() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("m.mlpackage")).expect("a folder");
        let message = Model::open(folder.path()).expect_err("no model").to_string();
        assert!(message.contains("the model `m.mlpackage` in it"), "{message}");
    }
}
