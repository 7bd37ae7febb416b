//! Files in the folder of an encoder.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;
use crate::generation::vocabulary::Vocabulary;

/// Pooling: how the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over the tokens.
    Mean,
    /// First token (`[CLS]`).
    First,
    /// Last token.
    Last,
}

impl Pooling {
    /// Pools rows `[tokens, width]` into one vector.
    pub(super) fn apply(self, rows: &[Vec<f32>]) -> Vec<f32> {
        match self {
            Self::First => rows.first().cloned().unwrap_or_default(),
            Self::Last => rows.last().cloned().unwrap_or_default(),
            Self::Mean => {
                let width = rows.first().map_or(0, Vec::len);
                let sum = |column: usize| rows.iter().map(|r| f64::from(r[column])).sum::<f64>();
                (0..width).map(|column| (sum(column) / rows.len() as f64) as f32).collect()
            }
        }
    }
}

fn bad(path: &Path, message: impl ToString) -> Error {
    Error::File { path: path.to_owned(), message: message.to_string() }
}

/// The only model of a folder.
pub(super) fn only_model(folder: &Path) -> Result<PathBuf> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in coreml_format::file::entries(folder).map_err(io)? {
        let path = entry.map_err(io)?;
        if path.extension().is_some_and(|e| e == "mlpackage" || e == "mlmodelc" || e == "mlmodel") {
            found.push(path);
        }
    }
    found.sort();
    // A package and its compiled form are one model.
    found.dedup_by(|later, first| later.file_stem() == first.file_stem());
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(bad(folder, "holds no .mlpackage, .mlmodelc or .mlmodel")),
        many => Err(bad(folder, format!("an encoder is one model; here are {}", many.len()))),
    }
}

/// The tokenizer, without padding and truncation, and the maximum number of tokens that the files allow.
pub(super) fn tokenizer(folder: &Path) -> Result<(Vocabulary, Option<usize>)> {
    let tokenizer = Vocabulary::load(&folder.join("tokenizer.json"))?;
    let mut limits: Vec<usize> = tokenizer.truncation().into_iter().collect();
    for (file, key) in [("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")] {
        let value = files::json_if_there(&folder.join(file))?.and_then(|v| v.get(key)?.as_u64());
        limits.extend(value.and_then(|n| usize::try_from(n).ok()));
    }
    Ok((tokenizer, limits.into_iter().min()))
}

/// Pooling according to `1_Pooling/config.json`; mean if it is missing.
pub(super) fn pooling(folder: &Path) -> Result<Pooling> {
    let path = folder.join("1_Pooling").join("config.json");
    let Some(config) = files::json_if_there(&path)? else { return Ok(Pooling::Mean) };
    let modes = config.as_object().into_iter().flatten();
    let on: Vec<&str> = modes
        .filter(|(name, value)| name.starts_with("pooling_mode_") && **value == Value::Bool(true))
        .map(|(name, _)| name.as_str())
        .collect();
    match on.as_slice() {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        ["pooling_mode_lasttoken"] => Ok(Pooling::Last),
        other => Err(bad(
            &path,
            format!("expected one of pooling_mode_mean_tokens, _cls_token, _lasttoken; found {}", other.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_is_what_the_file_says() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(pooling(folder.path()).expect("no file"), Pooling::Mean);
        std::fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
        let file = folder.path().join("1_Pooling/config.json");
        let read = |text: &str| {
            std::fs::write(&file, text).expect("written");
            pooling(folder.path())
        };
        let cls =
            r#"{"word_embedding_dimension": 4, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
        assert_eq!(read(cls).expect("known"), Pooling::First);
        assert_eq!(read(r#"{"pooling_mode_lasttoken": true}"#).expect("known"), Pooling::Last);
        for wrong in [r#"{"pooling_mode_max_tokens": true}"#, "{}", "[]", "{"] {
            let message = read(wrong).expect_err(wrong).to_string();
            assert!(message.contains("1_Pooling"), "{message}");
        }
        let both = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#;
        assert!(read(both).expect_err("two at once").to_string().contains("cls_token, pooling_mode_mean"));
    }

    #[test]
    fn rows_are_pooled() {
        let rows = [vec![1.0, 2.0], vec![3.0, 6.0]];
        assert_eq!(Pooling::Mean.apply(&rows), [2.0, 4.0]);
        assert_eq!(Pooling::First.apply(&rows), [1.0, 2.0]);
        assert_eq!(Pooling::Last.apply(&rows), [3.0, 6.0]);
        assert!(Pooling::Mean.apply(&[]).is_empty());
    }

    #[test]
    fn a_folder_has_one_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |name: &str| std::fs::create_dir(folder.path().join(name)).expect("a folder");
        assert!(only_model(folder.path()).expect_err("none").to_string().contains("holds no"));
        make("a.mlpackage");
        make("a.mlmodelc");
        assert!(only_model(folder.path()).expect("one, in two forms").ends_with("a.mlmodelc"));
        make("b.mlpackage");
        assert!(only_model(folder.path()).expect_err("two").to_string().contains("here are 2"));
        assert!(only_model(&folder.path().join("nowhere")).is_err());
    }
}
