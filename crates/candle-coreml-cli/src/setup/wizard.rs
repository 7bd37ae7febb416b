//! The setup wizard as a state machine: questions, answers and navigation, independent of terminals and files.

use std::path::PathBuf;

use candle_coreml::backend::{Availability, BackendDevice};
use candle_coreml::catalog::{AUTO_MODEL, Memory};
use candle_coreml::settings::{Key, Layer};

use super::field::Field;
use crate::format;

mod models;

use models::Model;

/// Input to the wizard: the machine and its settings.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Path to write the settings to.
    pub(super) path: PathBuf,
    /// Current settings.
    pub(super) existing: Layer,
    /// Devices, best first.
    pub(super) devices: Vec<Availability>,
    pub(super) memory: Memory,
}

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    ApiKey,
    Remote,
    HubToken,
    Device,
    Model,
    ModelName,
    Summary,
}

/// User input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Text(String),
    Backspace,
    Delete,
    Clear,
    Left,
    Right,
    Home,
    End,
    Up,
    Down,
    /// Selects a choice by number, from 0.
    Choose(usize),
    Next,
    Back,
    Leave,
}

/// Next action.
#[derive(Debug)]
pub(super) enum After {
    Stay,
    /// The settings are complete and confirmed.
    Save(Box<Layer>),
    /// Quit without changes.
    Left,
}

/// One of several answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) label: String,
    /// Explanation of the choice.
    pub(super) detail: String,
    /// Reason why it is unavailable.
    pub(super) refused: Option<String>,
}

/// The wizard.
#[derive(Debug)]
pub(super) struct Wizard {
    pub(super) facts: Facts,
    step: Step,
    key: Field,
    token: Field,
    name: Field,
    remote: usize,
    device: usize,
    model: usize,
    complaint: Option<String>,
}

/// Input that removes a secret.
const REMOVE: &str = "-";

fn choice(label: impl Into<String>, detail: impl Into<String>) -> Choice {
    Choice { label: label.into(), detail: detail.into(), refused: None }
}

/// Description of a device.
fn meaning(device: BackendDevice) -> &'static str {
    match device {
        BackendDevice::Auto => "the first of the others that is there and can run the model",
        BackendDevice::CoreML => {
            "Core ML packages: Apple's framework on Apple's systems, the portable engine elsewhere"
        }
        BackendDevice::Metal => "checkpoints (.safetensors) on Apple's GPU, through Candle",
        BackendDevice::Cuda => "checkpoints (.safetensors) on an NVIDIA GPU, through Candle",
        BackendDevice::Cpu => "checkpoints (.safetensors) on the CPU, through Candle; everywhere, and slowest",
    }
}

impl Wizard {
    pub(super) fn new(facts: Facts) -> Self {
        let device = facts.existing.device.unwrap_or_default();
        let remote = usize::from(facts.existing.remote_enabled == Some(true));
        let mut wizard = Self {
            facts,
            step: Step::Device,
            key: Field::default(),
            token: Field::default(),
            name: Field::default(),
            remote,
            device: 0,
            model: 0,
            complaint: None,
        };
        let at = wizard.devices().position(|d| d == device);
        wizard.device = at.unwrap_or(0);
        wizard.model = wizard.usual_model();
        wizard
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// Reason why the last input was rejected.
    pub(super) fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// `Auto`, then the devices.
    fn devices(&self) -> impl Iterator<Item = BackendDevice> {
        std::iter::once(BackendDevice::Auto).chain(self.facts.devices.iter().map(|a| a.device))
    }

    fn chosen_device(&self) -> BackendDevice {
        self.devices().nth(self.device).unwrap_or_default()
    }

    /// Returns true if the settings will hold a key.
    fn has_key(&self) -> bool {
        match self.key.text().trim() {
            "" => self.facts.existing.api_key.is_some(),
            text => text != REMOVE,
        }
    }

    /// The questions to ask, in order.
    pub(super) fn steps(&self) -> Vec<Step> {
        let all = [
            (Step::Device, true),
            (Step::Model, true),
            (Step::ModelName, self.models().get(self.model).is_some_and(|m| m.0 == Model::Another)),
            (Step::ApiKey, true),
            (Step::Remote, self.has_key()),
            (Step::HubToken, true),
            (Step::Summary, true),
        ];
        all.into_iter().filter(|(_, asked)| *asked).map(|(step, _)| step).collect()
    }

    /// Number of the current question, from 1, and the total.
    pub(super) fn position(&self) -> (usize, usize) {
        let steps = self.steps();
        (steps.iter().position(|s| *s == self.step).map_or(1, |i| i + 1), steps.len())
    }

    pub(super) fn title(&self) -> &'static str {
        match self.step {
            Step::ApiKey => "API key",
            Step::Remote => "Remote fallback",
            Step::HubToken => "Token for the hub",
            Step::Device => "Device",
            Step::Model => "Model",
            Step::ModelName => "Another model",
            Step::Summary => "Summary",
        }
    }

