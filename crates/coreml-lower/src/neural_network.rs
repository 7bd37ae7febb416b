//! Neural networks as programs: each layer as operations of opset iOS15.
//!
//! Blobs are written again under the same name; values are not, so every blob has the value that was written last. A blob of
//! rank 5 with a sequence axis of 1 is kept as `[batch, C, H, W]`, which convolutions take as it is.
//!
//! - `layers`: a row for each kind of layer, with its lowering; one file a chapter has them. `control_flow`: order, branches,
//!   loops.
//! - `build`, `blobs`: operations and the shapes of blobs; `weights`: weights in any form, as floats.
//! - `interface`: features and blobs, preprocessing, labels.

use std::borrow::Cow;

use coreml_format::description::FeatureType;
use coreml_format::model_types::Body;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::model_types::neural_network::layer::Layer;
use coreml_format::model_types::neural_network::{
    ArrayShapeMapping, ImageShapeMapping, NeuralNetworkLayer, NeuralNetworkPreprocessing,
};
use coreml_format::program::{Block, Function, Opset, Program};
use indexmap::IndexMap;

use crate::error::LowerError;
use crate::model_types::Source;
use build::Network;
use interface::Mapping;

mod activation;
mod blobs;
mod build;
mod constant;
mod control_flow;
mod convolution;
mod custom;
mod elementwise;
mod interface;
pub mod layers;
mod linear;
mod normalization;
mod pooling;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod scatter_gather;
mod shape;
mod slice;
mod volume;
mod weights;

/// Returns true for networks whose arrays have rank 5 inside, `[sequence, batch, C, H, W]`: they take sequences of the
/// arrays that they describe ("array input shape mapping" of the format).
pub fn takes_sequences(body: &Body) -> bool {
    parts(body, "the model").is_ok_and(|parts| parts.arrays == ArrayShapeMapping::Rank5 as i32)
}

/// The shape `[sequence, batch, C, H, W]` of an array that comes as `[sequence, batch, C]`, `[sequence, batch, C, 1, 1]` or
/// `[sequence, batch, C, H, W]` where `[C]` or `[C, H, W]` is described; none for other shapes, or without elements.
pub fn ranked_shape(described: &[usize], found: &[usize]) -> Option<[usize; 5]> {
    let (c, h, w) = match *described {
        [c] => (c, 1, 1),
        [c, h, w] => (c, h, w),
        _ => return None,
    };
    match *found {
        [sequence, batch, ref element @ ..]
            if sequence > 0 && batch > 0 && (element == described || *element == [c, h, w]) =>
        {
            Some([sequence, batch, c, h, w])
        }
        _ => None,
    }
}

/// The length of a sequence, `[length, 1, C]` or `[length, 1, C, H, W]`, of arrays that are described as `[C]` or `[C, H, W]`;
/// none for what is no such sequence, or has no elements.
pub fn sequence_length(described: &[usize], found: &[usize]) -> Option<usize> {
    ranked_shape(described, found).filter(|shape| shape[1] == 1 && found[2..] == *described).map(|shape| shape[0])
}

/// What networks, classifiers and regressors have in common.
struct Parts<'m> {
    layers: &'m [NeuralNetworkLayer],
    preprocessing: &'m [NeuralNetworkPreprocessing],
    arrays: i32,
    images: i32,
    /// Labels, and the blob of their scores.
    labels: Option<(&'m ClassLabels, &'m str)>,
}

fn parts<'m>(body: &'m Body, place: &str) -> Result<Parts<'m>, LowerError> {
    match body {
        Body::NeuralNetwork(m) => Ok(Parts {
            layers: &m.layers,
            preprocessing: &m.preprocessing,
            arrays: m.array_input_shape_mapping,
            images: m.image_input_shape_mapping,
            labels: None,
        }),
        Body::NeuralNetworkRegressor(m) => Ok(Parts {
            layers: &m.layers,
            preprocessing: &m.preprocessing,
            arrays: m.array_input_shape_mapping,
            images: m.image_input_shape_mapping,
            labels: None,
        }),
        Body::NeuralNetworkClassifier(m) => {
            let last = m.layers.last().and_then(|l| l.output.first()).map_or("", String::as_str);
            let scores = Some(m.label_probability_layer_name.as_str()).filter(|s| !s.is_empty()).unwrap_or(last);
            let labels = m.class_labels.as_ref().ok_or_else(|| LowerError::invalid(place, "labels", "none"))?;
            Ok(Parts {
                layers: &m.layers,
                preprocessing: &m.preprocessing,
                arrays: m.array_input_shape_mapping,
                images: m.image_input_shape_mapping,
                labels: Some((labels, scores)),
            })
        }
        other => Err(LowerError::invalid(place, "a neural network", other.name())),
    }
}

