//! `candle-coreml weights`: list, extract, replace and deduplicate the weights of a model.

use std::path::{Path, PathBuf};

use candle_coreml::format::model::Model;
use candle_coreml::write::edit::{self, Form};
use safetensors::SafeTensors;
use serde_json::json;

use crate::{CommandResult, format};

const EXAMPLES: &str = "\
Examples:
  candle-coreml weights list model.mlpackage
  candle-coreml weights extract model.mlpackage weights.safetensors            as numbers
  candle-coreml weights extract model.mlpackage tables.safetensors --stored --only q_proj
  candle-coreml weights replace model.mlpackage new.safetensors --out tuned.mlpackage
  candle-coreml weights replace model.mlpackage lora.safetensors --scale 2 --out tuned.mlpackage
                                     tensors NAME.lora_A and NAME.lora_B add scale · B·A to the weight NAME
  candle-coreml weights dedupe model.mlpackage --out small.mlpackage";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the weights of every function: shape, form, size, users.
    List {
        /// The model: .mlpackage or .mlmodelc.
        model: PathBuf,
        /// Print a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Write weights to a safetensors file.
    Extract {
        /// The model: .mlpackage or .mlmodelc.
        model: PathBuf,
        /// The file.
        to: PathBuf,
        /// Write tables, indices, scales and masks as they are stored; elements of less than a byte as packed bytes.
        #[arg(long)]
        stored: bool,
        /// Write only weights whose names contain this text.
        #[arg(long, value_name = "TEXT")]
        only: Vec<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write a copy of a model with other weights, from a safetensors file with their names.
    Replace {
        /// The model: .mlpackage or .mlmodelc.
        model: PathBuf,
        /// Tensors by name; `FUNCTION/NAME` chooses one function.
        tensors: PathBuf,
        /// The new package.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// Factor of NAME.lora_B · NAME.lora_A.
        #[arg(long, default_value_t = 1.0)]
        scale: f32,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Write a copy of a model that stores equal weights once.
    Dedupe {
        /// The model: .mlpackage or .mlmodelc.
        model: PathBuf,
        /// The new package.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    match arguments.action {
        Action::List { model, json } => list(&model, json),
        Action::Extract { model, to, stored, only, json } => {
            let form = if stored { Form::Stored } else { Form::Decoded };
            let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
            let count = edit::extract(&Model::open(&model)?, &to, form, &wanted)?;
            if json {
                return out!("{}", json!({ "tensors": count, "path": to.to_string_lossy() }));
            }
            out!("{count} tensors in {}", to.display())
        }
        Action::Replace { model, tensors, out, scale, json } => {
            let bytes = candle_coreml::format::file::map(&tensors, u64::MAX)?;
            let content = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", tensors.display()))?;
            let count = edit::replace(&Model::open(&model)?, &content, scale, &out)?;
            if json {
                return out!("{}", json!({ "weights": count, "path": out.to_string_lossy() }));
            }
            out!("{count} weights replaced in {}", out.display())
        }
        Action::Dedupe { model, out, json } => {
            let (before, after) = edit::deduplicate(&Model::open(&model)?, &out)?;
            if json {
                return out!(
                    "{}",
                    json!({ "bytes_before": before, "bytes_after": after, "path": out.to_string_lossy() })
                );
            }
            out!("{} before, {} after, in {}", format::bytes(before), format::bytes(after), out.display())
        }
    }
}

fn list(model: &Path, json: bool) -> CommandResult {
    let all = edit::list(&Model::open(model)?)?;
    if json {
        return crate::write::text(&format!("{}\n", serde_json::to_string(&all)?));
    }
    let width = all.iter().map(|w| w.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut function = "";
    for w in &all {
        if w.function != function {
            text += &format!("{}\n", w.function);
            function = &w.function;
        }
        let shape: Vec<String> = w.shape.iter().map(ToString::to_string).collect();
        let (shape, size) = (format!("{} [{}]", w.dtype, shape.join(", ")), format::bytes(w.bytes));
        let users = w.uses.join(", ");
        text += &format!("  {:width$}  {shape:<24}  {:<24}  {size:>9}  {users}\n", w.name, w.form);
    }
    crate::write::text(&text)
}
