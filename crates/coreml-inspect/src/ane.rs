//! Estimates, operation by operation, what Apple's Neural Engine likely refuses.
//!
//! **An estimate.** Core ML decides when it loads a model, for the chip and system at hand, and its rules are not
//! public; only its compute plan on a Mac or iPhone is authoritative (`CoreMLModel::placement` of candle-coreml). The
//! rules come from Apple's documentation, published compute plans and third-party measurements; `docs/neural-engine.md`
//! lists each with its source.

use std::collections::BTreeMap;

use coreml_format::description::{FeatureType, ModelDescription, ShapeConstraint};
use coreml_format::program::{Block, Dim, NamedType, Opset, Program, TensorType, ValueType};
use indexmap::IndexMap;

use crate::constants::Constants;

mod rules;

/// Printed above every report.
pub const DISCLAIMER: &str = "An estimate from published facts (docs/neural-engine.md). Only Core ML's compute plan on \
    Apple hardware tells where an operation runs; small models may stay on the CPU even if every operation could run.";

/// Estimate for one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No known obstacle.
    Likely,
    /// Depends on the chip, the system or the shapes of a call, or nothing is published.
    Unsure,
    /// Likely runs elsewhere.
    Refused,
}

/// All verdicts, best first.
pub const VERDICTS: [Verdict; 3] = [Verdict::Likely, Verdict::Unsure, Verdict::Refused];

impl Verdict {
    /// Name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Likely => "likely",
            Self::Unsure => "unsure",
            Self::Refused => "refused",
        }
    }
}

/// One reason against the Neural Engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Reason {
    /// Short name of the rule, such as `integers`; documented in `docs/neural-engine.md`.
    pub rule: &'static str,
    /// Verdict implied by this reason alone.
    pub verdict: Verdict,
    /// Explanation.
    pub message: String,
}

/// The verdict on one operation.
#[derive(Debug, Clone, serde::Serialize)]
pub struct OperationVerdict {
    /// Type of the operation.
    pub kind: String,
    /// Name of its first result, else its own.
    pub name: String,
    /// The verdict: the worst of the reasons.
    pub verdict: Verdict,
    /// Reasons; empty if there is no known obstacle.
    pub reasons: Vec<Reason>,
    /// Multiply count of products and convolutions; `None` if a shape is unknown.
    pub multiplications: Option<u64>,
}

/// The verdicts on a function.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FunctionVerdict {
    /// Name of the function.
    pub function: String,
    /// Earliest system that can load it.
    pub needs: &'static str,
    /// Its operations in execution order, without constants.
    pub operations: Vec<OperationVerdict>,
    /// Number of transitions between refused and other operations.
    pub switches: usize,
}

impl FunctionVerdict {
    /// Number of operations by verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.operations.iter().filter(|o| o.verdict == verdict).count()
    }

    /// Fraction of the multiplications in operations with this verdict; `None` if a shape is unknown or there are none.
    pub fn share(&self, verdict: Verdict) -> Option<f64> {
        let all: u64 = self.operations.iter().map(|o| o.multiplications).sum::<Option<u64>>()?;
        let own: u64 = self.operations.iter().filter(|o| o.verdict == verdict).filter_map(|o| o.multiplications).sum();
        (all > 0).then(|| own as f64 / all as f64)
    }

    /// Rules with obstacles: rule and message of the first occurrence, verdict, operations by kind.
    pub fn summary(&self) -> Vec<(Reason, BTreeMap<&str, usize>)> {
        let mut by_rule: IndexMap<(&str, Verdict), (Reason, BTreeMap<&str, usize>)> = IndexMap::new();
        for op in &self.operations {
            for reason in &op.reasons {
                let entry =
                    by_rule.entry((reason.rule, reason.verdict)).or_insert_with(|| (reason.clone(), BTreeMap::new()));
                *entry.1.entry(op.kind.as_str()).or_default() += 1;
            }
        }
        let mut rules: Vec<_> = by_rule.into_values().collect();
        rules
            .sort_by_key(|(r, kinds)| (std::cmp::Reverse(r.verdict), std::cmp::Reverse(kinds.values().sum::<usize>())));
        rules
    }
}

/// The estimate of a function for other programs: counts and shares by verdict, every operation.
#[derive(Debug, serde::Serialize)]
pub struct Report<'v> {
    function: &'v str,
    needs: &'static str,
    counts: BTreeMap<&'static str, usize>,
    shares_of_multiplications: BTreeMap<&'static str, Option<f64>>,
    switches: usize,
    operations: &'v [OperationVerdict],
}

