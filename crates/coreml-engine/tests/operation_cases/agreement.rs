//! Outputs agree with the references, with and without rewrites; every operation has cases.

use std::collections::HashSet;

use candle_core::{DType, Tensor};
use coreml_engine::ops::FAMILIES;
use coreml_engine::passes::PassSet;
use coreml_engine::{Executable, FeatureValue, Options};
use coreml_format::program::Block;
use coreml_format::weights::Weights;
use safetensors::Dtype;

use crate::cases::{Case, Expected, all};

/// Operations without a reference here, with the reason.
const ELSEWHERE: [(&str, &str); 6] = [
    ("random_bernoulli", "random: tested by distribution in `others.rs`"),
    ("random_categorical", "as above"),
    ("random_normal", "as above"),
    ("random_uniform", "as above"),
    ("classify", "its results are no tensors: `others.rs`"),
    ("conv_quantized", "no such operation in PyTorch: `others.rs`"),
];

/// Largest difference relative to the tolerance: |a − b| ≤ t·(1 + |b|), with t = 2e-5 for fp32 and 3e-3 for fp16
/// results (half precision has 11 bits; operations compute in f32 and round once). Integers are exact.
fn excess(found: &[f64], wanted: &Expected, tolerance: Option<f64>) -> f64 {
    let t = tolerance.unwrap_or(match wanted.dtype {
        Dtype::F32 => 2e-5,
        Dtype::F16 => 3e-3,
        _ => 0.0,
    });
    found
        .iter()
        .zip(&wanted.values)
        .map(|(&a, &b)| match (a.is_nan(), b.is_nan()) {
            (true, true) => 0.0,
            (false, false) if a == b => 0.0,
            (false, false) if b.is_finite() && a.is_finite() && t > 0.0 => (a - b).abs() / (t * (1.0 + b.abs())),
            _ => f64::INFINITY,
        })
        .fold(0.0, f64::max)
}

fn run(case: &Case, passes: &PassSet) -> Result<Vec<(String, Tensor)>, String> {
    let options = Options { passes: passes.clone(), ..Options::default() };
    let executable =
        Executable::load(&case.program, &Weights::default(), "main", &options).map_err(|e| e.to_string())?;
    let mut state = executable.new_state().map_err(|e| e.to_string())?;
    let inputs: Vec<(&str, Tensor)> = case.inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let outputs = executable.predict(&inputs, Some(&mut state)).map_err(|e| e.to_string())?;
    outputs
        .into_iter()
        .map(|(name, output)| match output {
            FeatureValue::Tensor(t) => Ok((name, t)),
            other => Err(format!("{other:?}")),
        })
        .collect()
}

fn check(case: &Case, passes: &PassSet) -> Result<(), String> {
    let found = run(case, passes)?;
    for (name, wanted) in &case.outputs {
        let (_, tensor) = found.iter().find(|(n, _)| n == name).ok_or_else(|| format!("no output {name}"))?;
        if tensor.dims() != wanted.shape {
            return Err(format!("{name}: shape {:?} instead of {:?}", tensor.dims(), wanted.shape));
        }
        let flat = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1::<f64>());
        let flat = flat.map_err(|e| e.to_string())?;
        let excess = excess(&flat, wanted, case.tolerance);
        if excess > 1.0 {
            return Err(format!(
                "{name}: {excess:.3} × the tolerance\n  found  {flat:?}\n  wanted {:?}",
                wanted.values
            ));
        }
    }
    Ok(())
}

#[test]
fn outputs_agree_with_pytorch_and_numpy_with_and_without_rewrites() {
    let mut failed = Vec::new();
    for case in all() {
        for (label, passes) in [("all passes", PassSet::all()), ("no pass", PassSet::none())] {
            if let Err(e) = check(&case, &passes) {
                failed.push(format!("{} ({label}): {e}", case.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} failures\n{}", failed.len(), failed.join("\n"));
}

/// Returns the same elements in another memory layout.
type Lie = fn(&Tensor) -> candle_core::Result<Tensor>;

/// In the given dimension order.
fn ordered(t: &Tensor, order: Vec<usize>) -> candle_core::Result<Tensor> {
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &d)| back[d] = i);
    t.permute(order)?.contiguous()?.permute(back)
}

fn channels_last(t: &Tensor) -> candle_core::Result<Tensor> {
    let mut order: Vec<usize> = (0..t.rank()).collect();
    order.get_mut(1..).unwrap_or_default().rotate_left(1.min(t.rank().saturating_sub(1)));
    ordered(t, order)
}

fn reversed(t: &Tensor) -> candle_core::Result<Tensor> {
    ordered(t, (0..t.rank()).rev().collect())
}

/// With gaps between the rows.
fn apart(t: &Tensor) -> candle_core::Result<Tensor> {
    let Some(d) = t.rank().checked_sub(1) else { return Ok(t.clone()) };
    let other = t.zeros_like()?;
    Tensor::cat(&[&other, t, &other], d)?.narrow(d, t.dims()[d], t.dims()[d])
}

#[test]
fn outputs_do_not_depend_on_how_inputs_lie_in_memory() {
    let ways: [(&str, Lie); 3] = [("channels last", channels_last), ("reversed", reversed), ("apart", apart)];
    let mut failed = Vec::new();
    for case in all() {
        for (label, lie) in ways {
            let moved = |(name, t): &(String, Tensor)| {
                (name.clone(), if t.elem_count() == 0 { t.clone() } else { lie(t).expect("a tensor") })
            };
            let case = Case {
                inputs: case.inputs.iter().map(moved).collect(),
                name: case.name.clone(),
                program: case.program.clone(),
                outputs: case.outputs.clone(),
                tolerance: case.tolerance,
            };
            if let Err(e) = check(&case, &PassSet::all()) {
                failed.push(format!("{} ({label}): {e}", case.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} failures\n{}", failed.len(), failed.join("\n"));
}

fn kinds(block: &Block, into: &mut HashSet<String>) {
    for op in &block.operations {
        into.insert(op.kind.clone());
        op.blocks.iter().for_each(|b| kinds(b, into));
    }
}

#[test]
fn every_operation_has_cases() {
    let mut covered = HashSet::new();
    for case in all() {
        case.program.functions.values().for_each(|f| kinds(&f.block, &mut covered));
    }
    let known = FAMILIES.iter().flat_map(|(_, ops)| ops.iter());
    let missing: Vec<&str> = known
        .map(|op| op.name)
        .filter(|name| !covered.contains(*name) && ELSEWHERE.iter().all(|(n, _)| n != name))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}
