//! `candle-coreml inspect`: description, functions, operations, weights; graph pictures; Neural Engine estimate.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use candle_coreml::engine::proof::{self, Record};
use candle_coreml::format::mil_text;
use candle_coreml::format::model::Model;
use candle_coreml::format::program::Program;
use candle_coreml::lower::lower;
use coreml_inspect::survey::{Labels, Survey, Weights, type_in_words};
use serde_json::json;

use coreml_inspect::warnings::Warning;

use crate::model::{self, Consent};
use crate::{CommandResult, write};

mod ane;
mod folder;

const EXAMPLES: &str = "\
Examples:
  candle-coreml inspect model.mlpackage                      inputs, outputs, operations, weights
  candle-coreml inspect demo                                 a language model: its layout, how it would be driven
  candle-coreml inspect --mil model.mlpackage | less         the program as text
  candle-coreml inspect --svg model.svg model.mlpackage      the graph as a picture, for any browser
  candle-coreml inspect --svg - --function infer M | resvg - infer.png
  candle-coreml inspect --ane model.mlpackage                what Apple's Neural Engine likely refuses";

/// Maximum number of class labels shown.
const LABELS: usize = 10;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: .mlpackage, .mlmodelc or .mlmodel; or a folder with a language model, to learn how it is driven.
    model: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print the program as MIL text.
    #[arg(long, conflicts_with = "json")]
    mil: bool,
    /// Draw the graph as SVG into this file; `-` is standard output. Identical layers and branches are drawn once.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "mil", "ane"])]
    svg: Option<PathBuf>,
    /// Draw every layer and branch.
    #[arg(long, requires = "svg")]
    unfold: bool,
    /// Limit --svg and --ane to this function.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Estimate for each operation whether the Neural Engine runs it, and say why not.
    #[arg(long, conflicts_with = "mil")]
    ane: bool,
}

/// Draws the model's graph.
fn picture(model: &Model, program: &Program, file: &Path, arguments: &Arguments) -> CommandResult {
    let options = coreml_inspect::picture::Options {
        title: model.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        function: arguments.function.clone(),
        unfold: arguments.unfold,
    };
    let picture = coreml_inspect::picture::draw(program, &model.description, &options)?;
    if file.as_os_str() == "-" { write::text(&picture) } else { write::bytes(file, picture.as_bytes()) }
}

/// Model types of the pipeline's stages.
fn part_types(model: &Model) -> Vec<&'static str> {
    model.parts.iter().map(|part| part.body.name()).collect()
}

/// Author metadata, class labels, and the type of a non-program model.
fn header(model: &Model, refusal: Option<&str>, out: &mut String) {
    let metadata = &model.description.metadata;
    if model.body.program().is_none() {
        let note = if refusal.is_none() { "" } else { ", which can't be run" };
        let _ = writeln!(out, "  type: {}{note}", model.body.name());
    }
    if let Some(refusal) = refusal {
        let _ = writeln!(out, "  note: {refusal}");
    }
    if !model.parts.is_empty() {
        let _ = writeln!(out, "  models: {}", part_types(model).join(", "));
    }
    let entries = [
        ("description", &metadata.description),
        ("author", &metadata.author),
        ("version", &metadata.version),
        ("license", &metadata.license),
    ];
    for (key, value) in entries.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(out, "  {key}: {value}");
    }
    for (key, value) in &metadata.user {
        let _ = writeln!(out, "  {key}: {value}");
    }
    if let Some(labels) = Labels::of(model).map(|labels| labels.texts()) {
        let shown = &labels[..labels.len().min(LABELS)];
        let more = if labels.len() > LABELS { ", …" } else { "" };
        let _ = writeln!(out, "  {} class labels: {}{more}", labels.len(), shown.join(", "));
    }
}

/// What is recorded of running a model on Core ML, or the language model that it is part of.
fn trials(path: &Path) -> Vec<Record> {
    let Ok(path) = std::path::absolute(path) else { return Vec::new() };
    let mut records = proof::recorded(None).unwrap_or_default();
    records.retain(|r| r.model == path || Some(&*r.model) == path.parent());
    records
}

