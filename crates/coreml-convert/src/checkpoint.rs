//! A checkpoint: tensors of one or several mapped safetensors files.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use coreml_format::dtype::DataType;
use coreml_format::file;
use coreml_format::model_types::Bytes;
use coreml_write::edit::packed;
use safetensors::{Dtype, SafeTensors};

use crate::error::{ConvertError, Result};

/// Most shards of a checkpoint.
const SHARDS: usize = 1024;
/// Elements converted at a time.
const PIECE: usize = 1 << 20;

struct Entry {
    file: usize,
    dtype: DataType,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// An open checkpoint.
pub(crate) struct Checkpoint {
    pub(crate) folder: PathBuf,
    files: Vec<(PathBuf, Bytes)>,
    tensors: BTreeMap<String, Entry>,
    used: Mutex<HashSet<String>>,
}

/// What happens to numbers on their way.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// Nothing.
    Keep,
    /// Plus one: gains of Gemma's norms.
    PlusOne,
}

impl Change {
    fn apply(self, v: f32) -> f32 {
        match self {
            Self::Keep => v,
            Self::PlusOne => v + 1.0,
        }
    }
}

fn element_type(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::F32 => Some(DataType::F32),
        Dtype::F16 => Some(DataType::F16),
        Dtype::BF16 => Some(DataType::BF16),
        _ => None,
    }
}

impl Checkpoint {
    /// Maps the files that the index of a folder names, else `model.safetensors`, else every `*.safetensors`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let index = folder.join("model.safetensors.index.json");
        let mut names: Vec<String> = if index.is_file() {
            let bytes =
                file::read(&index, 1 << 27).map_err(|e| ConvertError::Io { path: e.path, source: e.cause.into() })?;
            let value: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|e| ConvertError::invalid(&index, "the index", "JSON", e.to_string()))?;
            let map = value["weight_map"].as_object();
            let map = map.ok_or_else(|| {
                ConvertError::invalid(&index, "`weight_map`", "an object", value["weight_map"].to_string())
            })?;
            let mut names: Vec<String> = map.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            names.sort();
            names.dedup();
            names
        } else {
            let entries = std::fs::read_dir(folder).map_err(ConvertError::io(folder))?;
            let name = |e: std::io::Result<std::fs::DirEntry>| e.ok()?.file_name().into_string().ok();
            entries.filter_map(name).filter(|n| n.ends_with(".safetensors")).collect()
        };
        if !index.is_file() && names.iter().any(|n| n == "model.safetensors") {
            names = vec!["model.safetensors".to_owned()];
        }
        names.sort();
        let plain = |n: &String| Path::new(n).components().count() == 1 && !n.starts_with('.');
        if names.is_empty() || names.len() > SHARDS || !names.iter().all(plain) {
            let found = format!("{} files", names.len());
            return Err(ConvertError::invalid(folder, "the weights", "files named *.safetensors in the folder", found));
        }
        let mut this =
            Self { folder: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), used: Mutex::default() };
        for name in names {
            this.add(&folder.join(name))?;
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let bytes = file::map(path, u64::MAX).map_err(|e| ConvertError::Io { path: e.path, source: e.cause.into() })?;
        let wrong =
            |e: safetensors::SafeTensorError| ConvertError::invalid(path, "the file", "safetensors", e.to_string());
        // Checks offsets against the length, too.
        let tensors = SafeTensors::deserialize(&bytes).map_err(wrong)?;
        for (name, view) in tensors.tensors() {
            let dtype = element_type(view.dtype());
            let dtype = dtype.ok_or_else(|| {
                ConvertError::invalid(
                    path,
                    format!("tensor `{name}`"),
                    "F32, F16 or BF16",
                    format!("{:?}", view.dtype()),
                )
            })?;
            let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            let entry = Entry {
                file: self.files.len(),
                dtype,
                shape: view.shape().to_vec(),
                range: start..start + view.data().len(),
            };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(ConvertError::invalid(
                    path,
                    format!("tensor `{name}`"),
                    "each tensor once",
                    "it in two files",
                ));
            }
        }
        self.files.push((path.to_owned(), bytes));
        Ok(())
    }

    /// What tells this checkpoint from another one in the same place: names, sizes and times of its files.
    pub(crate) fn identity(&self) -> String {
        let one = |(path, bytes): &(PathBuf, Bytes)| {
            let time = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            format!("{} {} {time:?}\n", path.display(), bytes.len())
        };
        self.files.iter().map(one).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let place = || format!("tensor `{name}`");
        let found = self.tensors.get(name);
        let entry =
            found.ok_or_else(|| ConvertError::invalid(&self.folder, place(), format!("shape {shape:?}"), "none"))?;
        if entry.shape != shape {
            let found = format!("{:?}", entry.shape);
            return Err(ConvertError::invalid(&self.files[entry.file].0, place(), format!("shape {shape:?}"), found));
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(entry)
    }

    /// Rows of a tensor as numbers.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize], rows: Range<usize>, change: Change) -> Result<Vec<f32>> {
        let entry = self.entry(name, shape)?;
        let (path, bytes) = &self.files[entry.file];
        let width: usize = shape.iter().skip(1).product();
        let size = entry.dtype.bits().unwrap_or(8) / 8;
        let from = entry.range.start + rows.start * width * size;
        let count = rows.len() * width;
        let part = bytes.get(from..from + count * size);
        let numbers = part.and_then(|p| packed::numbers(entry.dtype, p, count));
        let wrong =
            |expected: &str, found: String| ConvertError::invalid(path, format!("tensor `{name}`"), expected, found);
        let mut numbers = numbers.ok_or_else(|| wrong("rows inside the tensor", format!("{rows:?}")))?;
        for (i, v) in numbers.iter_mut().enumerate() {
            *v = change.apply(*v);
            if !v.is_finite() {
                return Err(wrong("finite numbers", format!("{v} at {}", rows.start * width + i)));
            }
            if v.abs() > 65504.0 {
                return Err(wrong("numbers within the range of fp16", format!("{v} at {}", rows.start * width + i)));
            }
        }
        Ok(numbers)
    }

    /// Rows of a tensor as packed fp16, in pieces; an error ends them and stays in `failed`.
    pub(crate) fn halves<'c>(
        &'c self,
        name: &'c str,
        shape: &'c [usize],
        rows: Range<usize>,
        change: Change,
        failed: &'c RefCell<Option<ConvertError>>,
    ) -> impl Iterator<Item = Vec<u8>> + 'c {
        let width: usize = shape.iter().skip(1).product::<usize>().max(1);
        let step = (PIECE / width).max(1);
        let end = rows.end;
        rows.step_by(step).map_while(move |from| {
            let part = self.numbers(name, shape, from..(from + step).min(end), change);
            match part {
                Ok(numbers) => packed::floats(DataType::F16, &numbers),
                Err(e) => {
                    failed.borrow_mut().get_or_insert(e);
                    None
                }
            }
        })
    }

    /// Fails if there are tensors that no conversion read, other than those listed.
    pub(crate) fn all_used(&self, except: &dyn Fn(&str) -> bool) -> Result<()> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<&str> =
            self.tensors.keys().map(String::as_str).filter(|n| !used.contains(*n) && !except(n)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let shown = left.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        Err(ConvertError::invalid(&self.folder, "the tensors", "those of this architecture", format!("also {shown}")))
    }
}
