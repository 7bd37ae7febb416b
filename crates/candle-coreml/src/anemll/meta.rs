//! [`Meta`]: `meta.yaml`, as the versions of ANEMLL's converter write it.
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

/// What `meta.yaml` says, of any version of the converter. Everything is optional, and unknown keys are fine; what the
/// packages say themselves wins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    /// `llama`, `qwen3`, `qwen2`, `gemma3_text`, …
    pub architecture: Option<String>,
    /// Version of the conversion.
    pub version: Option<String>,
    /// Whether one file holds the whole model; none where the file does not say.
    pub monolithic: Option<bool>,
    /// Stems of the files that it names, without `_chunk_01of02` and what follows: the variants to take.
    pub files: Vec<String>,
    /// Tokens of the window.
    pub context_length: Option<usize>,
    /// Tokens of one prefill call.
    pub batch_size: Option<usize>,
    /// Tokens of the window of local layers.
    pub sliding_window: Option<usize>,
    /// Whether the head gives the best tokens instead of logits.
    pub argmax_in_model: Option<bool>,
    /// Size of the vocabulary.
    pub vocab_size: Option<usize>,
    /// Rows of each part of the head.
    pub lm_head_chunk_sizes: Vec<usize>,
    /// Whether prefill takes the mask of the cache rows that it writes.
    pub update_mask_prefill: Option<bool>,
    /// Whether prefill writes the cache from its first position on.
    pub prefill_dynamic_slice: Option<bool>,
    /// Whether every layer has the same cache.
    pub single_cache: Option<bool>,
    /// Whether functions that rotate the cache are in files of their own.
    pub split_rotate: Option<bool>,
    /// Functions of the files.
    pub functions: Vec<String>,
    /// Folder of the tokenizer, relative to the model's.
    pub tokenizer_path: Option<String>,
    /// How tokens are best chosen, as the file has it.
    pub recommended_sampling: Option<serde_json::Value>,
    /// Keys of packages whose functions are for several context lengths.
    pub state_transition: Vec<String>,
    /// Whether chunks with attention in float32 are to be run in place of those with their numbers.
    pub float32_stages: bool,
}

impl Meta {
    /// What `meta.yaml` of a folder says; nothing where it is not there or not understood.
    pub(crate) fn of_folder(folder: &Path) -> Self {
        read(&folder.join("meta.yaml")).unwrap_or_else(|e| {
            tracing::warn!("{e}: it is ignored");
            Self::default()
        })
    }
}

/// What a file says; nothing where it is not there.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for what is too large, nested too deeply or not understood.
pub(super) fn read(path: &Path) -> Result<Meta> {
    let Some(text) = files::text_if_there(path, LARGEST)? else { return Ok(Meta::default()) };
    parse(&text).map_err(|message| Error::File { path: path.to_owned(), message })
}

