//! Inputs and outputs of a network: blobs of features, preprocessing of images, labels.

use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use coreml_format::dtype::DataType;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::model_types::neural_network::weights::floats;
use coreml_format::model_types::neural_network::{NeuralNetworkPreprocessing, Preprocessor};
use coreml_format::program::{Dim, NamedType, TensorType, ValueType};

use super::build::{Blob, Extent, Network, ints, of, shown, tensor};
use crate::emit::{self, constant, named, operation, text};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// How features become blobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapping {
    /// Arrays have the shape of the description.
    pub(super) exact_arrays: bool,
    /// Images have rank 4.
    pub(super) exact_images: bool,
    /// Vectors, `[C]` or `[C, 1, 1]`, may come as sequences `[sequence, 1, C, 1, 1]`.
    pub(super) sequences: bool,
    /// An array is described with rank 5: results have their sequence and batch axes, too.
    pub(super) ranked: bool,
}

/// The default extents, where all shapes have them.
fn extents(n: &Network, shape: &[usize], constraint: &ShapeConstraint) -> Lowered<Vec<Extent>> {
    let agreed = |i: usize, d: usize| match constraint {
        ShapeConstraint::Unspecified | ShapeConstraint::Fixed => Some(d),
        ShapeConstraint::Enumerated(all) => all.iter().all(|s| s.get(i) == Some(&d)).then_some(d),
        ShapeConstraint::Ranges(all) => all.get(i).and_then(|r| (r.max == Some(r.min)).then_some(r.min)),
    };
    let several = match constraint {
        ShapeConstraint::Enumerated(all) => all.iter().any(|s| s.len() != shape.len()),
        ShapeConstraint::Ranges(all) => all.len() != shape.len(),
        _ => false,
    };
    if several {
        return n.refuse("it is described with shapes of several ranks");
    }
    Ok(shape.iter().enumerate().map(|(i, &d)| agreed(i, d)).collect())
}

/// Channels of an image.
fn channels(layout: ColorLayout) -> usize {
    match layout {
        ColorLayout::Rgb | ColorLayout::Bgr => 3,
        ColorLayout::Grayscale | ColorLayout::GrayscaleFloat16 => 1,
    }
}

/// Makes the inputs of the function and the blobs of the same names.
pub(super) fn inputs(
    n: &mut Network,
    described: &FunctionDescription,
    mapping: Mapping,
    preprocessing: &[NeuralNetworkPreprocessing],
) -> Lowered<Vec<NamedType>> {
    let mut made = Vec::with_capacity(described.inputs.len());
    for feature in &described.inputs {
        n.layer = (feature.name.clone(), "input");
        let blob = match &feature.ty {
            FeatureType::Image { layout, width, height, sizes } => {
                let sides = extents(n, &[*height, *width], sizes)?;
                let shape = [Some(1), Some(channels(*layout))].into_iter().chain(sides).collect();
                Blob { name: feature.name.clone(), shape, short: false }
            }
            FeatureType::MultiArray { shape, constraint, .. } => {
                let shape = extents(n, shape, constraint)?;
                let shape = match *shape {
                    [c] | [c, Some(1), Some(1)] if !mapping.exact_arrays && mapping.sequences => {
                        vec![None, Some(1), c, Some(1), Some(1)]
                    }
                    _ => shape,
                };
                Blob { name: feature.name.clone(), shape, short: false }
            }
            other => return n.refuse(format!("it is {}", other.in_words())),
        };
        made.push(NamedType { name: blob.name.clone(), ty: tensor(DataType::F32, &blob.shape) });
        let blob = match &feature.ty {
            FeatureType::Image { layout, .. } => {
                let blob = preprocess(n, described, feature, *layout, blob, preprocessing)?;
                Blob { short: !mapping.exact_images, ..blob }
            }
            _ if mapping.exact_arrays => blob,
            _ => ranked(n, blob)?,
        };
        n.blobs.insert(feature.name.clone(), blob);
    }
    Ok(made)
}