/// Whether a layer treats the sequence axis as one.
fn sequential(layer: &NeuralNetworkLayer) -> bool {
    match &layer.layer {
        Some(
            Layer::Embedding(_)
            | Layer::SequenceRepeat(_)
            | Layer::SimpleRecurrent(_)
            | Layer::Gru(_)
            | Layer::UniDirectionalLstm(_)
            | Layer::BiDirectionalLstm(_),
        ) => true,
        Some(Layer::Concat(p)) => p.sequence_concat,
        Some(Layer::Permute(p)) => p.axis.first() != Some(&0),
        _ => false,
    }
}

/// The program that computes what a network computes.
///
/// # Errors
/// [`LowerError::Layer`] for a layer, an input or an output that can't be run, by its name.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let parts = parts(source.body, place)?;
    let described = source.description.function(None).cloned().unwrap_or_default();
    let features = described.inputs.iter().chain(&described.outputs).map(|f| f.name.clone());
    let mut network = Network::new(place, features);
    network.classes = source.classes;
    let unknown = |what: &str, value: i32| LowerError::invalid(place, format!("a known {what}"), value);
    let arrays =
        ArrayShapeMapping::try_from(parts.arrays).map_err(|_| unknown("arrayInputShapeMapping", parts.arrays))?;
    let images =
        ImageShapeMapping::try_from(parts.images).map_err(|_| unknown("imageInputShapeMapping", parts.images))?;
    let mapping = Mapping {
        exact_arrays: arrays == ArrayShapeMapping::Exact,
        exact_images: images == ImageShapeMapping::Rank4,
        sequences: parts.layers.iter().any(sequential),
        ranked: described
            .inputs
            .iter()
            .any(|f| matches!(&f.ty, FeatureType::MultiArray { shape, .. } if shape.len() == 5)),
    };
    let inputs = interface::inputs(&mut network, &described, mapping, parts.preprocessing)?;
    let mut reads = IndexMap::new();
    control_flow::count_reads(parts.layers, &mut reads);
    network.reads = reads.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    let scores = parts.labels.map(|(_, scores)| scores);
    for name in described.outputs.iter().map(|f| f.name.as_str()).chain(scores) {
        *network.reads.entry(name.to_owned()).or_insert(0) += 1;
    }
    control_flow::sequence(&mut network, parts.layers)?;
    let outputs = interface::outputs(&mut network, &described, mapping, parts.labels)?;
    let block = Block { inputs: Vec::new(), operations: network.operations, outputs };
    let function = Function { opset: Opset::Ios15, inputs, block, attributes: IndexMap::new() };
    let functions = IndexMap::from([(source.description.default_function.clone(), function)]);
    Ok(Cow::Owned(Program { functions, ..Program::default() }))
}

#[cfg(test)]
mod tests {
    use super::{ranked_shape, sequence_length};

    #[test]
    fn sequences_are_of_vectors_and_of_images() {
        assert_eq!(sequence_length(&[3], &[7, 1, 3]), Some(7));
        assert_eq!(sequence_length(&[3, 4, 5], &[1, 1, 3, 4, 5]), Some(1));
        for (described, found) in [
            (&[3][..], &[7, 2, 3][..]),
            (&[3], &[0, 1, 3]),
            (&[3], &[7, 3]),
            (&[4, 5], &[7, 1, 4, 5]),
            (&[3, 4, 5], &[7, 1, 3, 4]),
        ] {
            assert_eq!(sequence_length(described, found), None, "{described:?} {found:?}");
        }
    }

    #[test]
    fn arrays_of_rank_5_have_a_batch() {
        assert_eq!(ranked_shape(&[3], &[7, 2, 3]), Some([7, 2, 3, 1, 1]));
        assert_eq!(ranked_shape(&[3], &[7, 2, 3, 1, 1]), Some([7, 2, 3, 1, 1]));
        assert_eq!(ranked_shape(&[3, 4, 5], &[1, 6, 3, 4, 5]), Some([1, 6, 3, 4, 5]));
        for (described, found) in [
            (&[3][..], &[7, 0, 3][..]),
            (&[3], &[2, 3]),
            (&[3, 4, 5], &[2, 3, 4, 5]),
            (&[4, 5], &[7, 1, 4, 5]),
            (&[3, 4, 5], &[1, 1, 3, 5, 4]),
        ] {
            assert_eq!(ranked_shape(described, found), None, "{described:?} {found:?}");
        }
    }
}
