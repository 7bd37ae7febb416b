//! User settings: a TOML file, the environment, flags.
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
//!
//! [remote]
//! enabled = false               # nothing is sent anywhere unless this is true
//! model = "claude-sonnet-4-5"
//! base_url = "https://api.anthropic.com"
//! ```
//!
//! The file is `config.toml` in the system's configuration folder; `CANDLE_COREML_CONFIG` overrides the path. A
//! [`Layer`] holds the values of one source; later layers win: defaults, file, environment (`CANDLE_COREML_DEVICE`,
//! `…_MODEL_REPO`, `…_MODEL_PATH`, `…_FALLBACK`, `…_STREAMING`, `…_REMOTE`, `…_REMOTE_MODEL`, `…_REMOTE_URL`,
//! `…_API_KEY` or `ANTHROPIC_API_KEY`, `HF_TOKEN`), flags. Secrets never appear in errors, logs or `Debug` output.
//! [`Key`] addresses single settings by name, for programs that show and change them.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::backend::{BackendConfig, BackendDevice};
use crate::error::{Error, Result};

mod file;
mod key;

pub use file::{Warning, read, save};
pub use key::Key;

/// Environment variable with the path of the file.
pub const CONFIG_VARIABLE: &str = "CANDLE_COREML_CONFIG";

/// Default server of the remote fallback.
pub const REMOTE_URL: &str = "https://api.anthropic.com";
/// Default model of the remote fallback.
pub const REMOTE_MODEL: &str = "claude-sonnet-4-5";

/// Settings of the chat's remote fallback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// True if it may be used; off by default.
    pub enabled: bool,
    /// Name of the model on the server.
    pub model: String,
    /// The server; requests go to `{base_url}/v1/messages`.
    pub base_url: String,
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self { enabled: false, model: REMOTE_MODEL.to_owned(), base_url: REMOTE_URL.to_owned() }
    }
}

/// All settings, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Model and devices.
    pub backend: BackendConfig,
    /// Key for the remote fallback.
    pub api_key: Option<SecretString>,
    /// Token for the hub.
    pub hf_token: Option<SecretString>,
    /// True if answers are streamed.
    pub streaming_enabled: bool,
    /// The remote fallback.
    pub remote: RemoteSettings,
}

/// Values set by one source; `None` where it sets none.
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
    /// [`RemoteSettings::enabled`].
    pub remote_enabled: Option<bool>,
    /// [`RemoteSettings::model`].
    pub remote_model: Option<String>,
    /// [`RemoteSettings::base_url`].
    pub remote_base_url: Option<String>,
}

impl Layer {
    /// Overlays this layer on a lower one. A model set here replaces one set below, whether by path or by repository.
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
            remote_enabled: self.remote_enabled.or(lower.remote_enabled),
            remote_model: self.remote_model.or(lower.remote_model),
            remote_base_url: self.remote_base_url.or(lower.remote_base_url),
        }
    }

    /// Reads the environment variables; empty ones are ignored.
    ///
    /// # Errors
    /// If a value is invalid; the error names the variable.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        let named = |name: &'static str| move |e: Error| Error::Request(format!("{name}: {e}"));
        let switch = |name: &'static str| get(name).map(|v| key::switch(&v)).transpose().map_err(named(name));
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
            api_key: get("CANDLE_COREML_API_KEY").or_else(|| get("ANTHROPIC_API_KEY")).map(SecretString::from),
            hf_token: get("HF_TOKEN").map(SecretString::from),
            streaming_enabled: switch("CANDLE_COREML_STREAMING")?,
            remote_enabled: switch("CANDLE_COREML_REMOTE")?,
            remote_model: get("CANDLE_COREML_REMOTE_MODEL"),
            remote_base_url: get("CANDLE_COREML_REMOTE_URL"),
        })
    }

    /// Resolves the settings, with defaults for unset values.
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
            remote: RemoteSettings {
                enabled: self.remote_enabled.unwrap_or_default(),
                model: self.remote_model.unwrap_or_else(|| REMOTE_MODEL.to_owned()),
                base_url: self.remote_base_url.unwrap_or_else(|| REMOTE_URL.to_owned()),
            },
        }
    }
}

/// Path of the file, and true if the user set it. `None` if the system has no configuration folder.
pub fn location(named: Option<&Path>) -> Option<(PathBuf, bool)> {
    let variable = std::env::var_os(CONFIG_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_owned).or(variable) {
        return Some((path, true));
    }
    let folders = directories::ProjectDirs::from("", "", "candle-coreml")?;
    Some((folders.config_dir().join("config.toml"), false))
}

/// Merges all layers: defaults, the file (`named`, else the variable's, else the default path), the environment,
/// `flags`. Also returns warnings about the file.
///
/// # Errors
/// If a named file is missing, the file can't be read or is malformed, or a value is invalid.
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
        assert_eq!(nothing.remote, RemoteSettings::default());
        assert!(!nothing.remote.enabled, "nothing is sent anywhere unless it is asked for");
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
        let keys = |pairs| of(pairs).expect("right").api_key.expect("a key").expose_secret().to_owned();
        assert_eq!(keys(&[("ANTHROPIC_API_KEY", "a")]), "a");
        assert_eq!(keys(&[("ANTHROPIC_API_KEY", "a"), ("CANDLE_COREML_API_KEY", "b")]), "b");
        for (pairs, part) in [
            (&[("CANDLE_COREML_DEVICE", "gpu")][..], "CANDLE_COREML_DEVICE"),
            (&[("CANDLE_COREML_FALLBACK", "cpu,,")][..], "CANDLE_COREML_FALLBACK"),
            (&[("CANDLE_COREML_STREAMING", "maybe")][..], "maybe"),
            (&[("CANDLE_COREML_REMOTE", "perhaps")][..], "CANDLE_COREML_REMOTE"),
        ] {
            let message = of(pairs).expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
