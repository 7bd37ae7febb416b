//! Errors as the page shows them.

use std::error::Error;

/// An error with its causes, in one text. Paths begin with what the user gave.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// An error of this crate.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// An error of the library, with its causes.
    pub(crate) fn of(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self(without_roots(&text))
    }
}

/// A text without the roots of folders in memory (`memory:1/`).
fn without_roots(text: &str) -> String {
    let mut parts = text.split("memory:");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        match rest.strip_prefix('/') {
            Some(rest) if rest.len() < part.len() - 1 => clean.push_str(rest),
            _ => {
                clean.push_str("memory:");
                clean.push_str(part);
            }
        }
    }
    clean
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Failure {}

macro_rules! from {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(&error)
            }
        })*
    };
}

from!(
    candle_coreml::Error,
    candle_coreml::format::blob::BlobError,
    candle_coreml::format::model::LoadError,
    candle_coreml::lower::LowerError,
    candle_core::Error,
    coreml_inspect::picture::UnknownFunction,
    serde_json::Error,
    std::io::Error
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_folders_in_memory_are_left_out() {
        for (text, clean) in [
            ("memory:12/a.mlmodel: an empty file", "a.mlmodel: an empty file"),
            ("a (memory:1/b/c), memory:2/d", "a (b/c), d"),
            ("memory: 1", "memory: 1"),
            ("memory:/x", "memory:/x"),
        ] {
            assert_eq!(without_roots(text), clean);
        }
    }
}
