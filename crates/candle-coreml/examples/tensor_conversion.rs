//! Input and output dtypes of a model: passes every input in every dtype that Candle supports on the CPU.
//!
//! ```sh
//! cargo run --release -p candle-coreml --example tensor_conversion
//! ```

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_coreml::description::{FeatureDescription, FeatureType};
use candle_coreml::{CoreMLModel, Error, Result};
use clap::Parser;

/// Show the input and output dtypes of a model.
#[derive(Parser)]
struct Args {
    /// Package; default: a shipped encoder (integers in, F32 out) and LM head (F16 in and out).
    #[arg(long)]
    model: Vec<PathBuf>,
    /// Function of the package; default: the package's default function.
    #[arg(long)]
    function: Option<String>,
}

const SHIPPED: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-intent/intent.mlpackage"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-qwen3/qwen_lm_head_lut8.mlpackage"),
];

const DTYPES: [DType; 7] = [DType::U8, DType::U32, DType::I64, DType::F16, DType::BF16, DType::F32, DType::F64];

fn main() -> Result<()> {
    let args = Args::parse();
    let shipped = SHIPPED.map(PathBuf::from);
    let paths = if args.model.is_empty() { &shipped[..] } else { &args.model };
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let model = match &args.function {
            Some(function) => CoreMLModel::builder(path).function(function).load()?,
            None => CoreMLModel::load(path)?,
        };
        println!("{name}");
        every_dtype(&model)?;
        strided(&model)?;
        rejected(&model)?;
    }
    Ok(())
}

/// Ones in the default shape of every input, in one dtype.
fn ones(model: &CoreMLModel, dtype: DType) -> Result<Vec<(&str, Tensor)>> {
    let one = |feature: &'_ FeatureDescription| match &feature.ty {
        FeatureType::MultiArray { shape, .. } => Ok(Tensor::ones(shape.as_slice(), dtype, &Device::Cpu)?),
        _ => Err(Error::Request(format!("the input `{}` is not a tensor", feature.name))),
    };
    model.function_description().inputs.iter().map(|f| Ok((f.name.as_str(), one(f)?))).collect()
}

/// The first tensor output, as F32 for comparison, with its original dtype.
fn first(model: &CoreMLModel, inputs: &[(&str, Tensor)]) -> Result<(Tensor, DType)> {
    let mut state = model.make_state()?;
    let outputs = model.predict(inputs, model.is_stateful().then_some(&mut state))?;
    let tensor = outputs.into_values().find_map(|o| match o {
        candle_coreml::FeatureValue::Tensor(t) => Some(t),
        _ => None,
    });
    let tensor = tensor.ok_or_else(|| Error::Request("the model gives no tensor".to_owned()))?;
    Ok((tensor.to_dtype(DType::F32)?, tensor.dtype()))
}

/// Every dtype that can represent the values gives the same result.
fn every_dtype(model: &CoreMLModel) -> Result<()> {
    for feature in &model.function_description().inputs {
        if let FeatureType::MultiArray { dtype, shape, .. } = &feature.ty {
            println!("  declared: {} {dtype} {shape:?}", feature.name);
        }
    }
    let (expected, _) = first(model, &ones(model, DType::F32)?)?;
    for dtype in DTYPES {
        let (found, out) = first(model, &ones(model, dtype)?)?;
        let difference = (found - &expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
        println!("  {dtype:?} in, {out:?} out, largest difference {difference}");
    }
    Ok(())
}

/// Views need no copy by the caller: this passes every second element of a tensor.
fn strided(model: &CoreMLModel) -> Result<()> {
    let dense = ones(model, DType::F32)?;
    let mut views = Vec::new();
    for (name, tensor) in &dense {
        let last = tensor.rank();
        let pairs = Tensor::stack(&[tensor, &tensor.zeros_like()?], last)?;
        views.push((*name, pairs.narrow(last, 0, 1)?.squeeze(last)?));
    }
    let contiguous = views.iter().any(|(_, t)| t.is_contiguous());
    let difference = (first(model, &dense)?.0 - first(model, &views)?.0)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!("  views (contiguous: {contiguous}): largest difference {difference}");
    Ok(())
}

/// Unrepresentable values are errors that name the input, expected and found.
fn rejected(model: &CoreMLModel) -> Result<()> {
    let changes: [(&str, fn(&Tensor) -> candle_core::Result<Tensor>); 2] =
        [("halves", |t| t * 0.5), ("one dimension more", |t| t.unsqueeze(0))];
    for (what, change) in changes {
        let mut inputs = ones(model, DType::F32)?;
        for (_, tensor) in &mut inputs {
            *tensor = change(tensor)?;
        }
        match first(model, &inputs) {
            Ok(_) => println!("  {what}: taken"),
            Err(error) => println!("  {what}: {error}"),
        }
    }
    Ok(())
}
