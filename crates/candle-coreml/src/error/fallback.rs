//! Backends that failed: at which stage, and what was at fault.

use serde::Serialize;

use super::{Error, ErrorKind};
use crate::backend::BackendDevice;

/// Stage at which a backend failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is not available.
    Absent,
    /// It could not load the model.
    Load,
    /// It failed before its first token.
    FirstStep,
}

/// A backend that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// Its device.
    pub device: BackendDevice,
    /// The stage at which it failed.
    pub stage: Stage,
    /// Its error.
    pub reason: String,
    /// What was at fault.
    #[serde(skip)]
    pub(crate) fault: Fault,
}

/// What was at fault when a backend failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The device, or something else than the model's files.
    Device,
    /// The model's files: every device that runs their form fails alike.
    Model,
    /// The model has another form than the device runs.
    OtherForm,
}

impl Fault {
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            _ if matches!(error, Error::OtherForm { .. }) => Self::OtherForm,
            ErrorKind::Model | ErrorKind::Io => Self::Model,
            _ => Self::Device,
        }
    }
}

/// Why no backend runs a model, cause first: one sentence where one device was tried or all failed alike, else a line for
/// each device.
pub(super) fn why_none(history: &[Fallback]) -> String {
    // Devices that run another form of models say nothing about this one, unless there is nothing else.
    let fitting: Vec<&Fallback> = history.iter().filter(|f| f.fault != Fault::OtherForm).collect();
    let all: Vec<&Fallback> = if fitting.is_empty() { history.iter().collect() } else { fitting };
    let tried: Vec<&Fallback> = all.iter().copied().filter(|f| f.stage != Stage::Absent).collect();
    if let [first, rest @ ..] = tried.as_slice()
        && first.fault == Fault::Model
        && first.stage == Stage::Load
        && rest.iter().all(|f| f.reason == first.reason)
    {
        return first.reason.clone();
    }
    match all.as_slice() {
        [] => "no device can run the model".to_owned(),
        [one] => match one.stage {
            Stage::FirstStep => one.to_string(),
            Stage::Absent | Stage::Load => one.reason.clone(),
        },
        several => {
            let lines: Vec<String> = several.iter().map(|f| format!("\n  {f}")).collect();
            format!("no device can run the model:{}", lines.concat())
        }
    }
}

impl std::fmt::Display for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.stage {
            Stage::Absent => "can't be had",
            Stage::Load => "could not load the model",
            Stage::FirstStep => "failed at its first step",
        };
        write!(f, "{} {what}: {}", self.device, self.reason)
    }
}
