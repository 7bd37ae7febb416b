//! `meta.yaml`, as ANEMLL's converter writes it; read only to choose among variants of a component.
//!
//! The file is untrusted. YAML parsers take time quadratic in the nesting of `[` and `{`, and an alias expands
//! to everything it names, so size, brackets and indentation depth are bounded before parsing.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Maximum file size in bytes; the converter's files have about 2 kB.
const LARGEST: u64 = 64 << 10;
/// Maximum number of brackets and braces, anywhere in the file; the converter's files have a few.
const BRACKETS: usize = 1024;

/// Preferred file stems of the embeddings, the head and the FFN chunks; none if the file is missing or names none.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] if the file is too large, nested too deeply or malformed.
pub(super) fn read(path: &Path) -> Result<Vec<String>> {
    let Some(text) = files::text_if_there(path, LARGEST)? else { return Ok(Vec::new()) };
    parse(&text).map_err(|message| Error::File { path: path.to_owned(), message })
}

/// Same as [`read`], from text.
pub(super) fn parse(text: &str) -> std::result::Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Meta {
        model_info: Info,
    }
    #[derive(serde::Deserialize)]
    struct Info {
        parameters: serde_json::Map<String, serde_json::Value>,
    }
    if text.len() as u64 > LARGEST {
        return Err(format!("expected at most {LARGEST} bytes, found {}", text.len()));
    }
    let brackets = text.bytes().filter(|b| matches!(b, b'[' | b'{')).count();
    if brackets > BRACKETS {
        return Err(format!("expected at most {BRACKETS} brackets, found {brackets}"));
    }
    let meta: Meta = serde_norway::from_str(text).map_err(|e| format!("not understood: {e}"))?;
    let parameters = meta.model_info.parameters;
    let text = |key: &str| parameters.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    let stem = |name: &str| Path::new(name).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(["embeddings", "lm_head", "ffn"].iter().map(|k| stem(text(k))).filter(|s| !s.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read() {
        let text = "model_info:\n  name: x\n  parameters:\n    ffn: a/b_lut6.mlpackage\n    lm_head: head.mlmodelc\n    n: 1\n";
        assert_eq!(parse(text), Ok(vec!["head".to_owned(), "b_lut6".to_owned()]));
        assert_eq!(parse("model_info: {parameters: {}}"), Ok(Vec::new()));
    }

    /// Each took seconds to minutes or unbounded memory; together they take less than one second here.
    #[test]
    fn nesting_and_aliases_are_bounded() {
        let many = |text: &str, count: usize| format!("model_info: {}", text.repeat(count));
        let bomb: String =
            (1..40).map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{}, ", i - 1).repeat(10))).collect();
        let merge: String =
            (1..300).map(|i| format!("a{i}: &a{i} {{<<: [*a{0}, *a{0}], b{i}: *a{0}}}\n", i - 1)).collect();
        for (text, part) in [
            (many("[", 60_000), "brackets"),
            (many("{a: ", 15_000), "brackets"),
            (many("[", 200_000), "at most 65536 bytes"),
            (many("[", 1_000), "not understood"),
            (many("{a: ", 1_000), "not understood"),
            (many("\n- ", 1_000), "not understood"),
            (format!("model_info:\n{}", "- ".repeat(32_000)), "not understood"),
            (format!("model_info:\n{}", "? ".repeat(32_000)), "not understood"),
            ((0..350).map(|i| format!("{}a:\n", " ".repeat(i))).collect(), "not understood"),
            (format!("a0: &a0 x\n{bomb}model_info: {{parameters: {{a: *a39}}}}"), "not understood"),
            (format!("a0: &a0 {{x: y}}\n{merge}model_info: {{parameters: *a299}}"), ""),
            ("model_info: &a {parameters: *a}".to_owned(), "not understood"),
            ("\u{0}".to_owned(), "not understood"),
            (String::new(), "not understood"),
        ] {
            match parse(&text) {
                Err(found) => assert!(found.contains(part), "{}: {found}", &text[..text.len().min(40)]),
                Ok(found) => assert!(part.is_empty(), "{}: {found:?}", &text[..text.len().min(40)]),
            }
        }
    }

    #[test]
    fn a_file_that_is_not_there_prefers_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("meta.yaml");
        assert!(read(&path).expect("not there").is_empty());
        std::fs::create_dir(&path).expect("a folder");
        assert!(read(&path).expect_err("no file").to_string().contains("regular file"));
    }
}
