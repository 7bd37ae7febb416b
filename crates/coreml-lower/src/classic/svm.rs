//! `supportVectorRegressor`, `supportVectorClassifier`: support vector machines.

use std::borrow::Cow;

use coreml_format::description::FeatureType;
use coreml_format::dtype::DataType;
use coreml_format::model_types::Body;
use coreml_format::model_types::svm::{
    ClassifierVectors, DenseSupportVectors, Kernel, KernelKind, RegressorVectors, SparseSupportVectors,
};
use coreml_format::program::{NamedType, Program, TensorType, Value, ValueType};

use super::{Maker, Parameters, constant, doubles, ints, text};
use crate::error::LowerError;
use crate::model_types::Source;

/// Largest number of elements of all sparse support vectors: 256 MB.
const MOST: usize = 1 << 25;

/// Support vectors as rows of equal length, one after the other, and their number.
struct Rows {
    all: Vec<f64>,
    count: usize,
}

fn dense(maker: &Maker<'_>, vectors: &DenseSupportVectors) -> Result<Rows, LowerError> {
    let length = vectors.vectors.first().map_or(0, |v| v.values.len());
    if let Some(other) = vectors.vectors.iter().find(|v| v.values.len() != length) {
        return Err(maker.invalid(format!("support vectors of {length} elements"), other.values.len()));
    }
    let all = vectors.vectors.iter().flat_map(|v| &v.values).copied().collect();
    Ok(Rows { all, count: vectors.vectors.len() })
}

/// Sparse vectors with their zeros. Indices count from 1.
fn sparse(maker: &Maker<'_>, vectors: &SparseSupportVectors) -> Result<Rows, LowerError> {
    let nodes = || vectors.vectors.iter().flat_map(|v| &v.nodes);
    if let Some(node) = nodes().find(|n| n.index < 1) {
        return Err(maker.invalid("indices of support vectors from 1", node.index));
    }
    let length = nodes().map(|n| n.index as usize).max().unwrap_or(0);
    let count = vectors.vectors.len();
    let size = length.checked_mul(count).filter(|&n| n <= MOST);
    let size = size.ok_or_else(|| maker.invalid(format!("at most {MOST} elements"), format!("{count} × {length}")))?;
    let mut all = vec![0.0; size];
    for (vector, row) in vectors.vectors.iter().zip(all.chunks_mut(length.max(1))) {
        for node in &vector.nodes {
            row[node.index as usize - 1] = node.value;
        }
    }
    Ok(Rows { all, count })
}

fn parameters(maker: &Maker<'_>, kernel: Option<Kernel>, rows: &Rows) -> Result<Parameters, LowerError> {
    let kind = kernel.and_then(|k| k.kernel).ok_or_else(|| maker.invalid("a kernel", "none"))?;
    let (name, gamma, c, degree) = match kind {
        KernelKind::Linear(_) => ("linear", 0.0, 0.0, 0),
        KernelKind::Rbf(k) => ("rbf", k.gamma, 0.0, 0),
        KernelKind::Polynomial(k) => ("polynomial", k.gamma, k.c, k.degree),
        KernelKind::Sigmoid(k) => ("sigmoid", k.gamma, k.c, 0),
    };
    if degree < 0 {
        return Err(maker.invalid("a degree from 0", degree));
    }
    Ok(vec![
        ("x", maker.numbers()?),
        ("vectors", doubles(&rows.all)),
        ("count", constant(Value::int(i32::try_from(rows.count).unwrap_or(i32::MAX)))),
        ("kernel", text(name)),
        ("gamma", doubles(&[gamma])),
        ("c", doubles(&[c])),
        ("degree", constant(Value::int(degree))),
    ])
}

/// Both types.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    match source.body {
        Body::SupportVectorRegressor(model) => {
            let rows = match &model.support_vectors {
                Some(RegressorVectors::Dense(all)) => dense(&maker, all)?,
                Some(RegressorVectors::Sparse(all)) => sparse(&maker, all)?,
                None => return Err(maker.invalid("support vectors", "none")),
            };
            let mut all = parameters(&maker, model.kernel, &rows)?;
            let alpha = model.coefficients.as_ref().map(|c| c.alpha.as_slice()).unwrap_or_default();
            all.extend([("coefficients", doubles(alpha)), ("rho", doubles(&[model.rho]))]);
            let result = maker.result(maker.output()?)?;
            maker.add("engine.svm", all, vec![result]);
        }
        Body::SupportVectorClassifier(model) => {
            let rows = match &model.support_vectors {
                Some(ClassifierVectors::Dense(all)) => dense(&maker, all)?,
                Some(ClassifierVectors::Sparse(all)) => sparse(&maker, all)?,
                None => return Err(maker.invalid("support vectors", "none")),
            };
            let returns_scores = maker.described.outputs.iter().any(|f| matches!(f.ty, FeatureType::Dictionary { .. }));
            if model.prob_a.is_empty() && returns_scores {
                return Err(maker.invalid("sigmoids, as it returns probabilities", "none"));
            }
            let mut all = parameters(&maker, model.kernel, &rows)?;
            let alpha: Vec<f64> = model.coefficients.iter().flat_map(|c| &c.alpha).copied().collect();
            if let Some(row) = model.coefficients.iter().find(|c| c.alpha.len() != rows.count) {
                return Err(maker.invalid(format!("{} coefficients in a row", rows.count), row.alpha.len()));
            }
            let per_class: Vec<i64> = model.number_of_support_vectors_per_class.iter().map(|&n| i64::from(n)).collect();
            all.extend([
                ("coefficients", doubles(&alpha)),
                ("rho", doubles(&model.rho)),
                ("per_class", ints(&per_class)),
                ("prob_a", doubles(&model.prob_a)),
                ("prob_b", doubles(&model.prob_b)),
            ]);
            let scores = maker.intermediate("scores");
            let ty = ValueType::Tensor(TensorType::fixed(DataType::I64, &[]));
            let best = NamedType { name: maker.fresh("best"), ty };
            let names = (scores.name.clone(), best.name.clone());
            maker.add("engine.svm", all, vec![scores, best]);
            maker.classify(&names.0, &model.class_labels, Some(&names.1))?;
        }
        other => return Err(maker.invalid("a support vector machine", other.name())),
    }
    maker.finish()
}
