//! `candle-coreml compare`: two models, or one in two ways, on the same inputs: outputs side by side, then the first
//! operation that differs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use candle_coreml::engine::InnerValue;
use candle_coreml::model::PassSet;
use candle_coreml::{CoreMLModel, EngineChoice, FeatureRow, FeatureValue, RowOutputs};
use serde_json::json;

use crate::predict::{inputs_of_file, label};
use crate::{CommandResult, write};
use candle_coreml::made_up::{self, Fill};

const EXAMPLES: &str = "\
Examples:
  candle-coreml compare model.mlpackage small.mlpackage                  on random inputs
  candle-coreml compare model.mlpackage small.mlpackage --inputs in.npz  on yours
  candle-coreml compare model.mlpackage --passes                         with and without the engine's rewrites
  candle-coreml compare model.mlpackage --engines                        Core ML and the portable engine

Exit code 1 means that an output differs by more than the tolerance.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The model: .mlpackage, .mlmodelc or .mlmodel.
    model: PathBuf,
    /// The model to compare it with.
    #[arg(required_unless_present_any = ["passes", "engines"], conflicts_with_all = ["passes", "engines"])]
    other: Option<PathBuf>,
    /// Compare the model with itself without the portable engine's rewrites.
    #[arg(long, conflicts_with = "engines")]
    passes: bool,
    /// Compare Apple's Core ML with the portable engine.
    #[arg(long)]
    engines: bool,
    /// Read inputs from this file, as predict does, or make them up: random or zeros.
    #[arg(long, value_name = "FILE|random|zeros", default_value = "random")]
    inputs: PathBuf,
    /// Seed of `--inputs random`.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run this function of both models.
    #[arg(long)]
    function: Option<String>,
    /// Largest difference that counts as equal, relative to the largest element of the first model's value.
    #[arg(long, default_value_t = 1e-3, value_parser = tolerance)]
    tolerance: f64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..f64::INFINITY).contains(&x) => Ok(x),
        _ => Err("expected a number from 0".to_owned()),
    }
}

/// Memory for inner values of the first model, in bytes; later ones are not compared.
const MOST_KEPT: usize = 2 << 30;

/// How two values differ.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Difference {
    /// Largest absolute difference; infinite where only one is a number.
    largest: f64,
    /// The same relative to the largest element of the first value.
    relative: f64,
    /// Why they can't be compared element by element.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

impl Difference {
    fn of_kind(kind: String) -> Self {
        Self { largest: f64::INFINITY, relative: f64::INFINITY, kind: Some(kind) }
    }

    fn numbers(a: &[f64], b: &[f64]) -> Self {
        // NaN beside NaN is no difference, nor is an infinity beside the same.
        let apart = |(a, b): (&f64, &f64)| {
            if a == b || (a.is_nan() && b.is_nan()) {
                0.0
            } else if a.is_finite() && b.is_finite() {
                (a - b).abs()
            } else {
                f64::INFINITY
            }
        };
        let largest = a.iter().zip(b).map(apart).fold(0.0, f64::max);
        let scale = a.iter().filter(|x| x.is_finite()).map(|x| x.abs()).fold(0.0, f64::max);
        let relative = if largest == 0.0 { 0.0 } else { largest / scale.max(f64::MIN_POSITIVE) };
        Self { largest, relative, kind: None }
    }

    fn tensors(a: &Tensor, b: &Tensor) -> Result<Self, candle_core::Error> {
        if a.dims() != b.dims() {
            return Ok(Self::of_kind(format!("shape {:?} beside {:?}", a.dims(), b.dims())));
        }
        let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        Ok(Self::numbers(&numbers(a)?, &numbers(b)?))
    }