    /// Text of the question.
    pub(super) fn text(&self) -> String {
        let secret = |key, without: &str| match self.facts.existing.get(key) {
            Some(shown) => format!("There is one ({shown}): empty keeps it, `{REMOVE}` removes it."),
            None => without.to_owned(),
        };
        match self.step {
            Step::ApiKey => format!(
                "A key of the Anthropic API, for a remote model that the chat can ask when nothing on this machine \
                 answers. Optional. {}",
                secret(Key::ApiKey, "Empty goes without.")
            ),
            Step::Remote => "May the chat send the conversation to the remote model?".to_owned(),
            Step::HubToken => format!(
                "A token of the Hugging Face hub, for models whose licence must be accepted first. Optional. {}",
                secret(Key::HfToken, "Empty goes without.")
            ),
            Step::Device => "Where shall models run?".to_owned(),
            Step::Model => format!(
                "Which model? This machine has {} of memory, {} of it free. Models of the hub are downloaded when they \
                 are used first.",
                format::bytes(self.facts.memory.total),
                format::bytes(self.facts.memory.available)
            ),
            Step::ModelName => {
                "The folder of a model, or its name on the hub: org/name or org/name@revision.".to_owned()
            }
            Step::Summary => format!("This will be written to {}, readable by you only:", self.facts.path.display()),
        }
    }

    /// Settings to be written, by name; secrets masked.
    pub(super) fn summary(&self) -> Vec<(String, String)> {
        let layer = self.layer();
        let rows = Key::ALL.into_iter().filter_map(|key| Some((key.name().to_owned(), layer.get(key)?)));
        let mut rows: Vec<_> = rows.collect();
        if layer.model_path.is_none() && layer.model_repo.is_none() {
            rows.push(("model".to_owned(), "the small one that comes with the project".to_owned()));
        }
        rows
    }

    /// Choices of the current question; empty for text input.
    pub(super) fn choices(&self) -> Vec<Choice> {
        match self.step {
            Step::Remote => vec![
                choice("no", "nothing leaves this machine"),
                choice("yes", "after /remote on, or when no device can run the model; the chat says when"),
            ],
            Step::Device => {
                let auto = choice("auto", meaning(BackendDevice::Auto));
                let devices = self.facts.devices.iter().map(|a| {
                    let detail = format!("{} ({})", meaning(a.device), a.detail);
                    let refused = (!a.usable()).then(|| a.detail.clone());
                    Choice { label: a.device.to_string(), detail, refused }
                });
                std::iter::once(auto).chain(devices).collect()
            }
            Step::Model => self.models().into_iter().map(|(_, choice)| choice).collect(),
            Step::ApiKey | Step::HubToken | Step::ModelName | Step::Summary => Vec::new(),
        }
    }

    /// Index of the selected choice.
    pub(super) fn selected(&self) -> usize {
        match self.step {
            Step::Remote => self.remote,
            Step::Device => self.device,
            Step::Model => self.model,
            Step::ApiKey | Step::HubToken | Step::ModelName | Step::Summary => 0,
        }
    }

    fn select(&mut self, index: usize) {
        let index = index.min(self.choices().len().saturating_sub(1));
        match self.step {
            Step::Remote => self.remote = index,
            Step::Device if self.device != index => {
                self.device = index;
                self.model = self.usual_model();
            }
            Step::Model => self.model = index,
            Step::Device | Step::ApiKey | Step::HubToken | Step::ModelName | Step::Summary => {}
        }
    }

    /// The text field, and true if it is a secret.
    pub(super) fn field(&self) -> Option<(&Field, bool)> {
        match self.step {
            Step::ApiKey => Some((&self.key, true)),
            Step::HubToken => Some((&self.token, true)),
            Step::ModelName => Some((&self.name, false)),
            Step::Remote | Step::Device | Step::Model | Step::Summary => None,
        }
    }

