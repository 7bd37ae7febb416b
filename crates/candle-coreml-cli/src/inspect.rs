//! `candle-coreml inspect`: description, functions, operations, weights; graph pictures; Neural Engine estimate.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use candle_coreml::description::FeatureType;
use candle_coreml::engine::proof::{self, Record};
use candle_coreml::format::mil_text;
use candle_coreml::format::model::Model;
use candle_coreml::format::model_types::Body;
use candle_coreml::format::model_types::data_structures::ClassLabels;
use candle_coreml::format::program::{Block, Program, TensorData, Value as Literal, ValueData};
use candle_coreml::format::spec::Specification;
use candle_coreml::lower::lower;
use serde_json::{Value, json};

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

#[derive(Default)]
struct Survey {
    operations: BTreeMap<String, usize>,
    /// Count and bytes of blobs by element type. A blob referenced twice counts once.
    weights: BTreeMap<String, (usize, usize)>,
    seen: std::collections::HashSet<(String, u64)>,
}

impl Survey {
    fn block(&mut self, model: &Model, block: &Block) -> CommandResult {
        for op in &block.operations {
            if op.kind != "const" {
                *self.operations.entry(op.kind.clone()).or_default() += 1;
            }
            for value in op.attributes.values() {
                self.literal(model, &op.kind, value)?;
            }
            for binding in op.inputs.values().flat_map(|a| a.bindings()) {
                if let candle_coreml::format::program::Binding::Value(value) = binding {
                    self.literal(model, &op.kind, value)?;
                }
            }
            for nested in &op.blocks {
                self.block(model, nested)?;
            }
        }
        Ok(())
    }

    fn literal(&mut self, model: &Model, kind: &str, value: &Literal) -> CommandResult {
        if let ValueData::Tensor(TensorData::Blob(at)) = &value.data
            && self.seen.insert((at.file.to_string(), at.offset))
        {
            let blob = model.weights.resolve(at)?;
            let form = if kind == "const" { "dense" } else { kind };
            let entry = self.weights.entry(format!("{form} {}", blob.dtype())).or_default();
            entry.0 += 1;
            entry.1 += blob.len();
        }
        Ok(())
    }
}

fn describe(ty: &FeatureType) -> String {
    match ty {
        FeatureType::MultiArray { dtype, shape, constraint, .. } => {
            use candle_coreml::description::ShapeConstraint;
            match constraint {
                ShapeConstraint::Fixed => format!("{dtype} {shape:?}"),
                ShapeConstraint::Unspecified => format!("{dtype} of any shape"),
                ShapeConstraint::Enumerated(all) => format!("{dtype}, one of {all:?}"),
                ShapeConstraint::Ranges(ranges) => {
                    let dims: Vec<String> = ranges
                        .iter()
                        .map(|r| match r.max {
                            Some(m) if m == r.min => m.to_string(),
                            Some(m) => format!("{}..={m}", r.min),
                            None => format!("{}..", r.min),
                        })
                        .collect();
                    format!("{dtype} [{}]", dims.join(", "))
                }
            }
        }
        FeatureType::State { dtype, shape } => format!("{dtype} {shape:?}"),
        FeatureType::Image { layout, width, height, .. } => format!("{layout:?} image {width} × {height}"),
        other => other.in_words().to_owned(),
    }
}

/// Class labels: the model's own, or those of the last pipeline stage that has some.
fn class_labels(body: &Body, parts: &[Specification]) -> Option<Vec<Value>> {
    let own = body.class_labels().map(|labels| match labels {
        ClassLabels::Strings(all) => all.vector.into_iter().map(Value::from).collect(),
        ClassLabels::Int64s(all) => all.vector.into_iter().map(Value::from).collect(),
    });
    own.or_else(|| parts.iter().rev().find_map(|part| class_labels(&part.body, &part.parts)))
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
    if let Some(labels) = class_labels(&model.body, &model.parts) {
        let shown: Vec<String> =
            labels.iter().take(LABELS).map(|l| l.as_str().map_or(l.to_string(), str::to_owned)).collect();
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
    let mut survey = Survey::default();
    for function in functions.into_iter().flat_map(|all| all.values()) {
        survey.block(&model, &function.block)?;
    }
    let warnings = program.as_ref().map(|p| coreml_inspect::warnings::warnings(p, &model.weights)).unwrap_or_default();
    if arguments.json {
        let opsets: BTreeMap<_, _> =
            functions.into_iter().flatten().map(|(n, f)| (n.clone(), f.opset.spec_name())).collect();
        let weights: Vec<_> = survey
            .weights
            .iter()
            .map(|(form, (count, bytes))| json!({"form": form, "count": count, "bytes": bytes}))
            .collect();
        let all = json!({
            "path": model.path,
            "type": model.body.name(),
            "models": part_types(&model),
            "cannot_run": refusal,
            "class_labels": class_labels(&model.body, &model.parts),
            "description": model.description,
            "opsets": opsets,
            "operations": survey.operations,
            "weights": weights,
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
                let _ = writeln!(out, "  {kind:<7} {:<28} {}{optional}", f.name, describe(&f.ty));
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
    for (form, (count, bytes)) in survey.weights {
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
