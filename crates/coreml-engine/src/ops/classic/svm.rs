//! `engine.svm`: support vector machines, as libsvm defines them.

use super::{Declared, numbers};
use crate::array::Array;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::Value;
use coreml_format::dtype::DataType;

pub(super) const OP: OpSpec = OpSpec::new("engine.svm", &[], build);

#[derive(Clone, Copy)]
enum Kernel {
    Linear,
    Rbf,
    Polynomial,
    Sigmoid,
}

/// Least probability of a pair, and of its complement.
const LEAST: f64 = 1e-7;

/// `engine.svm(x…, vectors, coefficients, rho, kernel, gamma, c, degree, per_class, prob_a, prob_b)`.
///
/// Without `per_class` the one decision value Σ αᵢ K(svᵢ, x) − ρ. With it, the number of vectors of each class: scores of the
/// classes, and the position of the predicted one. Scores are probabilities where there is a sigmoid for each pair, else
/// decision values: of two classes d and −d, of more the decision values of all pairs can't be told by class, and the scores
/// are the votes.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slots("x")?, Declared::of(b, 0)?);
    let (vectors, alpha): (Vec<f64>, Vec<f64>) = (b.attr("vectors")?, b.attr("coefficients")?);
    let (rho, count): (Vec<f64>, i64) = (b.attr("rho")?, b.attr("count")?);
    let kernels = [
        ("linear", Kernel::Linear),
        ("rbf", Kernel::Rbf),
        ("polynomial", Kernel::Polynomial),
        ("sigmoid", Kernel::Sigmoid),
    ];
    let kernel = b.required_choice("kernel", &kernels)?;
    let (gamma, c, degree): (f64, f64, i64) = (b.attr("gamma")?, b.attr("c")?, b.attr("degree")?);
    let degree = i32::try_from(degree).map_err(|_| OpError::data(format!("degree {degree}")))?;
    let count = usize::try_from(count).map_err(|_| OpError::data(format!("{count} vectors")))?;
    let length = vectors.len().checked_div(count).unwrap_or(0);
    if length * count != vectors.len() {
        return Err(OpError::shape(format!("{} elements of {count} vectors", vectors.len())));
    }
    let per_class: Vec<i64> = b.attr_or("per_class", Vec::new())?;
    let per_class: Vec<usize> = per_class.into_iter().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
    let (prob_a, prob_b): (Vec<f64>, Vec<f64>) = (b.attr_or("prob_a", vec![])?, b.attr_or("prob_b", vec![])?);
    let classes = per_class.len();
    let pairs = classes * classes.saturating_sub(1) / 2;
    if classes == 0 {
        if rho.len() != 1 || alpha.len() != count {
            return Err(OpError::shape(format!("{} coefficients for {count} vectors", alpha.len())));
        }
    } else {
        let sum = per_class.iter().try_fold(0_usize, |n, &m| n.checked_add(m));
        let fits = sum == Some(count) && alpha.len() == (classes - 1) * count && rho.len() == pairs;
        let sigmoids = prob_a.len() == prob_b.len() && (prob_a.is_empty() || prob_a.len() == pairs);
        if classes < 2 || !fits || !sigmoids {
            return Err(OpError::shape(format!(
                "{} coefficients, {} constants, {} sigmoids for {count} vectors of {classes} classes",
                alpha.len(),
                rho.len(),
                prob_a.len()
            )));
        }
    }
    let machine = Machine { vectors, length, count, kernel, gamma, c, degree };
    let starts: Vec<usize> = per_class.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
    b.run(move |f| {
        let x = numbers(f, &x)?;
        if classes > 0
            && let Some(i) = x.iter().position(|x| x.is_nan())
        {
            return Err(OpError::data(format!("feature {i} is not a number")));
        }
        let values = machine.kernels(&x)?;
        if classes == 0 {
            let sum: f64 = values.iter().zip(&alpha).map(|(k, a)| k * a).sum();
            return one(declared.value(vec![sum - rho[0]], &[])?);
        }
        budget::claim_of::<f64>(pairs)?;
        let mut decisions = Vec::with_capacity(pairs);
        for i in 0..classes {
            for j in i + 1..classes {
                let part = |class: usize, row: usize| -> f64 {
                    let (from, to) = (starts[class], starts[class] + per_class[class]);
                    let row = &alpha[row * count..(row + 1) * count];
                    row[from..to].iter().zip(&values[from..to]).map(|(a, k)| a * k).sum()
                };
                // libsvm: class i is multiplied by row j − 1, class j by row i.
                decisions.push(part(i, j - 1) + part(j, i) - rho[decisions.len()]);
            }
        }
        let mut votes = vec![0.0; classes];
        let mut at = 0;
        for i in 0..classes {
            for j in i + 1..classes {
                votes[if decisions[at] > 0.0 { i } else { j }] += 1.0;
                at += 1;
            }
        }
        let scores = if prob_a.is_empty() {
            if classes == 2 { vec![decisions[0], -decisions[0]] } else { votes.clone() }
        } else {
            let sigmoid = |(i, d): (usize, &f64)| {
                let z = prob_a[i] * d + prob_b[i];
                let p = if z >= 0.0 { (-z).exp() / (1.0 + (-z).exp()) } else { 1.0 / (1.0 + z.exp()) };
                // As libsvm: what is not a number becomes the least, too.
                if p > LEAST { p.min(1.0 - LEAST) } else { LEAST }
            };
            couple(&decisions.iter().enumerate().map(sigmoid).collect::<Vec<_>>(), classes)?
        };
        let by = if prob_a.is_empty() { &votes } else { &scores };
        let best = (0..classes).fold(0, |b, i| if by[i] > by[b] { i } else { b });
        let best = Array::from_i64(vec![best as i64], &[], DataType::I64, f.device())?;
        Ok(vec![declared.value(scores, &[classes])?, Value::Array(best)])
    })
}

