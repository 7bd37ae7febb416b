//! Random numbers. A seed of −1 (the default) draws new numbers in every prediction.
//!
//! Semantics follow the reference documentation of coremltools' `random` chapter.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Normal};

use crate::array::Array;
use crate::budget;
use crate::build::{OpBuilder, Param, one};
use crate::error::OpError;
use crate::frame::Frame;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::check_size;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::impure("random_bernoulli", IOS15, bernoulli),
    OpSpec::impure("random_categorical", IOS15, categorical),
    OpSpec::impure("random_normal", IOS15, normal),
    OpSpec::impure("random_uniform", IOS15, uniform),
];

fn generator(seed: i64) -> StdRng {
    match u64::try_from(seed) {
        Ok(seed) => StdRng::seed_from_u64(seed),
        Err(_) => StdRng::from_os_rng(),
    }
}

fn shape(f: &Frame<'_>, shape: &Param<Vec<i64>>) -> Result<(Vec<usize>, usize), OpError> {
    let shape: Vec<usize> = shape
        .get(f)?
        .iter()
        .map(|&n| usize::try_from(n).map_err(|_| OpError::shape(format!("an extent of {n}"))))
        .collect::<Result<_, _>>()?;
    let count = check_size(&shape)?;
    Ok((shape, count))
}

/// Draws a tensor of the given shape.
fn draw(b: &OpBuilder<'_>, next: impl Fn(&mut StdRng) -> f32 + Send + Sync + 'static) -> Result<Run, OpError> {
    let extents = b.param::<Vec<i64>>("shape")?;
    let seed = b.attr_or("seed", -1i64)?;
    let dtype = b.output_dtype(0)?;
    b.run(move |f| {
        let (shape, count) = shape(f, &extents)?;
        let mut rng = generator(seed);
        one(Array::from_f32(budget::collect((0..count).map(|_| next(&mut rng)))?, &shape, dtype, f.device())?)
    })
}

/// `random_bernoulli(shape, prob = 0.5, seed = -1)`.
fn bernoulli(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let p = b.attr_or("prob", 0.5f32)?;
    draw(b, move |rng| if rng.random::<f32>() < p { 1.0 } else { 0.0 })
}

/// `random_normal(shape, mean = 0, stddev = 1, seed = -1)`.
fn normal(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (mean, deviation) = (b.attr_or("mean", 0f32)?, b.attr_or("stddev", 1f32)?);
    let distribution =
        Normal::new(mean, deviation).map_err(|e| OpError::data(format!("a deviation of {deviation}: {e}")))?;
    draw(b, move |rng| distribution.sample(rng))
}

/// `random_uniform(shape, low = 0, high = 1, seed = -1)`.
fn uniform(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (low, high) = (b.attr_or("low", 0f32)?, b.attr_or("high", 1f32)?);
    draw(b, move |rng| low + (high - low) * rng.random::<f32>())
}

/// `random_categorical(x, mode = "logits", size = 1, seed = -1)`: indices drawn from the last dimension of x.
fn categorical(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let probabilities = b.choice("mode", &[("logits", false), ("probs", true)])?;
    let size = usize::try_from(b.attr_or("size", 1i64)?).map_err(|_| OpError::shape("a negative size"))?;
    let seed = b.attr_or("seed", -1i64)?;
    let dtype = b.output_dtype(0)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let Some((&classes, outer)) = x.shape().split_last() else {
            return Err(OpError::shape("a categorical distribution without classes"));
        };
        if classes == 0 {
            return Err(OpError::shape("a categorical distribution without classes"));
        }
        let mut shape = outer.to_vec();
        shape.push(size);
        let mut out = budget::room(check_size(&shape)?)?;
        budget::work(check_size(&shape)?.saturating_mul(classes) as u64)?;
        let mut rng = generator(seed);
        for row in x.to_f32s()?.chunks_exact(classes) {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let _weights = budget::lent(classes.saturating_mul(size_of::<f32>()))?;
            let weights: Vec<f32> = row.iter().map(|&v| if probabilities { v } else { (v - top).exp() }).collect();
            let total: f32 = weights.iter().sum();
            for _ in 0..size {
                let mut left = rng.random::<f32>() * total;
                let index = weights.iter().position(|w| {
                    left -= w;
                    left < 0.0
                });
                out.push(index.unwrap_or(classes - 1) as f32);
            }
        }
        one(Array::new(candle_core::Tensor::from_vec(out, shape, f.device())?, dtype)?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn random_bernoulli_has_certain_ends_and_seeds_repeat() {
        let body = |probability: f32| {
            format!(
                "tensor<fp32, [8]> r = random_bernoulli(shape = tensor<int32, [1]>([8]), prob = fp32({probability}), seed = int32(3)); \
                 tensor<fp32, [8]> y = add(x = r, y = x);"
            )
        };
        near(&of(&body(0.0), &[1], &[0.0]), &[0.0; 8]);
        near(&of(&body(1.0), &[1], &[0.0]), &[1.0; 8]);
        near(&of(&body(0.5), &[1], &[0.0]), &of(&body(0.5), &[1], &[0.0]));
    }
}