/// An array as `[sequence, batch, C, H, W]`.
fn ranked(n: &mut Network, x: Blob) -> Lowered<Blob> {
    match *x.shape {
        [c] => {
            let y = n.reshape(&x, vec![Some(1), c, Some(1), Some(1)])?;
            Ok(Blob { short: true, ..y })
        }
        [c, h, w] => {
            let y = n.op("expand_dims", vec![("x", of(&x)), ("axes", ints(&[0]))], vec![Some(1), c, h, w]);
            Ok(Blob { short: true, ..y })
        }
        [_, _, _, _] => Ok(Blob { short: true, ..x }),
        [_, _, _, _, _] => Ok(x),
        _ => n.refuse(format!("an array of shape {} has no place in a blob of rank 5", shown(&x.shape))),
    }
}

fn preprocess(
    n: &mut Network,
    described: &FunctionDescription,
    feature: &FeatureDescription,
    layout: ColorLayout,
    x: Blob,
    all: &[NeuralNetworkPreprocessing],
) -> Lowered<Blob> {
    let images = described.inputs.iter().filter(|f| matches!(f.ty, FeatureType::Image { .. })).count();
    let mut y = x;
    for p in all {
        if p.feature_name.is_empty() && images > 1 {
            return n.refuse("preprocessing does not say which image it is for");
        }
        if !p.feature_name.is_empty() && p.feature_name != feature.name {
            continue;
        }
        match &p.preprocessor {
            Some(Preprocessor::Scaler(s)) => {
                if s.channel_scale == 0.0 {
                    return n.refuse("preprocessing with a scale of 0");
                }
                if s.channel_scale != 1.0 {
                    y = n.with("mul", &y, s.channel_scale);
                }
                let biases = match layout {
                    ColorLayout::Rgb => vec![s.red_bias, s.green_bias, s.blue_bias],
                    ColorLayout::Bgr => vec![s.blue_bias, s.green_bias, s.red_bias],
                    ColorLayout::Grayscale | ColorLayout::GrayscaleFloat16 => vec![s.gray_bias],
                };
                if biases.iter().any(|&b| b != 0.0) {
                    let bias = n.constant(&[1, biases.len(), 1, 1], &biases);
                    y = n.binary("add", &y, &bias)?;
                }
            }
            Some(Preprocessor::MeanImage(m)) => {
                let shape = y.shape.iter().map(|&d| n.known("size", d)).collect::<Lowered<Vec<_>>>()?;
                let mean = floats(&m.mean_image).or_else(|e| n.refuse(format!("mean image: {e}")))?;
                let values: Vec<f32> =
                    mean.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                if shape.iter().product::<usize>() != values.len() {
                    return n.refuse(format!("a mean image of {} values", values.len()));
                }
                let mean = n.constant(&shape, &values);
                y = n.binary("sub", &y, &mean)?;
            }
            None => return n.refuse("preprocessing of an unknown kind"),
        }
    }
    Ok(y)
}

/// Makes the values that the function returns.
pub(super) fn outputs(
    n: &mut Network,
    described: &FunctionDescription,
    mapping: Mapping,
    labels: Option<(&ClassLabels, &str)>,
) -> Lowered<Vec<String>> {
    let mut names = Vec::with_capacity(described.outputs.len());
    if let Some((labels, blob)) = labels {
        n.layer = (blob.to_owned(), "labels");
        classify(n, described, labels, blob)?;
    }
    for feature in &described.outputs {
        names.push(feature.name.clone());
        let label = [&described.predicted_feature, &described.predicted_probabilities];
        if labels.is_some() && label.iter().any(|l| l.as_ref() == Some(&feature.name)) {
            continue;
        }
        n.layer = (feature.name.clone(), "output");
        let dtype = match feature.ty {
            FeatureType::MultiArray { dtype: dtype @ (DataType::I32 | DataType::F16 | DataType::F64), .. } => dtype,
            FeatureType::Double => DataType::F64,
            _ => DataType::F32,
        };
        let (x, ty) = match (n.blobs.get(&feature.name).cloned(), n.open.get(&feature.name).cloned()) {
            (Some(blob), _) => {
                let value = output(n, feature, &blob, mapping)?;
                (of(&value), tensor(dtype, &value.shape))
            }
            (None, Some(value)) if matches!(feature.ty, FeatureType::MultiArray { .. }) => {
                (named(&value), ValueType::Tensor(TensorType { dtype, shape: vec![Dim::Variadic] }))
            }
            _ => return n.refuse("nothing writes it"),
        };
        let mut inputs = vec![("x", x)];
        let kind = if dtype == DataType::F32 { "identity" } else { "cast" };
        if kind == "cast" {
            inputs.push(("dtype", text(dtype.name())));
        }
        n.operations.push(operation(kind, inputs, vec![NamedType { name: feature.name.clone(), ty }]));
    }
    Ok(names)
}

