//! File-name patterns of a model's components.
//!
//! Packages are classified by content, so patterns are needed only if a folder holds several models.

use serde::{Deserialize, Serialize};

/// Patterns of the file names of one model; `*` matches any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelNamingConfig {
    /// The embeddings model.
    pub embeddings_pattern: String,
    /// FFN chunks for decoding, or with both functions.
    pub ffn_infer_pattern: String,
    /// FFN chunks for prefill.
    pub ffn_prefill_pattern: String,
    /// The LM head.
    pub lm_head_pattern: String,
}

impl ModelNamingConfig {
    /// Names that ANEMLL's converters give Qwen models: prefix `qwen…`, any Core ML extension.
    pub fn standard_qwen() -> Self {
        Self::custom("qwen*", "ml*")
    }

    /// ANEMLL's names with a different prefix and extension (`mlpackage` or `.mlpackage`).
    pub fn custom(prefix: &str, extension: &str) -> Self {
        let extension = extension.trim_start_matches('.');
        let pattern = |part: &str| format!("{prefix}_{part}*.{extension}");
        Self {
            embeddings_pattern: pattern("embeddings"),
            ffn_infer_pattern: pattern("FFN"),
            ffn_prefill_pattern: pattern("prefill"),
            lm_head_pattern: pattern("lm_head"),
        }
    }

    /// Returns true if a file name matches any of the patterns.
    pub fn matches(&self, file_name: &str) -> bool {
        [&self.embeddings_pattern, &self.ffn_infer_pattern, &self.ffn_prefill_pattern, &self.lm_head_pattern]
            .iter()
            .any(|pattern| matches(pattern, file_name))
    }
}

/// Returns true if `text` matches `pattern`. Linear in practice: each part between stars is searched once.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("q*_FFN*.ml*", "qwen_FFN_PF_lut6_chunk_01of02.mlpackage", true),
            ("q*_FFN*.ml*", "qwen_lm_head.mlpackage", false),
            ("*é", "aé", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_standard_names_are_those_of_published_models() {
        let standard = ModelNamingConfig::standard_qwen();
        for name in ["qwen_embeddings.mlmodelc", "qwen25_lm_head_lut6.mlpackage", "qwen_prefill_chunk_01of01.mlmodelc"]
        {
            assert!(standard.matches(name), "{name}");
        }
        assert!(!standard.matches("llama_embeddings.mlpackage"));
        let custom = ModelNamingConfig::custom("typo-fixer", ".mlpackage");
        assert!(custom.matches("typo-fixer_FFN_lut4_chunk_01of01.mlpackage"));
        assert!(!custom.matches("typo-fixer_FFN_lut4_chunk_01of01.mlmodelc"));
    }
}
