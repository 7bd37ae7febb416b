//! Packages with compressed weights.

use std::collections::HashMap;
use std::path::Path;

use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::program::{Argument, Binding, NamedType, Operation, Opset, TensorType, Value, ValueType};
use coreml_format::task;
use coreml_write::edit::{self, Constants, EditError, Made, Place, Repack, invalid};
use indexmap::IndexMap;

use crate::encode::{Dense, Encoded, Part};
use crate::scheme::{Options, Scheme};
use crate::trial::parts;

/// What compression did to a weight.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LayerReport {
    /// Name of the weight.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Its form.
    pub scheme: Scheme,
    /// Mean of the squared errors over the mean of the squares.
    pub relative_error: f64,
    /// Sum of the squared errors.
    pub squared_error: f64,
    /// Largest error.
    pub largest_error: f32,
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

/// What compression did to a model.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Compressed weights, each once.
    pub layers: Vec<LayerReport>,
    /// Weights whose shape the form does not fit; they stay as they are.
    pub skipped: Vec<String>,
    /// Bytes of all weights before.
    pub before: u64,
    /// Bytes of all weights after.
    pub after: u64,
}

/// Operations whose weights are compressed, as in coremltools: products and look-ups.
const USERS: [&str; 6] = ["conv", "conv_transpose", "linear", "matmul", "gather", "einsum"];

/// Writes a copy of an ML Program with compressed weights. Weights that are compressed already are compressed anew from
/// their numbers. Weights with the same content are compressed once. A weight whose shape the common form does not fit
/// stays as it is and is listed in the report.
///
/// # Errors
/// [`EditError::Invalid`] for schemes and importances that make no sense or do not fit a weight or the opset of a function (tables in
/// groups, blocks and joint forms need iOS 18), and for weights that are not finite; [`EditError::Io`] if writing fails.
pub fn compress(model: &Model, options: &Options, to: &Path) -> edit::Result<Report> {
    let wrong = |e: crate::SchemeError| EditError::Invalid {
        path: model.path.clone(),
        place: e.what.to_owned(),
        expected: e.expected.to_owned(),
        found: e.found,
    };
    options.scheme.check().map_err(wrong)?;
    options.layers.iter().filter_map(|(_, s)| s.as_ref()).try_for_each(|s| s.check().map_err(wrong))?;
    let opsets: HashMap<String, Opset> =
        edit::program(model)?.functions.iter().map(|(n, f)| (n.clone(), f.opset)).collect();
    let mut report = Report::default();
    let mut skipped = std::collections::BTreeSet::new();
    known(model, options)?;
    let mut wanted = |place: Place<'_>| match scheme_at(options, place) {
        Some((scheme, by_name)) => {
            let shape = place.ty().map(|(_, shape)| shape).unwrap_or_default();
            let fits = by_name || scheme.fits(&shape).is_ok();
            if !fits {
                skipped.insert(place.name().to_owned());
            }
            fits
        }
        None => false,
    };
    let mut make = |repack: &mut Repack, constants: &Constants<'_>, place: Place<'_>| {
        let (scheme, _) = scheme_at(options, place).ok_or_else(|| invalid(model, place, "a scheme", "none"))?;
        let opset = opsets.get(place.function).copied().unwrap_or(Opset::Ios15);
        let weight = constants.decode(place.name()).map_err(|e| invalid(model, place, "a weight", e))?;
        if let Some(at) = weight.data.iter().position(|v| !v.is_finite()) {
            return Err(invalid(model, place, "finite numbers", format!("{} at {at}", weight.data[at])));
        }
        let weights = options.importance.get(place.name()).map(Vec::as_slice);
        if let Some(weights) = weights {
            counts(weights, weight.data.len(), scheme)
                .map_err(|(wanted, found)| invalid(model, place, wanted, found))?;
        }
        let dense = Dense { dtype: weight.dtype, shape: &weight.shape, data: &weight.data, weights };
        let (encoded, decoded) = dense.encode(scheme).map_err(|e| match task::is_cancelled() {
            true => EditError::cancelled(to),
            false => invalid(model, place, e, format!("shape {:?}", weight.shape)),
        })?;
        let made = operation(repack, &encoded, opset, &dense, place.name()).map_err(|e| match e {
            Refused::Edit(e) => e,
            Refused::Opset => {
                invalid(model, place, "ios18 for this form, or one table for the tensor", opset.text_name())
            }
        })?;
        report.layers.push(layer(place.name(), scheme, &dense, &decoded, &encoded));
        Ok(made)
    };
    let mut description = model.description.clone();
    description.specification_version = description.specification_version.max(7);
    (report.before, report.after) = edit::rewrite(model, &description, to, &mut wanted, &mut make)?;
    report.skipped = skipped.into_iter().collect();
    Ok(report)
}

