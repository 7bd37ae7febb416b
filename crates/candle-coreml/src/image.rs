//! Image outputs of a model as tensors `[1, channels, height, width]`.
//!
//! ML Programs compute floats; images hold what fits their pixel format.

use candle_core::{DType, Device, Tensor};
use coreml_format::description::ColorLayout;

use crate::error::{Error, Result};

/// Converts an output described as an image to its pixel format: 8-bit channels (`U8`, in layout order) round to
/// nearest, ties to even, and saturate at 0 and 255 (NaN: 0); 16-bit grayscale stays `F16`.
pub(crate) fn pixels(name: &str, layout: ColorLayout, values: &Tensor) -> Result<Tensor> {
    let channels = if matches!(layout, ColorLayout::Rgb | ColorLayout::Bgr) { 3 } else { 1 };
    if !matches!(values.dims(), [1, c, _, _] if *c == channels) {
        return Err(Error::Output {
            name: name.to_owned(),
            expected: format!("an image [1, {channels}, height, width]"),
            found: format!("{:?}", values.dims()),
        });
    }
    match (layout, values.dtype()) {
        (ColorLayout::GrayscaleFloat16, DType::F16) | (_, DType::U8) => Ok(values.clone()),
        (ColorLayout::GrayscaleFloat16, _) => Ok(values.to_dtype(DType::F16)?),
        _ => {
            let floats: Vec<f32> = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            // Float-to-integer casts saturate.
            let bytes: Vec<u8> = floats.into_iter().map(|v| v.round_ties_even() as u8).collect();
            Ok(Tensor::from_vec(bytes, values.dims(), &Device::Cpu)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_become_pixels_of_their_layout() {
        let values = [-3.0f32, 0.5, 1.5, 254.6, 300.0, f32::NAN];
        let t = Tensor::new(&values, &Device::Cpu).and_then(|t| t.reshape((1, 1, 2, 3))).expect("a tensor");
        let bytes = pixels("y", ColorLayout::Grayscale, &t).expect("an image");
        assert_eq!(bytes.flatten_all().and_then(|t| t.to_vec1::<u8>()).expect("bytes"), [0, 0, 2, 255, 255, 0]);
        assert_eq!(pixels("y", ColorLayout::Grayscale, &bytes).expect("already one").dtype(), DType::U8);
        let halves = pixels("y", ColorLayout::GrayscaleFloat16, &t).expect("an image");
        assert_eq!((halves.dtype(), halves.dims()), (DType::F16, t.dims()));
        let message = pixels("y", ColorLayout::Rgb, &t).expect_err("one channel").to_string();
        assert!(message.contains("`y`") && message.contains("[1, 3, height, width]"), "{message}");
        assert!(pixels("y", ColorLayout::Grayscale, &t.squeeze(0).expect("rank 3")).is_err());
    }
}