    fn field_mut(&mut self) -> Option<&mut Field> {
        match self.step {
            Step::ApiKey => Some(&mut self.key),
            Step::HubToken => Some(&mut self.token),
            Step::ModelName => Some(&mut self.name),
            Step::Remote | Step::Device | Step::Model | Step::Summary => None,
        }
    }

    /// Reason to reject the answer, if any.
    fn objection(&self) -> Option<String> {
        if let Some(choice) = self.choices().get(self.selected()) {
            return choice.refused.as_ref().map(|why| format!("{} can't be used: {why}", choice.label));
        }
        let (field, secret) = self.field()?;
        let text = field.text();
        if secret && !text.trim().bytes().all(|b| b.is_ascii_graphic()) {
            return Some("expected letters, digits and signs without spaces".to_owned());
        }
        (!secret && text.trim().is_empty()).then(|| "expected a folder or a name, found nothing".to_owned())
    }

    /// Goes to the next or the previous question.
    fn go(&mut self, forward: bool) {
        let steps = self.steps();
        let at = steps.iter().position(|s| *s == self.step).unwrap_or(0);
        let to = if forward { at + 1 } else { at.saturating_sub(1) };
        self.step = steps[to.min(steps.len() - 1)];
    }

    /// The settings that result from the answers.
    fn layer(&self) -> Layer {
        let mut layer = self.facts.existing.clone();
        let secret = |field: &Field, old| match field.text().trim() {
            "" => old,
            REMOVE => None,
            text => Some(text.into()),
        };
        layer.api_key = secret(&self.key, layer.api_key);
        layer.hf_token = secret(&self.token, layer.hf_token);
        // Stays unset unless turned on.
        let on = self.has_key() && self.remote == 1;
        layer.remote_enabled = (on || layer.remote_enabled.is_some()).then_some(on);
        layer.device = Some(self.chosen_device());
        let (path, repository) = match self.models().get(self.model).map(|(model, _)| model) {
            Some(Model::Shipped) | None => (None, None),
            Some(Model::AsItIs) => (layer.model_path.take(), layer.model_repo.take()),
            Some(Model::Auto) => (None, Some(AUTO_MODEL.to_owned())),
            Some(Model::Repository(name)) => (None, Some((*name).to_owned())),
            Some(Model::Another) => {
                let name = self.name.text().trim().to_owned();
                if PathBuf::from(&name).exists() { (Some(absolute(&name)), None) } else { (None, Some(name)) }
            }
        };
        (layer.model_path, layer.model_repo) = (path, repository);
        layer
    }

    /// Handles user input.
    pub(super) fn take(&mut self, input: Input) -> After {
        self.complaint = None;
        let (at, last) = (self.selected(), self.choices().len().saturating_sub(1));
        match input {
            Input::Leave => return After::Left,
            Input::Back => self.go(false),
            Input::Next => match (self.objection(), self.step) {
                (Some(why), _) => self.complaint = Some(why),
                (None, Step::Summary) => return After::Save(Box::new(self.layer())),
                (None, _) => self.go(true),
            },
            Input::Up => self.select(at.saturating_sub(1)),
            Input::Down => self.select(at + 1),
            Input::Choose(index) if index <= last => self.select(index),
            Input::Choose(_) => self.complaint = Some(format!("expected a number from 1 to {}", last + 1)),
            Input::Home if self.field().is_none() => self.select(0),
            Input::End if self.field().is_none() => self.select(last),
            edit => self.edit(edit),
        }
        After::Stay
    }

    fn edit(&mut self, input: Input) {
        let Some(field) = self.field_mut() else { return };
        match input {
            Input::Text(text) => field.insert(&text),
            Input::Backspace => field.backspace(),
            Input::Delete => field.delete(),
            Input::Clear => field.clear(),
            Input::Left => field.left(),
            Input::Right => field.right(),
            Input::Home => field.home(),
            Input::End => field.end(),
            Input::Up | Input::Down | Input::Choose(_) | Input::Next | Input::Back | Input::Leave => {}
        }
    }
}

/// Makes the path absolute: settings are used from other folders, too.
fn absolute(name: &str) -> PathBuf {
    std::path::absolute(name).unwrap_or_else(|_| PathBuf::from(name))
}

#[cfg(test)]
mod tests;