pub(crate) fn run(mut arguments: Arguments) -> CommandResult {
    arguments.model = model::folder(&arguments.model, Consent::default())?;
    let arguments = arguments;
    let extension = arguments.model.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let describes = !arguments.mil && arguments.svg.is_none() && !arguments.ane;
    if describes && arguments.model.is_dir() && !["mlpackage", "mlmodelc"].contains(&extension.as_str()) {
        return folder::report(&arguments.model, arguments.json);
    }
    let opened = Model::open(&arguments.model)?;
    // A link that leads nowhere is described all the same.
    let (model, broken) = if opened.has_links() {
        match opened.clone().follow_links() {
            Ok(model) => (model, None),
            Err(e) => (opened, Some(e.to_string())),
        }
    } else {
        (opened, None)
    };
    let mut refusal = None;
    let program = match lower(&model) {
        Ok(program) => Some(program),
        // The requested options apply to programs only. What can't be run is described all the same.
        Err(e) if arguments.mil || arguments.svg.is_some() || arguments.ane => {
            return Err(format!("{}: {e}", model.path.display()).into());
        }
        Err(e) => {
            refusal = Some(broken.unwrap_or_else(|| e.to_string()));
            None
        }
    };
    if let Some(program) = &program {
        if arguments.mil {
            return write::text(&mil_text::print(program));
        }
        if let Some(file) = &arguments.svg {
            return picture(&model, program, file, &arguments);
        }
        if arguments.ane {
            return ane::report(&model, program, arguments.function.as_deref(), arguments.json);
        }
    }
    let functions = program.as_ref().map(|program| &program.functions);
    let survey = program.as_ref().map(|program| Survey::of(&model, program)).transpose()?.unwrap_or_default();
    let warnings = program.as_ref().map(|p| coreml_inspect::warnings::warnings(p, &model.weights)).unwrap_or_default();
    if arguments.json {
        let opsets: BTreeMap<_, _> =
            functions.into_iter().flatten().map(|(n, f)| (n.clone(), f.opset.spec_name())).collect();
        let all = json!({
            "path": model.path,
            "type": model.body.name(),
            "models": part_types(&model),
            "cannot_run": refusal,
            "class_labels": Labels::of(&model),
            "description": model.description,
            "opsets": opsets,
            "operations": survey.operations,
            "weights": survey.weights,
            "warnings": warnings,
            "core_ml": trials(&model.path),
        });
        return write::text(&format!("{}\n", serde_json::to_string_pretty(&all)?));
    }
    let d = &model.description;
    let mut out = String::new();
    let _ = writeln!(out, "{}", model.path.display());
    let _ = writeln!(out, "  specification {}, default function `{}`", d.specification_version, d.default_function);
    header(&model, refusal.as_deref(), &mut out);
    for trial in trials(&model.path) {
        let outcome = trial.refused.as_ref().map_or("ran it".to_owned(), |reason| format!("refused it: {reason}"));
        let function = trial.function.as_ref().map(|f| format!(", function {f}")).unwrap_or_default();
        let _ = writeln!(out, "  Core ML ({}{function}, system {}) {outcome}", trial.compute_units, trial.system);
    }
    for (name, function) in &d.functions {
        let _ = match functions {
            Some(all) => {
                let opset = all.get(name).map_or("?", |f| f.opset.spec_name());
                writeln!(out, "\nfunction {name} ({opset})")
            }
            None => writeln!(out, "\nfunction {name}"),
        };
        let groups = [("input", &function.inputs), ("output", &function.outputs), ("state", &function.states)];
        for (kind, features) in groups {
            for f in features {
                let optional = if f.optional { ", optional" } else { "" };
                let _ = writeln!(out, "  {kind:<7} {:<28} {}{optional}", f.name, type_in_words(&f.ty));
            }
        }
    }
    if program.is_none() {
        return write::text(&out);
    }
    let _ = writeln!(out, "\noperations of all functions");
    let mut operations: Vec<_> = survey.operations.into_iter().collect();
    operations.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), name.clone()));
    for (name, count) in operations {
        let _ = writeln!(out, "  {count:>6}  {name}");
    }
    let _ = writeln!(out, "\nweights");
    for Weights { form, count, bytes } in survey.weights {
        let _ = writeln!(out, "  {count:>6}  {form:<40} {bytes:>14} bytes");
    }
    if !warnings.is_empty() {
        let _ = writeln!(out, "\nwarnings");
    }
    for Warning { function, operation, name, text } in warnings {
        let _ = writeln!(out, "  {function}: `{name}` ({operation}): {text}");
    }
    write::text(&out)
}