impl<'v> Report<'v> {
    /// Counts the verdicts on a function.
    pub fn of(verdict: &'v FunctionVerdict) -> Self {
        Self {
            function: &verdict.function,
            needs: verdict.needs,
            counts: VERDICTS.iter().map(|v| (v.name(), verdict.count(*v))).collect(),
            shares_of_multiplications: VERDICTS.iter().map(|v| (v.name(), verdict.share(*v))).collect(),
            switches: verdict.switches,
            operations: &verdict.operations,
        }
    }
}

/// Estimates all functions of a program.
pub fn estimate(program: &Program, description: &ModelDescription) -> Vec<FunctionVerdict> {
    let functions = program.functions.iter();
    functions
        .map(|(name, function)| {
            let mut constants = Constants::default();
            constants.collect(&function.block);
            let mut judge = Judge {
                constants,
                types: function.inputs.iter().map(|i| (i.name.as_str(), &i.ty)).collect(),
                flexible: flexibility(description, name),
                opset: function.opset,
                operations: Vec::new(),
            };
            judge.block(&function.block);
            let refused: Vec<bool> = judge.operations.iter().map(|o| o.verdict == Verdict::Refused).collect();
            FunctionVerdict {
                function: name.clone(),
                needs: system(judge.opset),
                operations: judge.operations,
                switches: refused.windows(2).filter(|w| w[0] != w[1]).count(),
            }
        })
        .collect()
}

/// Earliest system with an opset.
fn system(opset: Opset) -> &'static str {
    match opset {
        Opset::Ios15 => "iOS 15, macOS 12",
        Opset::Ios16 => "iOS 16, macOS 13",
        Opset::Ios17 => "iOS 17, macOS 14",
        Opset::Ios18 => "iOS 18, macOS 15",
        Opset::Ios26 => "iOS 26, macOS 26",
    }
}

/// Ways in which input shapes may vary between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flexibility {
    Fixed,
    Enumerated,
    Ranges,
}

fn flexibility(description: &ModelDescription, function: &str) -> Flexibility {
    let inputs = description.functions.get(function).map_or(&[][..], |f| f.inputs.as_slice());
    let of = |constraint: &ShapeConstraint| match constraint {
        ShapeConstraint::Fixed => Flexibility::Fixed,
        ShapeConstraint::Enumerated(_) => Flexibility::Enumerated,
        ShapeConstraint::Ranges(_) | ShapeConstraint::Unspecified => Flexibility::Ranges,
    };
    let each = inputs.iter().map(|input| match &input.ty {
        FeatureType::MultiArray { constraint, .. } => of(constraint),
        FeatureType::Image { sizes, .. } => of(sizes),
        _ => Flexibility::Fixed,
    });
    each.max().unwrap_or(Flexibility::Fixed)
}

/// Walks a function and applies the rules.
struct Judge<'a> {
    constants: Constants<'a>,
    types: std::collections::HashMap<&'a str, &'a ValueType>,
    flexible: Flexibility,
    opset: Opset,
    operations: Vec<OperationVerdict>,
}

impl<'a> Judge<'a> {
    fn block(&mut self, block: &'a Block) {
        for op in &block.operations {
            self.define(&op.outputs);
            if op.kind == "const" || op.kind.starts_with("constexpr_") {
                continue;
            }
            let reasons = rules::reasons(self, op);
            let verdict = reasons.iter().map(|r| r.verdict).max().unwrap_or(Verdict::Likely);
            let name = op.outputs.first().map_or(op.name.as_str(), |o| o.name.as_str());
            self.operations.push(OperationVerdict {
                kind: op.kind.clone(),
                name: name.to_owned(),
                verdict,
                reasons,
                multiplications: rules::multiplications(self, op),
            });
            for nested in &op.blocks {
                self.define(&nested.inputs);
                self.block(nested);
            }
        }
    }

    fn define(&mut self, values: &'a [NamedType]) {
        self.types.extend(values.iter().map(|v| (v.name.as_str(), &v.ty)));
    }

    fn tensor(&self, name: &str) -> Option<&'a TensorType> {
        self.types.get(name).and_then(|ty| ty.tensor())
    }
}

/// Known extents.
fn fixed(ty: &TensorType) -> impl Iterator<Item = (usize, usize)> {
    ty.shape.iter().enumerate().filter_map(|(axis, d)| Some((axis, d.fixed()?)))
}

/// Returns true if an extent is unknown before the call.
fn is_open(ty: &TensorType) -> bool {
    ty.shape.iter().any(|d| !matches!(d, Dim::Fixed(_)))
}

#[cfg(test)]
mod tests;
