//! Settings by name, for programs that show and change single ones.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::{Layer, REMOTE_MODEL, REMOTE_URL};
use crate::backend::BackendDevice;
use crate::error::{Error, Result};

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `backend.device`
    Device,
    /// `backend.model_path`
    ModelPath,
    /// `backend.model_repo`
    ModelRepo,
    /// `backend.fallback_chain`
    FallbackChain,
    /// `streaming_enabled`
    StreamingEnabled,
    /// `hf_token`
    HfToken,
    /// `api_key`
    ApiKey,
    /// `remote.enabled`
    RemoteEnabled,
    /// `remote.model`
    RemoteModel,
    /// `remote.base_url`
    RemoteBaseUrl,
}

impl Key {
    /// All keys, in display order.
    pub const ALL: [Self; 10] = [
        Self::Device,
        Self::ModelPath,
        Self::ModelRepo,
        Self::FallbackChain,
        Self::StreamingEnabled,
        Self::HfToken,
        Self::ApiKey,
        Self::RemoteEnabled,
        Self::RemoteModel,
        Self::RemoteBaseUrl,
    ];

    /// Its name, including the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "backend.device",
            Self::ModelPath => "backend.model_path",
            Self::ModelRepo => "backend.model_repo",
            Self::FallbackChain => "backend.fallback_chain",
            Self::StreamingEnabled => "streaming_enabled",
            Self::HfToken => "hf_token",
            Self::ApiKey => "api_key",
            Self::RemoteEnabled => "remote.enabled",
            Self::RemoteModel => "remote.model",
            Self::RemoteBaseUrl => "remote.base_url",
        }
    }

    /// Returns true if its value must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::ApiKey | Self::HfToken)
    }

    /// The known key most similar to a wrong one, with or without its table; `None` if none is similar.
    pub(super) fn nearest(wrong: &str) -> Option<Self> {
        let like = |key: &Self| {
            let bare = key.name().rsplit('.').next().unwrap_or(key.name());
            strsim::jaro_winkler(bare, wrong).max(strsim::jaro_winkler(key.name(), wrong))
        };
        Self::ALL.into_iter().max_by(|a, b| like(a).total_cmp(&like(b))).filter(|k| like(k) > 0.8)
    }
}

impl std::str::FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| {
            let hint = match Self::nearest(text) {
                Some(near) => format!("did you mean `{}`?", near.name()),
                None => format!("there are {}", Self::ALL.map(Self::name).join(", ")),
            };
            Error::Request(format!("unknown key `{text}`; {hint}"))
        })
    }
}

/// Parses a boolean as users write it.
pub(super) fn switch(text: &str) -> Result<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" => Ok(true),
        "0" | "false" | "off" | "no" => Ok(false),
        other => Err(Error::Request(format!("expected true or false, found `{other}`"))),
    }
}

/// Masks a secret: shows that it is set, and its last characters if enough stay hidden.
fn masked(secret: &SecretString) -> String {
    let text: Vec<char> = secret.expose_secret().chars().collect();
    let shown = if text.len() >= 16 { &text[text.len() - 4..] } else { &[] };
    format!("••••{}", shown.iter().collect::<String>())
}

impl Layer {
    /// Default values.
    pub fn defaults() -> Self {
        Self {
            device: Some(BackendDevice::Auto),
            fallback_chain: Some(Vec::new()),
            streaming_enabled: Some(true),
            remote_enabled: Some(false),
            remote_model: Some(REMOTE_MODEL.to_owned()),
            remote_base_url: Some(REMOTE_URL.to_owned()),
            ..Self::default()
        }
    }

    /// The value of a setting as text; secrets are masked.
    pub fn get(&self, key: Key) -> Option<String> {
        match key {
            Key::Device => self.device.map(|d| d.to_string()),
            Key::ModelPath => self.model_path.as_ref().map(|p| p.display().to_string()),
            Key::ModelRepo => self.model_repo.clone(),
            Key::FallbackChain => {
                self.fallback_chain.as_ref().map(|c| c.iter().map(|d| d.name()).collect::<Vec<_>>().join(","))
            }
            Key::StreamingEnabled => self.streaming_enabled.map(|b| b.to_string()),
            Key::HfToken => self.hf_token.as_ref().map(masked),
            Key::ApiKey => self.api_key.as_ref().map(masked),
            Key::RemoteEnabled => self.remote_enabled.map(|b| b.to_string()),
            Key::RemoteModel => self.remote_model.clone(),
            Key::RemoteBaseUrl => self.remote_base_url.clone(),
        }
    }