struct Machine {
    vectors: Vec<f64>,
    length: usize,
    count: usize,
    kernel: Kernel,
    gamma: f64,
    c: f64,
    degree: i32,
}

impl Machine {
    /// K(svᵢ, x) of every support vector.
    fn kernels(&self, x: &[f64]) -> Result<Vec<f64>, OpError> {
        // Vectors that were sparse are as long as their last element.
        if x.len() < self.length {
            return Err(OpError::shape(format!("{} features for vectors of {}", x.len(), self.length)));
        }
        budget::products(&[self.count, x.len()])?;
        let (used, rest) = x.split_at(self.length);
        let rest: f64 = rest.iter().map(|x| x * x).sum();
        let kernel = |i: usize| {
            let vector = &self.vectors[i * self.length..(i + 1) * self.length];
            let dot = || vector.iter().zip(used).map(|(a, b)| a * b).sum::<f64>();
            match self.kernel {
                Kernel::Linear => dot(),
                Kernel::Rbf => {
                    let distance: f64 = vector.iter().zip(used).map(|(a, b)| (a - b) * (a - b)).sum();
                    (-self.gamma * (distance + rest)).exp()
                }
                Kernel::Polynomial => (self.gamma * dot() + self.c).powi(self.degree),
                Kernel::Sigmoid => (self.gamma * dot() + self.c).tanh(),
            }
        };
        budget::collect((0..self.count).map(kernel))
    }
}

/// Probabilities of classes from those of all pairs: libsvm's iteration (Wu, Lin and Weng, second approach).
fn couple(pairwise: &[f64], k: usize) -> Result<Vec<f64>, OpError> {
    budget::claim_of::<f64>(k.saturating_mul(k).saturating_mul(2))?;
    // Of 100 rounds at most, with k² steps each.
    budget::work((k as u64).saturating_mul(k as u64).saturating_mul(100))?;
    let mut r = vec![0.0; k * k];
    let mut at = 0;
    for i in 0..k {
        for j in i + 1..k {
            r[i * k + j] = pairwise[at];
            r[j * k + i] = 1.0 - pairwise[at];
            at += 1;
        }
    }
    if k == 2 {
        return Ok(vec![r[1], r[2]]);
    }
    let mut q = vec![0.0; k * k];
    for t in 0..k {
        for j in (0..k).filter(|&j| j != t) {
            q[t * k + t] += r[j * k + t] * r[j * k + t];
            q[t * k + j] = -r[j * k + t] * r[t * k + j];
        }
    }
    let mut p = vec![1.0 / k as f64; k];
    let mut qp = vec![0.0; k];
    for _ in 0..k.max(100) {
        let mut pqp = 0.0;
        for t in 0..k {
            qp[t] = (0..k).map(|j| q[t * k + j] * p[j]).sum();
            pqp += p[t] * qp[t];
        }
        let error = qp.iter().map(|x| (x - pqp).abs()).fold(0.0, f64::max);
        if error < 0.005 / k as f64 {
            break;
        }
        for t in 0..k {
            let step = (pqp - qp[t]) / q[t * k + t];
            p[t] += step;
            pqp = (pqp + step * (step * q[t * k + t] + 2.0 * qp[t])) / (1.0 + step) / (1.0 + step);
            for j in 0..k {
                qp[j] = (qp[j] + step * q[t * k + j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    Ok(p)
}
