//! Operations that the caller computes ([`custom`](crate::custom)). Lowering makes them; no file has them.
//!
//! Tensors are copied on both sides: classes of the caller may keep what they get and what they return, and buffers of the
//! engine are used again.

use candle_core::{DType, Device, Tensor};
use coreml_format::dtype::DataType;
use coreml_format::program::ValueType;
use coreml_values::FeatureValue;

use crate::array::Array;
use crate::border;
use crate::budget;
use crate::build::OpBuilder;
use crate::custom::{Custom, CustomFailure};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::{FromValue, Value};

pub(super) const OPS: &[OpSpec] =
    &[OpSpec::impure("engine.custom_layer", &[], layer), OpSpec::impure("engine.custom_model", &[], model)];

/// The class of the caller at `instance`, and its name.
fn class(b: &OpBuilder<'_>) -> Result<(String, Custom), OpError> {
    let (name, instance): (String, i64) = (b.attr("class")?, b.attr("instance")?);
    let found = usize::try_from(instance).ok().and_then(|i| b.custom.get(i)).cloned();
    Ok((name.clone(), found.ok_or(OpError::Unsupported(format!("the class `{name}`, which is not supplied")))?))
}

fn own(t: &Tensor) -> Result<Tensor, OpError> {
    budget::claim(t.elem_count().saturating_mul(t.dtype().size_in_bytes()))?;
    Ok(t.to_device(&Device::Cpu)?.contiguous()?.copy()?)
}

/// `engine.custom_layer(x…, class, instance)` → the outputs of the layer, fp32.
fn layer(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, count) = (b.slots("x")?, b.op().outputs.len());
    let (name, Custom::Layer(layer)) = class(b)? else {
        return Err(OpError::data("a model in place of a layer"));
    };
    b.run(move |f| {
        let mut inputs = Vec::with_capacity(x.len());
        for &slot in &x {
            let array = f.array(slot)?;
            inputs.push(own(array.floats()?)?);
        }
        let failed = |source| OpError::Custom { class: name.clone(), source };
        let outputs = layer.evaluate(&inputs).map_err(failed)?;
        if outputs.len() != count {
            return Err(failed(format!("expected {count} outputs, found {}", outputs.len()).into()));
        }
        let value = |t: &Tensor| Ok(Array::new(own(&t.to_dtype(DType::F32)?)?, DataType::F32)?.into());
        outputs.iter().map(value).collect()
    })
}

/// `engine.custom_model(x…, given…, names, class, instance)` → the outputs of the model, by name.
///
/// `names`: features of `x`; those whose `given` is 0 are left out.
fn model(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, given, names) = (b.slots("x")?, b.slots("given")?, b.attr::<Vec<String>>("names")?);
    let returned: Vec<String> = b.attr("returned")?;
    let declared: Vec<ValueType> = b.op().outputs.iter().map(|o| o.ty.clone()).collect();
    let (class, Custom::Model(model)) = class(b)? else {
        return Err(OpError::data("a layer in place of a model"));
    };
    if names.len() != x.len() || given.len() != x.len() || returned.len() != declared.len() {
        return Err(OpError::shape(format!("{} names of {} features", names.len(), x.len())));
    }
    b.run(move |f| {
        let mut inputs = Vec::with_capacity(x.len());
        for ((&slot, &given), name) in x.iter().zip(&given).zip(&names) {
            if f64::from_value("given", f.value(given)?)? != 0.0 {
                inputs.push((name.as_str(), feature(f.value(slot)?)?));
            }
        }
        let failed = |source: CustomFailure| OpError::Custom { class: class.clone(), source };
        let mut outputs = model.predict(&inputs).map_err(failed)?;
        let mut found = Vec::with_capacity(returned.len());
        for (name, ty) in returned.iter().zip(&declared) {
            let place = outputs.iter().position(|(output, _)| output == name);
            let place = place.ok_or_else(|| failed(format!("it returns no `{name}`").into()))?;
            let (_, value) = outputs.swap_remove(place);
            let kind = value.kind();
            let made = value_of(value, ty)?;
            found
                .push(made.ok_or_else(|| failed(format!("`{name}`: a {kind} of another type than described").into()))?);
        }
        match outputs.first() {
            Some((name, _)) => Err(failed(format!("it returns `{name}`, which is not described").into())),
            None => Ok(found),
        }
    })
}

/// A value as the caller sees it.
fn feature(value: &Value) -> Result<FeatureValue, OpError> {
    Ok(match border::output(value, None, &Device::Cpu)? {
        FeatureValue::Tensor(t) if t.rank() == 0 && t.dtype() == DType::F64 => FeatureValue::Double(t.to_scalar()?),
        FeatureValue::Tensor(t) if t.rank() == 0 && t.dtype() == DType::I64 => FeatureValue::Int64(t.to_scalar()?),
        FeatureValue::Tensor(t) => FeatureValue::Tensor(own(&t)?),
        other => other,
    })
}

/// A value of the caller as one of the declared type; `None` if it does not fit.
fn value_of(value: FeatureValue, ty: &ValueType) -> Result<Option<Value>, OpError> {
    if let Some(value) = border::given(&value, ty)? {
        return Ok(Some(value));
    }
    let (Some(tensor), Some(declared)) = (value.numbers_as_tensor()?, ty.tensor()) else { return Ok(None) };
    let scalar = declared.shape.is_empty() && tensor.elem_count() == 1;
    let tensor = own(&if scalar { tensor.reshape(())? } else { tensor })?;
    if !border::shape_fits(tensor.dims(), declared) || declared.dtype == DataType::String {
        return Ok(None);
    }
    if declared.dtype == DataType::F64 {
        return border::doubles(&tensor).map(Some);
    }
    if tensor.dtype().is_float() != declared.dtype.is_float() {
        return Ok(None);
    }
    Ok(Some(Array::new(tensor, declared.dtype)?.into()))
}
