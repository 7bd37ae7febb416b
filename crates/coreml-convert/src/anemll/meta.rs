//! `meta.yaml`: what ANEMLL's programs know of the files.

use super::{Conversion, suffix, words};
use crate::decoder;

impl Conversion<'_> {
    /// `meta.yaml` in the words of version 0.3.5.
    pub(super) fn meta(&self, name: &str) -> String {
        let (o, c, p) = (self.o, self.c, self.prefix());
        let sizes: Vec<String> =
            decoder::parts(c.vocab, self.part_count()).iter().map(|r| r.len().to_string()).collect();
        // A name is quoted as YAML, whose double-quoted strings are those of JSON.
        let title = serde_json::Value::from(format!("anemll-{name}-ctx{}", o.context));
        let architecture = &c.model_type;
        let mut text = format!(
            "model_info:\n  name: {title}\n  version: 0.3.5\n  description: |\n    Converted with candle-coreml\n    Context length: {}\n    Batch size: {}\n  framework: Core ML\n  language: Rust\n  architecture: {architecture}\n",
            o.context, o.batch
        );
        if o.monolithic {
            text += "  model_type: monolithic\n";
        }
        text += &format!("  parameters:\n    context_length: {}\n    batch_size: {}\n", o.context, o.batch);
        let mut put = |key: &str, value: String| text += &format!("    {key}: {value}\n");
        if o.monolithic {
            put("lut_bits", words(o.lut_ffn));
            put("model_prefix", p.to_owned());
            put("monolithic_model", format!("{p}_monolithic_full{}.mlpackage", suffix(o.lut_ffn)));
        } else {
            put("lut_embeddings", words(o.lut_embeddings));
            put("lut_ffn", words(o.lut_ffn));
            put("lut_lmhead", words(o.lut_head));
            put("num_chunks", o.chunks.to_string());
            put("model_prefix", p.to_owned());
            put("embeddings", format!("{p}_embeddings{}.mlpackage", suffix(o.lut_embeddings)));
            put("lm_head", format!("{p}_lm_head{}.mlpackage", suffix(o.lut_head)));
            let x = self.statex();
            let first = format!("{p}_FFN_PF{}{x}_chunk_01of{:02}", suffix(o.lut_ffn), o.chunks);
            put("ffn", format!("{first}.mlpackage"));
            if self.splits() {
                put("pf", format!("{first}_rot.mlpackage"));
                put("split_rotate", "true".to_owned());
            }
        }
        put("split_lm_head", self.part_count().to_string());
        put("vocab_size", c.vocab.to_string());
        put("lm_head_chunk_sizes", format!("[{}]", sizes.join(", ")));
        if o.argmax {
            put("argmax_in_model", "true".to_owned());
        }
        if let Some(window) = c.window.filter(|_| c.locals() > 0) {
            put("sliding_window", window.to_string());
        }
        if let Some(length) = o.state_length {
            put("state_length", length.to_string());
        }
        if o.single_cache && c.locals() > 0 {
            put("single_cache", "true".to_owned());
        }
        if let Some(most) = (!o.contexts.is_empty()).then_some(o.context) {
            let mut all: Vec<String> = o.contexts.iter().map(ToString::to_string).collect();
            all.push(most.to_string());
            put("state_transition_infer_contexts", format!("[{}]", all.join(", ")));
            put("state_transition_prefill_contexts", format!("[{}]", all.join(", ")));
        }
        put("update_mask_prefill", o.static_slices.to_string());
        put("prefill_dynamic_slice", (!o.static_slices).to_string());
        if o.monolithic {
            let functions: String = self.functions().iter().map(|t| format!("      - {}\n", t.name)).collect();
            text += &format!("    functions:\n{functions}");
        }
        text
    }
}
