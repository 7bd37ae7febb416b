//! What the user has set: a TOML file, the environment, flags.
//!
//! ```toml
//! api_key = "…"                 # for the remote fallback of the chat
//! hf_token = "…"                # for repositories that ask for one
//! streaming_enabled = true
//!
//! [backend]
//! device = "auto"               # coreml, metal, cuda, cpu
//! model_path = "/models/qwen3"  # or model_repo = "Qwen/Qwen3-0.6B"
//! fallback_chain = ["cuda", "cpu"]
//! ```
//!
//! The file is `config.toml` in the folder that the system has for configurations; `CANDLE_COREML_CONFIG` names
//! another one. A [`Layer`] holds what one source says; later layers win: defaults, file, environment
//! (`CANDLE_COREML_DEVICE`, `…_MODEL_REPO`, `…_MODEL_PATH`, `…_FALLBACK`, `…_STREAMING`, `…_API_KEY`,
//! `HF_TOKEN`), flags. Secrets are in no error, no log and no `Debug` output.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{BackendConfig, BackendDevice};
use crate::error::{Error, Result};

mod file;

pub use file::{Warning, read, save};

/// Name of the variable that names the file.
pub const CONFIG_VARIABLE: &str = "CANDLE_COREML_CONFIG";

/// All settings, complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which model runs where.
    pub backend: BackendConfig,
    /// Key for the remote fallback.
    pub api_key: Option<SecretString>,
    /// Token for the hub.
    pub hf_token: Option<SecretString>,
    /// Whether answers are shown as they come.
    pub streaming_enabled: bool,
}

/// What one source sets; nothing where it is silent.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// [`BackendConfig::device`].
    pub device: Option<BackendDevice>,
    /// [`BackendConfig::model_repo`].
    pub model_repo: Option<String>,
    /// [`BackendConfig::model_path`].
    pub model_path: Option<PathBuf>,
    /// [`BackendConfig::fallback_chain`].
    pub fallback_chain: Option<Vec<BackendDevice>>,
    /// [`Settings::api_key`].
    pub api_key: Option<SecretString>,
    /// [`Settings::hf_token`].
    pub hf_token: Option<SecretString>,
    /// [`Settings::streaming_enabled`].
    pub streaming_enabled: Option<bool>,
}

impl Layer {
    /// This layer where it says something, else the lower one. A model that is named here replaces one below,
    /// whether by path or by repository.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        let (model_repo, model_path) = if self.model_repo.is_some() || self.model_path.is_some() {
            (self.model_repo, self.model_path)
        } else {
            (lower.model_repo, lower.model_path)
        };
        Self {
            device: self.device.or(lower.device),
            model_repo,
            model_path,
            fallback_chain: self.fallback_chain.or(lower.fallback_chain),
            api_key: self.api_key.or(lower.api_key),
            hf_token: self.hf_token.or(lower.hf_token),
            streaming_enabled: self.streaming_enabled.or(lower.streaming_enabled),
        }
    }

    /// What environment variables say; empty ones say nothing.
    ///
    /// # Errors
    /// A value that is none of those that are possible, with the name of its variable.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        let named = |name: &'static str| move |e: Error| Error::Request(format!("{name}: {e}"));
        let device = "CANDLE_COREML_DEVICE";
        let fallback = "CANDLE_COREML_FALLBACK";
        Ok(Self {
            device: get(device).map(|v| v.parse()).transpose().map_err(named(device))?,
            model_repo: get("CANDLE_COREML_MODEL_REPO"),
            model_path: get("CANDLE_COREML_MODEL_PATH").map(PathBuf::from),
            fallback_chain: get(fallback)
                .map(|v| v.split(',').map(str::parse).collect::<Result<_>>())
                .transpose()
                .map_err(named(fallback))?,
            api_key: get("CANDLE_COREML_API_KEY").map(SecretString::from),
            hf_token: get("HF_TOKEN").map(SecretString::from),
            streaming_enabled: get("CANDLE_COREML_STREAMING")
                .map(|v| match v.trim().to_ascii_lowercase().as_str() {
                    "1" | "true" | "on" | "yes" => Ok(true),
                    "0" | "false" | "off" | "no" => Ok(false),
                    other => {
                        Err(Error::Request(format!("CANDLE_COREML_STREAMING: expected true or false, found `{other}`")))
                    }
                })
                .transpose()?,
        })
    }

    /// Settings with defaults where nothing was said.
    pub fn settings(self) -> Settings {
        Settings {
            backend: BackendConfig {
                device: self.device.unwrap_or_default(),
                model_repo: self.model_repo,
                model_path: self.model_path,
                fallback_chain: self.fallback_chain.unwrap_or_default(),
            },
            api_key: self.api_key,
            hf_token: self.hf_token,
            streaming_enabled: self.streaming_enabled.unwrap_or(true),
        }
    }
}