    fn values(a: &FeatureValue, b: &FeatureValue) -> Result<Self, candle_core::Error> {
        if let (Some(a), Some(b)) = (a.numbers_as_tensor()?, b.numbers_as_tensor()?) {
            return Self::tensors(&a, &b);
        }
        Ok(match (a, b) {
            (FeatureValue::Dictionary(a), FeatureValue::Dictionary(b)) => {
                let same = a.len() == b.len() && a.iter().all(|(key, _)| b.iter().any(|(other, _)| other == key));
                if !same {
                    return Ok(Self::of_kind("other keys".to_owned()));
                }
                let of = |key| b.iter().find(|(other, _)| other == key).map_or(f64::NAN, |(_, x)| *x);
                let pairs: (Vec<f64>, Vec<f64>) = a.iter().map(|(key, x)| (*x, of(key))).unzip();
                Self::numbers(&pairs.0, &pairs.1)
            }
            _ if format!("{a:?}") == format!("{b:?}") => Self::numbers(&[], &[]),
            _ => Self::of_kind(format!("{a:?} beside {b:?}").chars().take(200).collect()),
        })
    }

    fn words(&self) -> String {
        match &self.kind {
            Some(kind) => kind.clone(),
            None => format!("largest difference {:.3e}, relative {:.3e}", self.largest, self.relative),
        }
    }
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn load(path: &Path, arguments: &Arguments, engine: EngineChoice, passes: PassSet) -> Outcome<CoreMLModel> {
    let mut builder = CoreMLModel::builder(path).engine(engine).passes(passes);
    if let Some(name) = &arguments.function {
        builder = builder.function(name);
    }
    Ok(builder.load()?)
}

fn predict(model: &CoreMLModel, inputs: &FeatureRow, each: Option<&dyn Fn(&InnerValue<'_>)>) -> Outcome<RowOutputs> {
    let named: Vec<(&str, FeatureValue)> = inputs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
    Ok(match each {
        Some(each) => model.predict_traced(&named, state.as_mut(), each)?,
        None => model.predict_values(&named, state.as_mut())?,
    })
}

/// The first operation of both models whose values differ.
struct First {
    label: String,
    operator: String,
    difference: Difference,
    /// Operations that both have, and that were equal before it.
    equal: usize,
}

/// Runs both models and compares what operations of the same name compute, in the order of the second.
fn first_difference(
    a: &CoreMLModel,
    b: &CoreMLModel,
    inputs: (&FeatureRow, &FeatureRow),
    tolerance: f64,
) -> Outcome<Option<First>> {
    let kept: RefCell<(HashMap<String, Tensor>, usize)> = RefCell::default();
    predict(
        a,
        inputs.0,
        Some(&|value| {
            let (all, bytes) = &mut *kept.borrow_mut();
            let size = value.tensor.elem_count() * value.tensor.dtype().size_in_bytes();
            if *bytes + size <= MOST_KEPT {
                *bytes += size;
                all.insert(label(value), value.tensor.clone());
            }
        }),
    )?;
    let kept = kept.into_inner().0;
    let found: RefCell<(Option<First>, usize)> = RefCell::default();
    let failed = RefCell::new(None);
    predict(
        b,
        inputs.1,
        Some(&|value| {
            let (first, equal) = &mut *found.borrow_mut();
            let label = label(value);
            let Some(other) = kept.get(&label).filter(|_| first.is_none()) else { return };
            match Difference::tensors(other, &value.tensor) {
                Ok(difference) if difference.relative > tolerance => {
                    *first = Some(First { label, operator: value.operator.to_owned(), difference, equal: *equal });
                }
                Ok(_) => *equal += 1,
                Err(e) => drop(failed.borrow_mut().get_or_insert(e)),
            }
        }),
    )?;
    match failed.into_inner() {
        Some(e) => Err(e.into()),
        None => Ok(found.into_inner().0),
    }
}

/// The inputs of a model: from the file, or made up.
fn inputs(model: &CoreMLModel, arguments: &Arguments) -> Outcome<FeatureRow> {
    let fill = match arguments.inputs.to_str().filter(|_| !arguments.inputs.exists()) {
        Some("zeros") => Fill::Zeros,
        Some("random") => Fill::Random(arguments.seed),
        _ => return inputs_of_file(model, &arguments.inputs),
    };
    Ok(made_up::Inputs::of(model, |_| true)?.values(fill)?)
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    use EngineChoice::{Auto, Native, Portable};
    let first = &arguments.model;
    let second = arguments.other.as_ref().unwrap_or(first);
    let (engines, passes) = match (arguments.passes, arguments.engines) {
        (true, _) => ((Portable, Portable), (PassSet::all(), PassSet::none())),
        (_, true) => ((Native, Portable), (PassSet::all(), PassSet::all())),
        _ => ((Auto, Auto), (PassSet::all(), PassSet::all())),
    };
    let a = load(first, &arguments, engines.0, passes.0.clone())?;
    let b = load(second, &arguments, engines.1, passes.1.clone())?;
    let given = inputs(&a, &arguments)?;
    // The other model may name its inputs alike, or be another model.
    let missing: Vec<String> =
        b.input_names().into_iter().filter(|n| given.iter().all(|(name, _)| name != n)).collect();
    let required = |name: &String| b.function_description().input(name).is_none_or(|f| !f.optional);
    if let Some(name) = missing.iter().find(|name| required(name)) {
        return Err(format!("{}: input `{name}` is not one of {}", second.display(), first.display()).into());
    }
    let known = b.input_names();
    let others: FeatureRow = given.iter().filter(|(name, _)| known.contains(name)).cloned().collect();
    let (outputs, beside) = (predict(&a, &given, None)?, predict(&b, &others, None)?);
    let mut rows: Vec<(String, Difference)> = Vec::new();
    for (name, value) in &outputs {
        rows.push(match beside.get(name) {
            Some(other) => (name.clone(), Difference::values(value, other)?),
            None => (name.clone(), Difference::of_kind("only the first has it".to_owned())),
        });
    }
    let only = beside.keys().filter(|name| !outputs.contains_key(*name));
    rows.extend(only.map(|name| (name.clone(), Difference::of_kind("only the second has it".to_owned()))));
    let differ = rows.iter().filter(|(_, d)| d.relative > arguments.tolerance).count();
    // Inner values have the names of the program without rewrites, on the portable engine.
    let inner = if differ > 0 && !arguments.engines {
        let first_passes = if arguments.passes { passes.0 } else { PassSet::none() };
        let a = load(first, &arguments, Portable, first_passes)?;
        let b = load(second, &arguments, Portable, PassSet::none())?;
        first_difference(&a, &b, (&given, &others), arguments.tolerance)?
    } else {
        None
    };
    if arguments.json {
        let report = json!({
            "outputs": rows.iter().map(|(name, d)| (name.clone(), json!(d))).collect::<serde_json::Map<_, _>>(),
            "differ": differ,
            "first_operation": inner.as_ref().map(|f| json!({
                "name": f.label, "operation": f.operator, "difference": f.difference, "equal_before": f.equal,
            })),
        });
        out!("{report}")?;
    } else {
        let mut text = String::new();
        for (name, difference) in &rows {
            let mark = if difference.relative > arguments.tolerance { "differs" } else { "equal  " };
            text += &format!("{mark}  {name}: {}\n", difference.words());
        }
        if let Some(First { label, operator, difference, equal }) = &inner {
            text += &format!("first operation that differs: `{label}` ({operator}): {}; ", difference.words());
            text += &format!("{equal} of the same name before it are equal\n");
        }
        write::text(&text)?;
    }
    if differ > 0 {
        return Err(format!("{differ} of {} outputs differ by more than {}", rows.len(), arguments.tolerance).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_tell_what_is_no_number() {
        let of = |a: &[f64], b: &[f64]| Difference::numbers(a, b);
        assert_eq!(of(&[1.0, -4.0], &[1.5, -4.0]), Difference { largest: 0.5, relative: 0.125, kind: None });
        assert_eq!(of(&[f64::NAN, f64::INFINITY], &[f64::NAN, f64::INFINITY]).largest, 0.0);
        assert_eq!(of(&[f64::NAN], &[1.0]).relative, f64::INFINITY);
        assert_eq!(of(&[f64::INFINITY], &[f64::NEG_INFINITY]).relative, f64::INFINITY);
        assert!(of(&[0.0], &[1e-30]).relative > 1.0, "beside zero everything is far");
        assert_eq!(of(&[], &[]).relative, 0.0);
        let string = |s: &str| FeatureValue::String(s.to_owned());
        assert_eq!(Difference::values(&string("a"), &string("a")).expect("compared").relative, 0.0);
        let other = Difference::values(&string("a"), &string("b")).expect("compared");
        assert!(other.relative.is_infinite() && other.words().contains("\"b\""), "{}", other.words());
    }
}
