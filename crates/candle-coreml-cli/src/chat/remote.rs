//! The chat's remote model: disabled unless the settings allow it; then used on request, or when no local model can
//! answer.

use candle_coreml::Error;
use candle_coreml::backend::{CancelHandle, TextGeneration};
use candle_coreml::settings::Settings;

use super::session::note;

/// Hint for enabling it.
const HOW: &str = "allow it with `candle-coreml config set remote.enabled true`";

/// The remote model and its on/off state.
pub(super) struct Remote {
    settings: Settings,
    cancel: CancelHandle,
    active: Option<Box<dyn TextGeneration>>,
}

/// Creates a client for the remote model.
#[cfg(feature = "remote")]
fn client(settings: &Settings) -> candle_coreml::Result<(Box<dyn TextGeneration>, String)> {
    use candle_coreml::remote::{RemoteError, RemoteGenerator};

    let key = settings.api_key.as_ref().ok_or_else(|| {
        RemoteError::Settings(
            "the remote model needs an API key: `candle-coreml config set api_key`, or ANTHROPIC_API_KEY".to_owned(),
        )
    })?;
    let generator = RemoteGenerator::new(&settings.remote, key)?;
    let url = generator.url().to_owned();
    Ok((Box::new(generator), url))
}

#[cfg(not(feature = "remote"))]
fn client(_: &Settings) -> candle_coreml::Result<(Box<dyn TextGeneration>, String)> {
    Err(Error::Unavailable("this build has no remote models; build with the feature remote".to_owned()))
}

impl Remote {
    pub(super) fn new(settings: &Settings, cancel: CancelHandle) -> Self {
        Self { settings: settings.clone(), cancel, active: None }
    }

    /// Returns true if the settings allow it.
    pub(super) fn is_allowed(&self) -> bool {
        self.settings.remote.enabled
    }

    /// The remote model, if turned on.
    pub(super) fn active(&self) -> Option<&dyn TextGeneration> {
        self.active.as_deref()
    }

    pub(super) fn active_mut(&mut self) -> Option<&mut dyn TextGeneration> {
        match &mut self.active {
            Some(active) => Some(active.as_mut()),
            None => None,
        }
    }

    /// Turns the remote model on.
    pub(super) fn turn_on(&mut self) -> candle_coreml::Result<()> {
        if !self.is_allowed() {
            return Err(Error::Unavailable(format!("the remote model is off; {HOW}")));
        }
        if self.active.is_none() {
            let (mut generator, url) = client(&self.settings)?;
            generator.set_cancel_handle(self.cancel.clone());
            self.active = Some(generator);
            note(&format!("from now on the conversation is sent to {url} ({})", self.settings.remote.model));
        }
        Ok(())
    }

    pub(super) fn turn_off(&mut self) {
        self.active = None;
    }

    pub(super) fn reset(&mut self) {
        if let Some(active) = &mut self.active {
            active.reset();
        }
    }

    /// Text shown by `/remote`.
    pub(super) fn state(&self) -> String {
        match (&self.active, self.is_allowed()) {
            (Some(_), _) => format!("on: {} answers; /remote off goes back", self.settings.remote.model),
            (None, true) => "off; /remote on sends the conversation".to_owned(),
            (None, false) => format!("off; {HOW}"),
        }
    }
}