    /// Sets a setting from text. A model path replaces a model repository and vice versa, since only one can apply.
    ///
    /// # Errors
    /// [`Error::Request`] with the key, expected and found; secrets are not quoted.
    pub fn set(&mut self, key: Key, text: &str) -> Result<()> {
        let named = |e: Error| Error::Request(format!("{}: {e}", key.name()));
        let value = text.trim();
        if value.is_empty() && key != Key::FallbackChain {
            return Err(named(Error::Request("expected a value, found nothing".to_owned())));
        }
        if key.is_secret() && !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(named(Error::Request("expected letters, digits and signs without spaces".to_owned())));
        }
        match key {
            Key::Device => self.device = Some(value.parse().map_err(named)?),
            Key::ModelPath => (self.model_path, self.model_repo) = (Some(PathBuf::from(value)), None),
            Key::ModelRepo => (self.model_repo, self.model_path) = (Some(value.to_owned()), None),
            Key::FallbackChain => {
                let names = value.split(',').map(str::trim).filter(|n| !n.is_empty());
                self.fallback_chain = Some(names.map(str::parse).collect::<Result<_>>().map_err(named)?);
            }
            Key::StreamingEnabled => self.streaming_enabled = Some(switch(value).map_err(named)?),
            Key::HfToken => self.hf_token = Some(value.into()),
            Key::ApiKey => self.api_key = Some(value.into()),
            Key::RemoteEnabled => self.remote_enabled = Some(switch(value).map_err(named)?),
            Key::RemoteModel => self.remote_model = Some(value.to_owned()),
            Key::RemoteBaseUrl => self.remote_base_url = Some(value.to_owned()),
        }
        Ok(())
    }

    /// Removes a setting; returns true if it was set.
    pub fn unset(&mut self, key: Key) -> bool {
        match key {
            Key::Device => self.device.take().is_some(),
            Key::ModelPath => self.model_path.take().is_some(),
            Key::ModelRepo => self.model_repo.take().is_some(),
            Key::FallbackChain => self.fallback_chain.take().is_some(),
            Key::StreamingEnabled => self.streaming_enabled.take().is_some(),
            Key::HfToken => self.hf_token.take().is_some(),
            Key::ApiKey => self.api_key.take().is_some(),
            Key::RemoteEnabled => self.remote_enabled.take().is_some(),
            Key::RemoteModel => self.remote_model.take().is_some(),
            Key::RemoteBaseUrl => self.remote_base_url.take().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_set_shown_and_unset_by_its_name() {
        for (name, text, shown) in [
            ("backend.device", " CPU ", "cpu"),
            ("backend.model_path", "/models/x", "/models/x"),
            ("backend.model_repo", "org/name", "org/name"),
            ("backend.fallback_chain", "cuda, cpu", "cuda,cpu"),
            ("backend.fallback_chain", "", ""),
            ("streaming_enabled", "off", "false"),
            ("hf_token", "hf_short", "••••"),
            ("api_key", "sk-ant-0123456789abcd", "••••abcd"),
            ("remote.enabled", "yes", "true"),
            ("remote.model", "m", "m"),
            ("remote.base_url", "https://x", "https://x"),
        ] {
            let key: Key = name.parse().expect(name);
            let mut layer = Layer::default();
            layer.set(key, text).expect(name);
            assert_eq!(layer.get(key).as_deref(), Some(shown), "{name}");
            assert_eq!(Key::ALL.iter().filter(|k| layer.get(**k).is_some()).count(), 1, "{name}");
            assert!(layer.unset(key) && !layer.unset(key) && layer.get(key).is_none(), "{name}");
        }
    }

    #[test]
    fn of_a_folder_and_a_repository_the_last_one_counts() {
        let mut layer = Layer::default();
        layer.set(Key::ModelPath, "/a").expect("set");
        layer.set(Key::ModelRepo, "b/c").expect("set");
        assert_eq!((layer.get(Key::ModelPath), layer.get(Key::ModelRepo)), (None, Some("b/c".to_owned())));
    }

    #[test]
    fn wrong_names_and_values_say_what_would_be_right() {
        for (name, part) in [
            ("backend.devise", "`backend.device`?"),
            ("device", "`backend.device`?"),
            ("remote.modle", "`remote.model`?"),
            ("", "there are backend.device"),
            ("zzz", "there are backend.device"),
        ] {
            let message = name.parse::<Key>().expect_err(name).to_string();
            assert!(message.contains(part), "{message}");
        }
        for (key, value, part) in [
            (Key::Device, "gpu", "backend.device: device `gpu`"),
            (Key::FallbackChain, "cpu,tpu", "backend.fallback_chain"),
            (Key::StreamingEnabled, "maybe", "found `maybe`"),
            (Key::RemoteModel, "  ", "found nothing"),
            (Key::ApiKey, "sk hidden", "without spaces"),
        ] {
            let mut layer = Layer::default();
            let message = layer.set(key, value).expect_err(part).to_string();
            assert!(message.contains(part) && !message.contains("hidden"), "{message}");
            assert!(layer.get(key).is_none(), "{message}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_settings() {
        let (shown, real) = (Layer::defaults().settings(), Layer::default().settings());
        assert_eq!((shown.backend, shown.remote), (real.backend, real.remote));
        assert_eq!(shown.streaming_enabled, real.streaming_enabled);
    }
}
