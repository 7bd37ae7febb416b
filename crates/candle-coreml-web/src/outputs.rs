//! Outputs of a prediction, sorted by how the page shows them.

use candle_core::{DType, Tensor};
use candle_coreml::description::FeatureType;
use candle_coreml::pixels::{self, Pixels};
use candle_coreml::{CoreMLModel, FeatureValue};
use serde_json::{Value, json};

use crate::failure::Failure;

/// The summary of an output: its `kind` and what is needed to show it; numbers of tensors and pixels of images are asked for
/// by name.
pub(crate) fn summary(model: &CoreMLModel, name: &str, value: &FeatureValue) -> Result<Value, Failure> {
    let described = model.function_description().output(name).map(|f| &f.ty);
    Ok(match (value, described) {
        (FeatureValue::Tensor(tensor), Some(FeatureType::Image { .. })) => {
            let (_, _, height, width) = tensor.dims4()?;
            json!({ "name": name, "kind": "image", "width": width, "height": height })
        }
        (FeatureValue::Tensor(tensor), Some(FeatureType::Int64 | FeatureType::Double)) => {
            json!({ "name": name, "kind": "value", "value": numbers(tensor)?.first() })
        }
        (FeatureValue::Tensor(tensor), _) => {
            json!({ "name": name, "kind": "tensor", "dtype": tensor.dtype().as_str(), "shape": tensor.dims() })
        }
        (FeatureValue::Dictionary(entries), _) => {
            let mut entries: Vec<(String, f64)> =
                entries.iter().map(|(key, value)| (key.clone().into(), *value)).collect();
            entries.sort_by(|a, b| b.1.total_cmp(&a.1));
            json!({ "name": name, "kind": "classes", "classes": entries })
        }
        (FeatureValue::Int64(n), _) => json!({ "name": name, "kind": "value", "value": n }),
        (FeatureValue::Double(x), _) => json!({ "name": name, "kind": "value", "value": x }),
        (FeatureValue::String(text), _) => json!({ "name": name, "kind": "value", "value": text }),
        (FeatureValue::Int64s(all), _) => json!({ "name": name, "kind": "list", "values": all }),
        (FeatureValue::Strings(all), _) => json!({ "name": name, "kind": "list", "values": all }),
    })
}

/// All numbers of a tensor, in order.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>, Failure> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Pixels of an image output: red, green, blue and an opaque alpha. Floats from 0 to 1 become gray.
pub(crate) fn rgba(model: &CoreMLModel, name: &str, tensor: &Tensor) -> Result<Vec<u8>, Failure> {
    let Some(FeatureType::Image { layout, .. }) = model.function_description().output(name).map(|f| &f.ty) else {
        return Err(Failure::new(format!("output `{name}` is not an image")));
    };
    let (_, _, pixels) = pixels::from_tensor(name, *layout, tensor)?;
    Ok(match pixels {
        Pixels::Rgb(rgb) => rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
        Pixels::Gray(gray) => gray.into_iter().flat_map(|g| [g, g, g, 255]).collect(),
        Pixels::GrayFloat(gray) => {
            let byte = |x: f32| (x * 255.0).round().clamp(0.0, 255.0) as u8;
            gray.into_iter().map(byte).flat_map(|g| [g, g, g, 255]).collect()
        }
    })
}
