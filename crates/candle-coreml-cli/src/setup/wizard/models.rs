//! Model choices of the wizard.

use candle_coreml::backend::BackendDevice;
use candle_coreml::catalog::{AUTO_MODEL, Fit, known_models, recommended_model};
use candle_coreml::settings::Key;

use super::{Choice, Wizard, choice};
use crate::format;

/// Value that a model choice writes to the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Model {
    Shipped,
    AsItIs,
    Auto,
    Repository(&'static str),
    Another,
}

impl Wizard {
    /// The model choices and their descriptions.
    pub(super) fn models(&self) -> Vec<(Model, Choice)> {
        let (device, memory) = (self.chosen_device(), self.facts.memory);
        let coreml = matches!(device, BackendDevice::Auto | BackendDevice::CoreML);
        let mut all = Vec::new();
        let existing = &self.facts.existing;
        if let Some(name) = existing.get(Key::ModelPath).or_else(|| existing.get(Key::ModelRepo)) {
            all.push((Model::AsItIs, choice(name, "as it is set now")));
        }
        if coreml {
            let detail = "comes with the project: nothing to download; small, for trying out";
            all.push((Model::Shipped, choice("tiny-qwen3", detail)));
        }
        let recommended = recommended_model(device, memory);
        for model in known_models(device) {
            let (size, needed) = (format::bytes(model.download), format::bytes(model.memory(device)));
            let fit = match model.fit(device, memory) {
                Fit::Fits => format!("needs {needed} of memory: fits"),
                Fit::Tight => format!("needs {needed} of memory: fits once other programs are closed"),
                Fit::TooLarge => format!("needs {needed} of memory: too large for this machine"),
            };
            let advice = if model == recommended { ", recommended" } else { "" };
            let detail = format!("{size} to download, {fit}{advice}");
            all.push((Model::Repository(model.repository), choice(model.repository, detail)));
        }
        let detail = "at every start the largest of these that fits the free memory then";
        all.push((Model::Auto, choice(AUTO_MODEL, detail)));
        all.push((Model::Another, choice("another", "a folder, or a name of the hub")));
        all
    }

    /// Initial selection: the configured model, else the recommended one.
    pub(super) fn usual_model(&self) -> usize {
        let recommended = Model::Repository(recommended_model(self.chosen_device(), self.facts.memory).repository);
        let models = self.models();
        let find = |wanted: &Model| models.iter().position(|(m, _)| m == wanted);
        find(&Model::AsItIs).or_else(|| find(&recommended)).unwrap_or(0)
    }
}
