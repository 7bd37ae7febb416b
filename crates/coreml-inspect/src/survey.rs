//! What a model is made of: operations and stored weights by number and size, class labels, types in words.

use std::collections::{BTreeMap, HashSet};

use coreml_format::blob::BlobError;
use coreml_format::description::{FeatureType, ShapeConstraint};
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::program::{Binding, Block, Program, TensorData, Value, ValueData};
use coreml_format::spec::Specification;

/// Operations and weights of all functions of a program.
#[derive(Debug, Default, serde::Serialize)]
pub struct Survey {
    /// Number of operations by type, without constants.
    pub operations: BTreeMap<String, usize>,
    /// Stored weights by form, sorted.
    pub weights: Vec<Weights>,
}

/// Weights of one form and element type.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Weights {
    /// `dense` or the operation that decompresses them, and the stored element type, such as `dense fp16`.
    pub form: String,
    /// Number of blobs. One that is referenced twice counts once.
    pub count: usize,
    /// Bytes of these blobs.
    pub bytes: usize,
}

impl Survey {
    /// Counts what is in a program of a model.
    ///
    /// # Errors
    /// [`BlobError`] if a weight file is missing or damaged.
    pub fn of(model: &Model, program: &Program) -> Result<Self, BlobError> {
        let mut counter =
            Counter { model, operations: BTreeMap::new(), weights: BTreeMap::new(), seen: HashSet::new() };
        program.functions.values().try_for_each(|function| counter.block(&function.block))?;
        let weights =
            counter.weights.into_iter().map(|(form, (count, bytes))| Weights { form, count, bytes }).collect();
        Ok(Self { operations: counter.operations, weights })
    }
}

struct Counter<'m> {
    model: &'m Model,
    operations: BTreeMap<String, usize>,
    /// Count and bytes of blobs by form.
    weights: BTreeMap<String, (usize, usize)>,
    seen: HashSet<(String, u64)>,
}

impl Counter<'_> {
    fn block(&mut self, block: &Block) -> Result<(), BlobError> {
        for op in &block.operations {
            if op.kind != "const" {
                *self.operations.entry(op.kind.clone()).or_default() += 1;
            }
            for value in op.attributes.values() {
                self.literal(&op.kind, value)?;
            }
            for binding in op.inputs.values().flat_map(|a| a.bindings()) {
                if let Binding::Value(value) = binding {
                    self.literal(&op.kind, value)?;
                }
            }
            op.blocks.iter().try_for_each(|nested| self.block(nested))?;
        }
        Ok(())
    }

    fn literal(&mut self, kind: &str, value: &Value) -> Result<(), BlobError> {
        if let ValueData::Tensor(TensorData::Blob(at)) = &value.data
            && self.seen.insert((at.file.to_string(), at.offset))
        {
            let blob = self.model.weights.resolve(at)?;
            let form = if kind == "const" { "dense" } else { kind };
            let entry = self.weights.entry(format!("{form} {}", blob.dtype())).or_default();
            entry.0 += 1;
            entry.1 += blob.len();
        }
        Ok(())
    }
}

/// The type of a feature in words, with its shapes.
pub fn type_in_words(ty: &FeatureType) -> String {
    match ty {
        FeatureType::MultiArray { dtype, shape, constraint, .. } => match constraint {
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
        },
        FeatureType::State { dtype, shape } => format!("{dtype} {shape:?}"),
        FeatureType::Image { layout, width, height, .. } => format!("{layout:?} image {width} × {height}"),
        other => other.in_words().to_owned(),
    }
}

/// Labels of a classifier.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Labels {
    /// Texts.
    Strings(Vec<String>),
    /// Numbers.
    Int64s(Vec<i64>),
}

impl Labels {
    /// Labels of a model: its own, or those of the last stage of a pipeline that has some.
    pub fn of(model: &Model) -> Option<Self> {
        Self::among(&model.body, &model.parts)
    }

    fn among(body: &Body, parts: &[Specification]) -> Option<Self> {
        let own = body.class_labels().map(|labels| match labels {
            ClassLabels::Strings(all) => Self::Strings(all.vector),
            ClassLabels::Int64s(all) => Self::Int64s(all.vector),
        });
        own.or_else(|| parts.iter().rev().find_map(|part| Self::among(&part.body, &part.parts)))
    }

    /// The labels as texts.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Strings(all) => all.clone(),
            Self::Int64s(all) => all.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn operations_and_weights_of_the_models_that_ship_are_counted() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let head = Model::open(&models.join("tiny-qwen3/qwen_lm_head_lut8.mlpackage")).expect("a model");
        let survey = Survey::of(&head, head.body.program().expect("a program")).expect("weights");
        assert!(survey.operations["conv"] > 0 && !survey.operations.contains_key("const"), "{survey:?}");
        // Nearly all of the weight file, and no more.
        let bytes: usize = survey.weights.iter().map(|w| w.bytes).sum();
        let file = models.join("tiny-qwen3/qwen_lm_head_lut8.mlpackage/Data/com.apple.CoreML/weights/weight.bin");
        let all = usize::try_from(std::fs::metadata(file).expect("a file").len()).expect("a size");
        assert!(bytes <= all && bytes > all / 4 * 3, "{bytes} of {all}: {survey:?}");
        assert!(survey.weights.iter().all(|w| w.count > 0 && w.bytes > 0), "{survey:?}");
        assert!(Labels::of(&head).is_none());
        // Without its weights it has none to count.
        let gone = Model { weights: Default::default(), ..head.clone() };
        assert!(Survey::of(&gone, gone.body.program().expect("a program")).is_err());
    }
}
