//! The list of a compiled model's files: tells damage, which is repaired by compiling again, from a refusal by Core ML,
//! which is not.
//!
//! ```text
//! candle-coreml files 2
//! system 15.1.0 24B83
//! 1184 coremldata.bin
//! 5120 weights/weight.bin
//! ```

use std::path::Path;

use coreml_format::file;

use super::folders::children;
use super::{CacheError, folders};

const HEADER: &str = "candle-coreml files 2";

/// Start of the line that names the system whose compiler made the model.
const SYSTEM: &str = "system ";

/// Compiled models have a handful of files.
const LARGEST: u64 = 1 << 20;

/// Writes the list of a compiled model.
///
/// # Errors
/// If a file is a symbolic link or has a name of another kind, or the list cannot be written.
pub(super) fn list(compiled: &Path, list: &Path, system: &str) -> Result<(), CacheError> {
    let mut lines = Vec::new();
    collect(compiled, "", 0, &mut lines)?;
    lines.sort();
    let head = [HEADER.to_owned(), format!("{SYSTEM}{}", system.replace(['\n', '\r'], " "))];
    let text = head.into_iter().chain(lines.iter().map(|(name, size)| format!("{size} {name}")));
    folders::write(list, &(text.collect::<Vec<_>>().join("\n") + "\n"))
}

fn collect(folder: &Path, prefix: &str, depth: usize, lines: &mut Vec<(String, u64)>) -> Result<(), CacheError> {
    for child in children(folder, depth)? {
        let name = child.file_name().and_then(|n| n.to_str()).filter(|n| !n.contains('\n'));
        let name = name.ok_or_else(|| CacheError::source(&child, "a name that is not one line of UTF-8"))?;
        let kind = std::fs::symlink_metadata(&child).map_err(|e| CacheError::io(&child, e))?;
        if kind.is_symlink() {
            return Err(CacheError::source(&child, "a symbolic link in a compiled model"));
        }
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            collect(&child, &format!("{name}/"), depth + 1, lines)?;
        } else {
            lines.push((name, kind.len()));
        }
    }
    Ok(())
}

/// The system whose compiler made the model; `None` if the list doesn't say.
pub(super) fn system(list: &Path) -> Option<String> {
    let text = String::from_utf8(file::read(list, LARGEST).ok()?).ok()?;
    let mut lines = text.lines();
    (lines.next()? == HEADER).then_some(())?;
    Some(lines.next()?.strip_prefix(SYSTEM)?.to_owned())
}

/// The first file that is missing or cut; `None` if the model is whole. Files that Core ML added don't matter.
pub(super) fn damage(compiled: &Path, list: &Path) -> Option<String> {
    let text = file::read(list, LARGEST).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(text) = text else { return Some("the list of its files can't be read".to_owned()) };
    let mut lines = text.lines();
    let whole = lines.next() == Some(HEADER) && lines.next().is_some_and(|line| line.starts_with(SYSTEM));
    if !whole || !text.ends_with('\n') {
        return Some("the list of its files is not one".to_owned());
    }
    for line in lines {
        let Some((size, name)) = line.split_once(' ').and_then(|(n, name)| Some((n.parse::<u64>().ok()?, name))) else {
            return Some(format!("the list of its files has the line `{line}`"));
        };
        match std::fs::symlink_metadata(compiled.join(name)) {
            Ok(kind) if kind.is_file() && kind.len() >= size => {}
            Ok(kind) if kind.is_file() => return Some(format!("{name} has {} bytes instead of {size}", kind.len())),
            _ => return Some(format!("{name} is missing")),
        }
    }
    None
}