/// Refuses importances of weights that no form applies to.
fn known(model: &Model, options: &Options) -> edit::Result<()> {
    if options.importance.is_empty() {
        return Ok(());
    }
    let weights = crate::candidates(model, options)?;
    match options.importance.keys().find(|name| weights.iter().all(|w| w.name != **name)) {
        Some(name) => Err(EditError::Invalid {
            path: model.path.clone(),
            place: format!("the importance of `{name}`"),
            expected: "the name of a weight that is compressed".to_owned(),
            found: format!("none among {}", weights.len()),
        }),
        None => Ok(()),
    }
}

/// Checks how much elements count: what was expected, and what was found.
fn counts(weights: &[f32], elements: usize, scheme: Scheme) -> Result<(), (String, String)> {
    if !matches!(scheme, Scheme::Palette { vector: 1, .. }) {
        return Err(("tables of numbers where elements have an importance".to_owned(), "another form".to_owned()));
    }
    if weights.len() != elements {
        return Err((format!("{elements} importances"), weights.len().to_string()));
    }
    match weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
        Some(w) => Err(("importances that are finite and not negative".to_owned(), w.to_string())),
        None => Ok(()),
    }
}

/// Form of the weight of a place, and whether it was asked for by name.
fn scheme_at(options: &Options, place: Place<'_>) -> Option<(Scheme, bool)> {
    scheme(options, place.name(), place.ty(), place.uses)
}

/// Form of a weight, and whether it was asked for by name.
pub(crate) fn scheme(
    options: &Options,
    name: &str,
    ty: Option<(DataType, Vec<usize>)>,
    uses: &[String],
) -> Option<(Scheme, bool)> {
    let (dtype, shape) = ty?;
    // Look-ups in tables of other ranks are positions, not embeddings: they must stay exact.
    let kind =
        |u: &str| USERS.iter().any(|kind| u.split(' ').next() == Some(kind) && (*kind != "gather" || shape.len() == 2));
    let used = uses.iter().any(|u| kind(u));
    let elements = shape.iter().product();
    let fits = used && shape.len() >= 2 && matches!(dtype, DataType::F16 | DataType::F32);
    options.of(name, elements).filter(|_| fits)
}

fn layer(name: &str, scheme: Scheme, dense: &Dense<'_>, decoded: &[f32], encoded: &Encoded) -> LayerReport {
    let mut sums = (0f64, 0f64, 0f32);
    for (a, b) in dense.data.iter().zip(decoded) {
        let d = f64::from(*a) - f64::from(*b);
        sums = (sums.0 + d * d, sums.1 + f64::from(*a).powi(2), sums.2.max(d.abs() as f32));
    }
    LayerReport {
        name: name.to_owned(),
        shape: dense.shape.to_vec(),
        scheme,
        relative_error: if sums.1 > 0.0 { sums.0 / sums.1 } else { 0.0 },
        squared_error: sums.0,
        largest_error: sums.2,
        before: dense.dtype.packed_len(dense.data.len()).unwrap_or(0) as u64,
        after: parts(encoded).iter().map(|p| p.bytes.len() as u64).sum(),
    }
}

enum Refused {
    Edit(EditError),
    /// The opset of the function has no such form.
    Opset,
}

impl From<EditError> for Refused {
    fn from(e: EditError) -> Self {
        Self::Edit(e)
    }
}

fn stored(repack: &mut Repack, part: &Part) -> Result<Value, EditError> {
    repack.value(part.dtype, &part.shape, &part.bytes)
}

fn argument(value: Value) -> Argument {
    Argument::One(Binding::Value(value))
}

fn inputs<const N: usize>(all: [(&str, Value); N]) -> IndexMap<String, Argument> {
    all.into_iter().map(|(n, v)| (n.to_owned(), argument(v))).collect()
}