/// Name of a file without Core ML's extensions and the number of its chunk.
pub(super) fn base(name: &str) -> &str {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = [".mlmodelc", ".mlpackage", ".mlmodel"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(name);
    stem.rfind("_chunk_").map_or(stem, |at| &stem[..at])
}

fn is_true(value: &serde_json::Value) -> bool {
    value.as_bool() == Some(true) || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// As [`read`], of the text.
pub(super) fn parse(text: &str) -> std::result::Result<Meta, String> {
    #[derive(serde::Deserialize)]
    struct File {
        model_info: serde_json::Map<String, serde_json::Value>,
    }
    if text.len() as u64 > LARGEST {
        return Err(format!("expected at most {LARGEST} bytes, found {}", text.len()));
    }
    let brackets = text.bytes().filter(|b| matches!(b, b'[' | b'{')).count();
    if brackets > BRACKETS {
        return Err(format!("expected at most {BRACKETS} brackets, found {brackets}"));
    }
    let file: File = serde_norway::from_str(text).map_err(|e| format!("not understood: {e}"))?;
    let none = serde_json::Map::new();
    let parameters = match file.model_info.get("parameters") {
        None | Some(serde_json::Value::Null) => &none,
        Some(serde_json::Value::Object(parameters)) => parameters,
        Some(_) => return Err("not understood: `parameters` is no mapping".to_owned()),
    };
    let find = |key: &str| parameters.get(key).or_else(|| file.model_info.get(key)).filter(|v| !v.is_null());
    let text = |key: &str| match find(key)? {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let number = |key: &str| text(key)?.trim().parse::<usize>().ok();
    let flag = |key: &str| match find(key)? {
        serde_json::Value::Bool(flag) => Some(*flag),
        serde_json::Value::String(text) => text.to_lowercase().parse().ok(),
        _ => None,
    };
    let list = |key: &str| find(key).and_then(|v| v.as_array()).map(Vec::as_slice).unwrap_or_default();
    let named = ["embeddings", "lm_head", "ffn", "pf", "ffn_prefill", "monolithic_model"];
    let stems = named.iter().filter_map(|k| find(k)?.as_str()).map(|name| base(name).to_owned());
    let whole = find("monolithic_model").map(|_| true);
    Ok(Meta {
        architecture: text("architecture"),
        version: file.model_info.get("version").and_then(|v| v.as_str()).map(str::to_owned),
        monolithic: text("model_type").map(|kind| kind == "monolithic").or(whole),
        files: stems.filter(|s| !s.is_empty()).collect(),
        context_length: number("context_length"),
        batch_size: number("batch_size"),
        sliding_window: number("sliding_window"),
        argmax_in_model: flag("argmax_in_model"),
        vocab_size: number("vocab_size"),
        lm_head_chunk_sizes: list("lm_head_chunk_sizes").iter().filter_map(|v| v.as_u64()?.try_into().ok()).collect(),
        update_mask_prefill: flag("update_mask_prefill"),
        prefill_dynamic_slice: flag("prefill_dynamic_slice"),
        single_cache: flag("single_cache"),
        split_rotate: flag("split_rotate"),
        functions: list("functions").iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect(),
        tokenizer_path: text("tokenizer_path"),
        recommended_sampling: find("recommended_sampling").cloned(),
        float32_stages: parameters
            .iter()
            .any(|(key, on)| key.starts_with("state_transition") && key.ends_with("_fp32_enabled") && is_true(on)),
        state_transition: parameters.keys().filter(|k| k.starts_with("state_transition")).cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read() {
        let text = "model_info:\n  name: x\n  parameters:\n    ffn: a/b_lut6.mlpackage\n    lm_head: head.mlmodelc\n    n: 1\n";
        let files = |text: &str| parse(text).map(|meta| meta.files);
        assert_eq!(files(text), Ok(vec!["head".to_owned(), "b_lut6".to_owned()]));
        assert_eq!(files("model_info: {parameters: {}}"), Ok(Vec::new()));
        assert_eq!(
            files("model_info: {parameters: {ffn: q1.5_FFN_PF_chunk_01of02.mlmodelc}}"),
            Ok(vec!["q1.5_FFN_PF".to_owned()])
        );
        assert_eq!(parse("model_info: {name: x}"), Ok(Meta::default()));
    }

    #[test]
    fn keys_of_every_version_are_read() {
        let meta = parse(
            "model_info:\n  version: 0.3.5\n  architecture: gemma3_text\n  model_type: monolithic\n  unknown: {a: [1]}\n  \
             recommended_sampling: {do_sample: true, top_p: 0.9}\n  parameters:\n    context_length: 96\n    \
             batch_size: '8'\n    lut_bits: none\n    monolithic_model: g_monolithic_full_lut4.mlmodelc\n    \
             argmax_in_model: true\n    vocab_size: 7\n    lm_head_chunk_sizes: [4, 3]\n    sliding_window: 32\n    \
             update_mask_prefill: false\n    prefill_dynamic_slice: True\n    single_cache: null\n    functions:\n      - infer\n",
        )
        .expect("understood");
        let text = |text: &str| Some(text.to_owned());
        let wanted = Meta {
            architecture: text("gemma3_text"),
            version: text("0.3.5"),
            monolithic: Some(true),
            files: vec!["g_monolithic_full_lut4".to_owned()],
            context_length: Some(96),
            batch_size: Some(8),
            sliding_window: Some(32),
            argmax_in_model: Some(true),
            vocab_size: Some(7),
            lm_head_chunk_sizes: vec![4, 3],
            update_mask_prefill: Some(false),
            prefill_dynamic_slice: Some(true),
            functions: vec!["infer".to_owned()],
            recommended_sampling: Some(serde_json::json!({"do_sample": true, "top_p": 0.9})),
            ..Meta::default()
        };
        assert_eq!(meta, wanted);
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
        assert!(read(&path).expect("not there").files.is_empty());
        std::fs::create_dir(&path).expect("a folder");
        assert!(read(&path).expect_err("no file").to_string().contains("regular file"));
    }
}
