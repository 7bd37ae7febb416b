//! Operations that do y = a · x + b with numbers of each channel: sums, products, quotients, batch norms with constants.

use coreml_format::program::{Argument, Binding, Dim, Operation, TensorType, Value};

use super::Known;
use super::pool::Pool;

/// y = scale · x + shift by channel.
pub(super) struct Affine {
    /// Value that it is applied to.
    pub(super) from: String,
    /// Factors; none is 1.
    pub(super) scale: Option<Vec<f64>>,
    /// What is added; none is 0.
    pub(super) shift: Option<Vec<f64>>,
}

/// The value of a parameter that is a dense constant.
pub(super) fn constant<'k>(op: &'k Operation, parameter: &str, known: &'k Known) -> Option<&'k Value> {
    match op.inputs.get(parameter)? {
        Argument::One(Binding::Name(name)) => known.constants.get(name),
        Argument::One(Binding::Value(value)) => Some(value),
        Argument::Many(_) => None,
    }
}

/// Numbers of a constant for each of the channels of `of`, which lie along `axis`: the constant has one for each, or one for
/// all, and does not extend the other axes.
fn channels(value: &Value, of: &TensorType, axis: usize, pool: &Pool<'_>) -> Option<Vec<f64>> {
    let shape = value.ty.tensor()?.fixed_shape()?;
    let Dim::Fixed(channels) = *of.shape.get(axis)? else { return None };
    let lead = of.shape.len().checked_sub(shape.len())?;
    if shape.iter().product::<usize>() == 1 {
        let &one = pool.numbers(value).ok()?.first()?;
        return Some(vec![f64::from(one); channels]);
    }
    let at = axis.checked_sub(lead)?;
    let fits = shape.iter().enumerate().all(|(i, &n)| n == if i == at { channels } else { 1 });
    fits.then(|| pool.numbers(value).ok())?.map(|all| all.into_iter().map(f64::from).collect())
}

impl Affine {
    /// What an operation does to the channels of one of its arguments, along `axis(from)` of type `ty(from)`.
    pub(super) fn of<'p>(
        op: &Operation,
        known: &Known,
        pool: &Pool<'_>,
        product: impl Fn(&str) -> Option<(&'p TensorType, usize)>,
    ) -> Option<Self> {
        let name = |parameter: &str| super::bound(op, parameter);
        if op.kind == "batch_norm" {
            let from = name("x")?;
            let (ty, axis) = product(from).filter(|&(ty, axis)| axis == 1 && ty.shape.len() >= 3)?;
            let count = ty.shape[axis].fixed()?;
            let numbers = |parameter: &str| {
                let all = pool.numbers(constant(op, parameter, known)?).ok()?;
                Some(all.into_iter().map(f64::from).collect::<Vec<f64>>())
            };
            let or = |parameter: &str, default: f64| match op.inputs.contains_key(parameter) {
                true => numbers(parameter),
                false => Some(vec![default; count]),
            };
            let (mean, variance) = (numbers("mean")?, numbers("variance")?);
            let (gamma, beta) = (or("gamma", 1.0)?, or("beta", 0.0)?);
            let epsilon = *or("epsilon", 1e-5)?.first()?;
            if [&mean, &variance, &gamma, &beta].iter().any(|all| all.len() != count) {
                return None;
            }
            let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
            let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
            return Some(Self { from: from.to_owned(), scale: Some(scale), shift: Some(shift) });
        }
        if !matches!(op.kind.as_str(), "add" | "sub" | "mul" | "real_div") {
            return None;
        }
        [("x", "y", true), ("y", "x", false)].into_iter().find_map(|(value, other, first)| {
            let from = name(value)?;
            let (ty, axis) = product(from)?;
            let numbers = channels(constant(op, other, known)?, ty, axis, pool)?;
            let negative = || numbers.iter().map(|v| -v).collect();
            let (scale, shift) = match (op.kind.as_str(), first) {
                ("add", _) => (None, Some(numbers)),
                ("sub", true) => (None, Some(negative())),
                ("sub", false) => (Some(vec![-1.0; numbers.len()]), Some(numbers)),
                ("mul", _) => (Some(numbers), None),
                ("real_div", true) => (Some(numbers.iter().map(|v| 1.0 / v).collect()), None),
                _ => return None,
            };
            Some(Self { from: from.to_owned(), scale, shift })
        })
    }
}