fn output(n: &mut Network, feature: &FeatureDescription, blob: &Blob, mapping: Mapping) -> Lowered<Blob> {
    match &feature.ty {
        FeatureType::Image { layout, .. } => {
            let (image, _) = n.nchw(blob)?;
            if image.shape[0] != Some(1) || image.shape[1] != Some(channels(*layout)) {
                return n.refuse(format!("an image of shape {}", shown(&image.shape)));
            }
            Ok(image)
        }
        FeatureType::MultiArray { shape, constraint, .. } => {
            let fixed =
                matches!(constraint, ShapeConstraint::Fixed | ShapeConstraint::Unspecified) && !shape.is_empty();
            let wanted: Vec<Extent> = shape.iter().map(|&d| Some(d)).collect();
            if fixed && blob.elements().is_some() && blob.elements() == super::build::product(&wanted) {
                return n.reshape(blob, wanted);
            }
            if mapping.exact_arrays || blob.rank() < 5 {
                return Ok(n.full(blob));
            }
            // Axes of 1 around what there is are not returned; others may be known only in a prediction.
            let full = n.full_shape(blob);
            let lead = if full[..2] == [Some(1); 2] && !mapping.ranked { 2 } else { 0 };
            let last = if full[3..] == [Some(1); 2] { 3 } else { full.len() };
            let hidden = usize::from(blob.short);
            let axes: Vec<i32> = (hidden..lead).chain(last..full.len()).map(|axis| (axis - hidden) as i32).collect();
            if axes.is_empty() {
                return Ok(n.full(blob));
            }
            if lead == 0 && blob.short {
                // The sequence axis is returned.
                return n.reshape(blob, full[..last].to_vec());
            }
            Ok(n.op("squeeze", vec![("x", of(blob)), ("axes", ints(&axes))], full[lead..last].to_vec()))
        }
        FeatureType::Double | FeatureType::Int64 if blob.elements() == Some(1) => n.reshape(blob, Vec::new()),
        other => n.refuse(format!("it is {} of a blob of {}", other.in_words(), shown(&blob.shape))),
    }
}

fn classify(n: &mut Network, described: &FunctionDescription, labels: &ClassLabels, blob: &str) -> Lowered<()> {
    let Some(blob) = n.blobs.get(blob).cloned() else { return n.refuse("nothing writes it") };
    let scalar = |dtype| ValueType::Tensor(TensorType { dtype, shape: Vec::new() });
    let key = match labels {
        ClassLabels::Strings(_) => scalar(DataType::String),
        ClassLabels::Int64s(_) => scalar(DataType::I64),
    };
    let count = labels.count();
    if blob.elements() != Some(count) {
        return n.refuse(format!("{count} labels for a blob of {}", shown(&blob.shape)));
    }
    let probabilities = n.reshape(&blob, vec![Some(count)])?;
    let taken = |name: &Option<String>, n: &mut Network, other: &str| match name {
        Some(name) if !name.is_empty() => name.clone(),
        _ => n.fresh(other),
    };
    let label = taken(&described.predicted_feature, n, "label");
    let entries = taken(&described.predicted_probabilities, n, "probabilities");
    let dictionary = ValueType::Dictionary(Box::new(key.clone()), Box::new(scalar(DataType::F64)));
    let inputs = [("probabilities", of(&probabilities)), ("classes", constant(emit::labels(labels)))];
    let outputs = vec![NamedType { name: label, ty: key }, NamedType { name: entries, ty: dictionary }];
    n.operations.push(operation("classify", inputs, outputs));
    Ok(())
}