/// Where the file is, and whether the user named it. None when the system has no folder for configurations.
pub fn location(named: Option<&Path>) -> Option<(PathBuf, bool)> {
    let variable = std::env::var_os(CONFIG_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_owned).or(variable) {
        return Some((path, true));
    }
    let folders = directories::ProjectDirs::from("", "", "candle-coreml")?;
    Some((folders.config_dir().join("config.toml"), false))
}

/// All layers together: defaults, the file (`named`, else the variable's, else the usual one), the environment,
/// `flags`. Also what is odd about the file.
///
/// # Errors
/// A file that was named and is not there, one that can't be read or is malformed, wrong values.
pub fn load(named: Option<&Path>, flags: Layer) -> Result<(Settings, Vec<Warning>)> {
    let (file, warnings) = match location(named) {
        Some((path, false)) if !path.exists() => Default::default(),
        Some((path, _)) => read(&path)?,
        None => Default::default(),
    };
    Ok((flags.over(Layer::from_environment()?.over(file)).settings(), warnings))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn later_layers_win_and_a_model_is_replaced_as_a_whole() {
        let file = Layer {
            device: Some(BackendDevice::Cuda),
            model_path: Some("/a".into()),
            streaming_enabled: Some(false),
            ..Layer::default()
        };
        let environment =
            Layer { model_repo: Some("x/y".to_owned()), api_key: Some("secret".into()), ..Layer::default() };
        let flags = Layer { device: Some(BackendDevice::Cpu), ..Layer::default() };
        let settings = flags.over(environment.over(file)).settings();
        assert_eq!(settings.backend.device, BackendDevice::Cpu);
        assert_eq!(settings.backend.model_repo.as_deref(), Some("x/y"));
        assert_eq!(settings.backend.model_path, None, "the path of a lower layer would hide the repository");
        assert!(!settings.streaming_enabled);
        assert_eq!(settings.api_key.as_ref().map(|k| k.expose_secret()), Some("secret"));
        assert!(!format!("{settings:?}").contains("secret\""), "{settings:?}");
        let nothing = Layer::default().settings();
        assert_eq!((nothing.backend, nothing.streaming_enabled), (BackendConfig::default(), true));
    }

    #[test]
    fn variables_are_read_and_wrong_ones_named() {
        let of = |pairs: &'static [(&str, &str)]| {
            Layer::from_variables(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        let layer =
            of(&[("CANDLE_COREML_FALLBACK", "cuda, cpu"), ("CANDLE_COREML_STREAMING", "OFF"), ("HF_TOKEN", "")]);
        let layer = layer.expect("right");
        assert_eq!(layer.fallback_chain, Some(vec![BackendDevice::Cuda, BackendDevice::Cpu]));
        assert_eq!(layer.streaming_enabled, Some(false));
        assert!(layer.hf_token.is_none(), "an empty variable says nothing");
        for (pairs, part) in [
            (&[("CANDLE_COREML_DEVICE", "gpu")][..], "CANDLE_COREML_DEVICE"),
            (&[("CANDLE_COREML_FALLBACK", "cpu,,")][..], "CANDLE_COREML_FALLBACK"),
            (&[("CANDLE_COREML_STREAMING", "maybe")][..], "maybe"),
        ] {
            let message = of(pairs).expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
