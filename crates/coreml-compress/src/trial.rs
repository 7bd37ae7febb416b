//! Single weights in a form, to measure what each costs.

use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::{Block, Value};
use coreml_format::task;
use coreml_write::edit::{self, Constants, EditError, Weight, packed};

use crate::encode::{Dense, Encoded, Part};
use crate::package;
use crate::scheme::{Options, Scheme};

/// Weights that `options` compress, each name once.
///
/// # Errors
/// [`EditError`] if the model is no ML Program.
pub fn candidates(model: &Model, options: &Options) -> edit::Result<Vec<Weight>> {
    let mut out: Vec<Weight> = Vec::new();
    for weight in edit::list(model)? {
        let known = out.iter().any(|w| w.name == weight.name);
        let ty = DataType::from_name(&weight.dtype).map(|dtype| (dtype, weight.shape.clone()));
        if !known && package::scheme(options, &weight.name, ty, &weight.uses).is_some() {
            out.push(weight);
        }
    }
    Ok(out)
}

/// The model with one weight, in every function that has it, replaced by the numbers that a form keeps of it, and the
/// bytes that the form takes; `None` if the form does not fit the shape.
///
/// # Errors
/// [`EditError::Invalid`] if no function has the weight, or it is not finite.
pub fn trial(model: &Model, name: &str, scheme: Scheme) -> edit::Result<Option<(Model, u64)>> {
    let source = edit::program(model)?;
    let wrong = |expected: &str, found: String| EditError::Invalid {
        path: model.path.clone(),
        place: format!("weight `{name}`"),
        expected: expected.to_owned(),
        found,
    };
    let (mut program, mut bytes) = (source.clone(), None);
    for (key, f) in &source.functions {
        let constants = Constants::of(&f.block, &model.weights);
        if constants.get(name).is_none() {
            continue;
        }
        let weight = constants.decode(name).map_err(|e| wrong("a weight", e))?;
        if let Some(at) = weight.data.iter().position(|v| !v.is_finite()) {
            return Err(wrong("finite numbers", format!("{} at {at}", weight.data[at])));
        }
        if scheme.fits(&weight.shape).is_err() {
            return Ok(None);
        }
        let dense = Dense { dtype: weight.dtype, shape: &weight.shape, data: &weight.data, weights: None };
        let (encoded, decoded) = dense.encode(scheme).map_err(|e| match task::is_cancelled() {
            true => EditError::cancelled(&model.path),
            false => wrong(&e, format!("shape {:?}", weight.shape)),
        })?;
        bytes = Some(parts(&encoded).iter().map(|p| p.bytes.len() as u64).sum());
        let stored = packed::floats(weight.dtype, &decoded).ok_or_else(|| wrong("floats", weight.dtype.to_string()))?;
        if let Some(f) = program.functions.get_mut(key) {
            put(&mut f.block, name, &Value::tensor(weight.dtype, &weight.shape, stored));
        }
    }
    let bytes = bytes.ok_or_else(|| wrong("a weight of this name", "none".to_owned()))?;
    Ok(Some((Model { body: Body::Program(program), ..model.clone() }, bytes)))
}

/// Parts of an encoded weight.
pub(crate) fn parts(encoded: &Encoded) -> Vec<&Part> {
    match encoded {
        Encoded::Table { indices, lut, .. } => vec![indices, lut],
        Encoded::Blocks { data, scale, offset } => {
            [Some(data), Some(scale), offset.as_ref()].into_iter().flatten().collect()
        }
        Encoded::Sparse { mask, data } => vec![mask, data],
        Encoded::SparseTable { mask, indices, lut } => vec![mask, indices, lut],
    }
}

fn put(block: &mut Block, name: &str, value: &Value) {
    for op in &mut block.operations {
        if op.outputs.len() == 1 && op.outputs[0].name == name {
            op.kind = "const".to_owned();
            op.inputs.clear();
            op.attributes = [("val".to_owned(), value.clone())].into_iter().collect();
        }
        op.blocks.iter_mut().for_each(|nested| put(nested, name, value));
    }
}
