//! The values inside a prediction: written to a folder, searched for the first that is no number.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_coreml::engine::InnerValue;
use candle_coreml::format::dtype::DataType;
use candle_coreml::format::program::Binding;
use candle_coreml::state::CoreMLState;
use candle_coreml::{CoreMLModel, FeatureValue, RowOutputs, ValueStats};
use serde_json::{Map, Value, json};

use super::Failure;
use crate::{CommandResult, write};

/// The largest number of files of a trace.
const MOST: usize = 1 << 20;

/// An inner value that is no number, or that 16 bits don't hold.
struct Found {
    operator: String,
    label: String,
    stats: ValueStats,
}

/// What is watched for in a prediction, and where inner values go.
pub(super) struct Trace {
    folder: Option<PathBuf>,
    check: bool,
    /// Statistics by the name of the value.
    stats: HashMap<String, ValueStats>,
    rows: Vec<Value>,
    first: Option<Found>,
    beyond: Option<Found>,
    failure: Option<Failure>,
}

/// The name of a result: the operation's, with a number behind it for the second and later ones.
pub(crate) fn label(value: &InnerValue<'_>) -> String {
    match value.output {
        0 => value.name.to_owned(),
        n => format!("{}.{n}", value.name),
    }
}

/// A name as part of a file name.
fn plain(label: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    label.chars().take(100).map(safe).collect()
}

impl Trace {
    /// A trace into a new or empty folder, if one is given; `check` looks for NaN and infinities.
    pub(super) fn new(folder: Option<&Path>, check: bool) -> Result<Self, Failure> {
        if let Some(folder) = folder {
            let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
            std::fs::create_dir_all(folder).map_err(fail)?;
            if std::fs::read_dir(folder).map_err(fail)?.next().is_some() {
                return Err(format!("{}: expected a new or empty folder for the trace", folder.display()).into());
            }
        }
        let folder = folder.map(Path::to_owned);
        let (stats, rows) = (HashMap::new(), Vec::new());
        Ok(Self { folder, check, stats, rows, first: None, beyond: None, failure: None })
    }

    fn see(&mut self, value: &InnerValue<'_>) -> CommandResult {
        let stats = ValueStats::of(&value.tensor)?;
        let label = label(value);
        if let Some(folder) = &self.folder {
            if self.rows.len() == MOST {
                return Err(format!("{}: more than {MOST} inner values", folder.display()).into());
            }
            let file = format!("{:05}-{}.npy", self.rows.len(), plain(&label));
            write::npy(&folder.join(&file), &value.tensor)?;
            let mut row = Map::from_iter([
                ("file".to_owned(), json!(file)),
                ("operation".to_owned(), json!(value.operator)),
                ("name".to_owned(), json!(label)),
                ("dtype".to_owned(), json!(value.dtype.name())),
            ]);
            if let Value::Object(all) = serde_json::to_value(&stats)? {
                row.extend(all);
            }
            self.rows.push(Value::Object(row));
        }
        let found = || Some(Found { operator: value.operator.to_owned(), label: label.clone(), stats: stats.clone() });
        if self.first.is_none() && !stats.is_finite() {
            self.first = found();
        }
        if self.beyond.is_none() && value.dtype == DataType::F16 && stats.beyond_half > 0 {
            self.beyond = found();
        }
        self.stats.insert(label, stats);
        Ok(())
    }

    /// Predicts, and sees every inner value.
    pub(super) fn predict(
        &mut self,
        model: &CoreMLModel,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut CoreMLState>,
    ) -> Result<RowOutputs, Failure> {
        let program = candle_coreml::lower::lower(model.package()).ok();
        let half = program.map(|p| coreml_inspect::warnings::half_inputs(&p, model.function())).unwrap_or_default();
        for (name, value) in inputs {
            if let Some(tensor) = value.tensor() {
                let stats = ValueStats::of(tensor)?;
                if self.check && stats.beyond_half > 0 && half.iter().any(|n| n == name) {
                    note!("the input `{name}` is made 16 bits, and has values that they can't hold: {stats}");
                }
                self.stats.insert((*name).to_owned(), stats);
            }
        }
        let this = RefCell::new(self);
        let outputs = model.predict_traced(inputs, state, &|value| {
            let mut this = this.borrow_mut();
            if this.failure.is_none() {
                this.failure = this.see(value).err();
            }
        })?;
        let this = this.into_inner();
        if let Some(e) = this.failure.take() {
            return Err(e);
        }
        if let Some(folder) = &this.folder {
            let mut text = serde_json::to_string_pretty(&this.rows)?;
            text.push('\n');
            write::bytes(&folder.join("index.json"), text.as_bytes())?;
        }
        Ok(outputs)
    }

    /// Ranges of what an operation takes, a line each.
    fn inputs_of(&self, model: &CoreMLModel, found: &Found) -> Vec<String> {
        let program = candle_coreml::lower::lower(model.package()).ok();
        let function = program.as_ref().and_then(|p| p.functions.get(model.function()));
        let operation = function.and_then(|f| f.block.operations.iter().find(|op| op.name == found.label));
        let Some(operation) = operation else { return Vec::new() };
        let mut lines = Vec::new();
        for (parameter, argument) in &operation.inputs {
            for binding in argument.bindings() {
                if let Binding::Name(name) = binding
                    && let Some(stats) = self.stats.get(name)
                {
                    lines.push(format!("  its input {parameter} is `{name}`, {stats}"));
                }
            }
        }
        lines
    }

    /// Reports what `--check-nan` found.
    ///
    /// # Errors
    /// If an operation yields NaN or infinity.
    pub(super) fn verdict(&self, model: &CoreMLModel) -> CommandResult {
        if !self.check {
            return Ok(());
        }
        if let Some(found) = &self.beyond {
            let Found { operator, label, stats } = found;
            note!(
                "`{label}` ({operator}) is the first value of 16 bits that they can't hold: Core ML may make infinities of \
                 it where it computes in 16 bits: {stats}"
            );
        }
        match &self.first {
            None => {
                note!("every inner value is a finite number");
                Ok(())
            }
            Some(found) => {
                let lines: String = self.inputs_of(model, found).iter().map(|line| format!("\n{line}")).collect();
                let Found { operator, label, stats } = found;
                let what = if stats.nan > 0 { "NaN" } else { "infinity" };
                Err(format!("`{label}` ({operator}) is the first operation that yields {what}: {stats}{lines}").into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_file_names() {
        assert_eq!(plain("model/layers.0 ü:x"), "model_layers.0_ü_x");
        assert_eq!(plain(&"é".repeat(300)).chars().count(), 100);
        assert_eq!(plain("../x"), ".._x");
    }
}
