//! `candle-coreml inspect`: description, functions, operations, weights; pictures; what the Neural Engine likely refuses.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use candle_coreml::description::FeatureType;
use candle_coreml::format::mil_text;
use candle_coreml::format::model::Model;
use candle_coreml::format::program::{Block, Program, TensorData, Value as Literal, ValueData};
use candle_coreml::lower::{LowerErrorKind, lower};
use serde_json::json;

use crate::{CommandResult, write};

mod ane;

const EXAMPLES: &str = "\
Examples:
  candle-coreml inspect model.mlpackage                      inputs, outputs, operations, weights
  candle-coreml inspect --mil model.mlpackage | less         the program as text
  candle-coreml inspect --svg model.svg model.mlpackage      the graph as a picture, for any browser
  candle-coreml inspect --svg - --function infer M | resvg - infer.png
  candle-coreml inspect --ane model.mlpackage                what Apple's Neural Engine likely refuses";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: .mlpackage, .mlmodelc or .mlmodel.
    model: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Prints the program as MIL text.
    #[arg(long, conflicts_with = "json")]
    mil: bool,
    /// Draws the graph as SVG into this file; `-` is standard output. Layers and branches that are alike are drawn once.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "mil", "ane"])]
    svg: Option<PathBuf>,
    /// Draws every layer and branch.
    #[arg(long, requires = "svg")]
    unfold: bool,
    /// Only this function, for --svg and --ane.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Estimates for each operation whether the Neural Engine runs it, and says why not.
    #[arg(long, conflicts_with = "mil")]
    ane: bool,
}

/// Draws the graph of the model.
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
    /// Blobs by element type: number, bytes. A blob that is referred to twice counts once.
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
        other => format!("{other:?}"),
    }
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let model = Model::open(&arguments.model)?;
    let program = match lower(&model) {
        // What is asked for by an option is about a program.
        Err(e)
            if e.kind() == LowerErrorKind::Unsupported
                && !(arguments.mil || arguments.svg.is_some() || arguments.ane) =>
        {
            None
        }
        lowered => Some(lowered.map_err(|e| format!("{}: {e}", model.path.display()))?),
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
            "description": model.description,
            "opsets": opsets,
            "operations": survey.operations,
            "weights": weights,
        });
        return write::text(&format!("{}\n", serde_json::to_string_pretty(&all)?));
    }
    let d = &model.description;
    let mut out = String::new();
    let _ = writeln!(out, "{}", model.path.display());
    let _ = writeln!(out, "  specification {}, default function `{}`", d.specification_version, d.default_function);
    for (key, value) in &d.metadata.user {
        let _ = writeln!(out, "  {key}: {value}");
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
    write::text(&out)
}
