//! Fuzz targets of model inputs. Any outcome is accepted except a panic, a hang or a tensor beyond the limits. The
//! tests of `candle-coreml` replay the corpus with the same functions.

use std::io::Cursor;

use candle_coreml::description::{ColorLayout, FeatureDescription, FeatureType, ShapeConstraint};
use candle_coreml::format::dtype::DataType;
use candle_coreml::{images, tensors};

/// A tensor file: safetensors, `.npz`, `.npy`. Each tensor is converted to all input types.
pub fn tensors(bytes: &[u8]) {
    let limits = tensors::Limits { bytes: 1 << 20, header: 1 << 16, tensors: 64 };
    let Ok(all) = tensors::read_from(&mut Cursor::new(bytes), "x", &limits) else { return };
    assert!(all.len() <= limits.tensors);
    let size: usize = all.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    assert!(size as u64 <= limits.bytes, "{size} bytes");
    for tensor in all.values() {
        for declared in [DataType::F16, DataType::F32, DataType::I32, DataType::I8, DataType::U16, DataType::Bool] {
            if let Ok(value) = coreml_engine::convert::to_declared(tensor, declared) {
                assert_eq!(value.dims(), tensor.dims());
                // An accepted value converts again, to itself.
                let again = coreml_engine::convert::to_declared(&value, declared).expect("a value of the type");
                assert_eq!(again.dtype(), value.dtype());
            }
        }
    }
}

/// A byte that selects the input layout, then an image file.
pub fn images(bytes: &[u8]) {
    let Some((choice, file)) = bytes.split_first() else { return };
    let layouts = [ColorLayout::Rgb, ColorLayout::Bgr, ColorLayout::Grayscale, ColorLayout::GrayscaleFloat16];
    let layout = layouts[usize::from(*choice) % layouts.len()];
    let limits = images::Limits { pixels: 1 << 14, bytes: 4 << 20, scans: 64 };
    let ty = FeatureType::Image { layout, width: 0, height: 0, sizes: ShapeConstraint::Unspecified };
    let feature = FeatureDescription { name: "x".to_owned(), description: String::new(), ty, optional: false };
    let Ok(tensor) = images::read_from(&mut Cursor::new(file), &feature, &limits) else { return };
    let channels = if matches!(layout, ColorLayout::Rgb | ColorLayout::Bgr) { 3 } else { 1 };
    let [1, c, height, width] = *tensor.dims() else { panic!("{:?}", tensor.dims()) };
    assert!(c == channels && (height * width) as u64 <= limits.pixels, "{:?}", tensor.dims());
    let values: Vec<f32> = tensor.flatten_all().and_then(|t| t.to_vec1()).expect("floats");
    let in_range = |v: &f32| (0.0..=255.0).contains(v);
    assert!(layout == ColorLayout::GrayscaleFloat16 || values.iter().all(in_range));
}