/// The operation that decodes a weight, in the form of its opset.
fn operation(
    repack: &mut Repack,
    encoded: &Encoded,
    opset: Opset,
    dense: &Dense<'_>,
    name: &str,
) -> Result<Made, Refused> {
    let made =
        |kind: &str, inputs| Made { kind: kind.to_owned(), inputs, attributes: IndexMap::new(), before: Vec::new() };
    if opset < Opset::Ios18 {
        return before_ios18(repack, encoded, opset, dense);
    }
    Ok(match encoded {
        Encoded::Table { indices, lut, vector } => {
            let mut inputs = inputs([("indices", stored(repack, indices)?), ("lut", stored(repack, lut)?)]);
            if *vector {
                inputs.insert("vector_axis".to_owned(), argument(Value::int(0)));
            }
            made("constexpr_lut_to_dense", inputs)
        }
        Encoded::Blocks { data, scale, offset } => {
            let mut inputs = inputs([("data", stored(repack, data)?), ("scale", stored(repack, scale)?)]);
            if let Some(offset) = offset {
                inputs.insert("offset".to_owned(), argument(stored(repack, offset)?));
            }
            made("constexpr_blockwise_shift_scale", inputs)
        }
        Encoded::Sparse { mask, data } => made(
            "constexpr_sparse_to_dense",
            inputs([("nonzero_data", stored(repack, data)?), ("mask", stored(repack, mask)?)]),
        ),
        Encoded::SparseTable { mask, indices, lut } => {
            let tensor = |dtype, shape: &[usize]| ValueType::Tensor(TensorType::fixed(dtype, shape));
            let (mask_name, data_name) = (format!("{name}_mask"), format!("{name}_nonzero"));
            let before = Operation {
                kind: "constexpr_lut_to_sparse".to_owned(),
                name: mask_name.clone(),
                inputs: inputs([
                    ("indices_mask", stored(repack, mask)?),
                    ("indices_nonzero_data", stored(repack, indices)?),
                    ("lut", stored(repack, lut)?),
                ]),
                outputs: vec![
                    NamedType { name: mask_name.clone(), ty: tensor(DataType::U1, dense.shape) },
                    NamedType { name: data_name.clone(), ty: tensor(dense.dtype, &indices.shape) },
                ],
                blocks: Vec::new(),
                attributes: IndexMap::new(),
            };
            let bind = |name: String| Argument::One(Binding::Name(name));
            let inputs = [("nonzero_data".to_owned(), bind(data_name)), ("mask".to_owned(), bind(mask_name))];
            Made { before: vec![before], ..made("constexpr_sparse_to_dense", inputs.into_iter().collect()) }
        }
    })
}

/// The forms of iOS 16: one table for a tensor, int8 with a scale per channel, sparse.
fn before_ios18(repack: &mut Repack, encoded: &Encoded, opset: Opset, dense: &Dense<'_>) -> Result<Made, Refused> {
    if opset < Opset::Ios16 {
        return Err(Refused::Opset);
    }
    let flat = |part: &Part, dtype| Part { dtype, shape: vec![part.bytes.len()], bytes: part.bytes.clone() };
    let extents: Vec<u8> = dense.shape.iter().flat_map(|&n| (n as u32).to_le_bytes()).collect();
    let shape = Value::tensor(DataType::U32, &[dense.shape.len()], extents);
    let (kind, attributes) = match encoded {
        Encoded::Table { indices, lut, vector: false } if lut.shape[0] == 1 && indices.dtype != DataType::U3 => {
            let entries = lut.shape[lut.shape.len() - 2];
            let table = Part { dtype: lut.dtype, shape: vec![entries], bytes: lut.bytes.clone() };
            let indices = stored(repack, &flat(indices, DataType::U8))?;
            ("constexpr_lut_to_dense", vec![("indices", indices), ("lut", stored(repack, &table)?), ("shape", shape)])
        }
        Encoded::Blocks { data, scale, offset }
            if data.dtype.bits() == Some(8) && scale.shape.iter().skip(1).all(|&n| n == 1) =>
        {
            let rows = scale.shape[0];
            let vector = |part: &Part| Part { dtype: part.dtype, shape: vec![rows], bytes: part.bytes.clone() };
            let zero = match offset {
                Some(offset) => stored(repack, &vector(offset))?,
                None => Value::tensor(data.dtype, &[], vec![0]),
            };
            let (data, scale) = (stored(repack, data)?, stored(repack, &vector(scale))?);
            (
                "constexpr_affine_dequantize",
                vec![("axis", Value::int(0)), ("quantized_data", data), ("scale", scale), ("zero_point", zero)],
            )
        }
        Encoded::Sparse { mask, data } => {
            let mask = stored(repack, &flat(mask, DataType::U8))?;
            (
                "constexpr_sparse_to_dense",
                vec![("mask", mask), ("nonzero_data", stored(repack, data)?), ("shape", shape)],
            )
        }
        _ => return Err(Refused::Opset),
    };
    let attributes = attributes.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    Ok(Made { kind: kind.to_owned(), inputs: IndexMap::new(), attributes, before: Vec::new() })
}
