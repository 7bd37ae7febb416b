//! How a model's authors would have its tokens chosen: `recommended_sampling` of `meta.yaml`, else `generation_config.json`.

use std::path::Path;

use serde_json::Value;

use super::Sampling;
use crate::anemll::Meta;
use crate::files;

/// Recommended parameters; none where a model recommends nothing. Those of a request win.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Recommended {
    /// See [`Sampling::temperature`]; 0 for models that recommend, or allow, greedy choices only.
    pub temperature: Option<f32>,
    /// See [`Sampling::top_k`].
    pub top_k: Option<usize>,
    /// See [`Sampling::top_p`].
    pub top_p: Option<f32>,
    /// See [`Sampling::min_p`].
    pub min_p: Option<f32>,
    /// See [`Sampling::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
}

impl Recommended {
    /// Greedy choices: for models that give nothing else.
    pub fn greedy() -> Self {
        Self { temperature: Some(0.0), ..Self::default() }
    }

    /// Reads the files of a model's folder; a file that is not there or not understood recommends nothing.
    pub fn read(folder: &Path) -> Self {
        let folder = files::beside(folder);
        if let Some(found) = Meta::of_folder(&folder).recommended_sampling.as_ref().map(Self::of) {
            return found;
        }
        match files::json_if_there(&folder.join("generation_config.json")) {
            Ok(Some(config)) => Self::of(&config),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!("{error}: it is ignored");
                Self::default()
            }
        }
    }

    /// Reads the keys that both files use. Without `do_sample: true` nothing else means anything, as in transformers;
    /// values outside their range are left out.
    fn of(settings: &Value) -> Self {
        if settings.get("do_sample").and_then(Value::as_bool) != Some(true) {
            return Self::default();
        }
        let number = |names: &[&str], low: f64, high: f64| {
            let value = names.iter().find_map(|n| settings.get(n)?.as_f64())?;
            (low..=high).contains(&value).then_some(value as f32)
        };
        let top_k = ["top_k", "topK"].iter().find_map(|n| settings.get(n)?.as_u64());
        Self {
            temperature: number(&["temperature"], 0.0, 100.0).or(Some(1.0)),
            top_k: top_k.and_then(|n| usize::try_from(n).ok()),
            top_p: number(&["top_p", "topP"], 0.0, 1.0),
            min_p: number(&["min_p", "minP"], 0.0, 1.0),
            repetition_penalty: number(&["repetition_penalty"], 0.01, 100.0),
        }
    }

    /// Sampling with these parameters, greedy where there are none.
    pub fn sampling(&self) -> Sampling {
        let usual = Sampling::default();
        Sampling {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            seed: usual.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_yaml_wins_over_the_generation_config() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        assert_eq!(Recommended::read(folder.path()), Recommended::default());
        write("generation_config.json", r#"{"do_sample": true, "top_k": 64, "top_p": 0.95, "min_p": 7}"#);
        let config =
            Recommended { temperature: Some(1.0), top_k: Some(64), top_p: Some(0.95), ..Recommended::default() };
        assert_eq!(Recommended::read(folder.path()), config);
        write(
            "meta.yaml",
            "model_info:\n  recommended_sampling: {do_sample: true, temperature: 0.6, topK: 20, topP: 0.9}\n",
        );
        let meta = Recommended { temperature: Some(0.6), top_k: Some(20), top_p: Some(0.9), ..Recommended::default() };
        assert_eq!(Recommended::read(folder.path()), meta);
        assert_eq!(Recommended::read(&folder.path().join("a.mlpackage")), meta);
        assert_eq!(meta.sampling().temperature, 0.6);
        write("meta.yaml", "model_info:\n  recommended_sampling: {do_sample: false, temperature: 0.6}\n");
        assert_eq!(Recommended::read(folder.path()).sampling(), Sampling::default());
    }
}
