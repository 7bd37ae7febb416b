//! Pixels in memory, row by row with interleaved channels, as tensors for image inputs and back.
//!
//! Tensors are `[1, channels, height, width]` with channels in layout order; pixels are red, green, blue whatever the
//! layout, as image libraries hold them.

use candle_core::{DType, Device, Tensor};
use coreml_format::description::ColorLayout;

use crate::error::{Error, Result};

/// Samples of an image, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Red, green, blue, of 8 bits.
    Rgb(Vec<u8>),
    /// Gray, of 8 bits.
    Gray(Vec<u8>),
    /// Gray, as floats.
    GrayFloat(Vec<f32>),
}

impl Pixels {
    fn kind(&self) -> &'static str {
        match self {
            Self::Rgb(_) => "pixels of red, green and blue",
            Self::Gray(_) => "gray pixels of 8 bits",
            Self::GrayFloat(_) => "gray pixels as floats",
        }
    }

    fn samples(&self) -> usize {
        match self {
            Self::Rgb(samples) | Self::Gray(samples) => samples.len(),
            Self::GrayFloat(samples) => samples.len(),
        }
    }
}

/// Tensor of pixels for an image input of this layout: F32, samples 0 to 255 (of floats: as they are).
///
/// # Errors
/// [`Error::Input`] with the name of the input, if the pixels are of another kind than the layout, or not
/// `height * width`.
pub fn to_tensor(name: &str, layout: ColorLayout, width: usize, height: usize, pixels: &Pixels) -> Result<Tensor> {
    let (kind, channels) = match layout {
        ColorLayout::Rgb | ColorLayout::Bgr => ("pixels of red, green and blue", 3),
        ColorLayout::Grayscale => ("gray pixels of 8 bits", 1),
        ColorLayout::GrayscaleFloat16 => ("gray pixels as floats", 1),
    };
    let samples = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
    if pixels.kind() != kind || samples != Some(pixels.samples()) {
        return Err(Error::Input {
            name: name.to_owned(),
            expected: format!("{kind}, {width} × {height}"),
            found: format!("{} samples of {}", pixels.samples(), pixels.kind()),
        });
    }
    let planes: Vec<f32> = match pixels {
        Pixels::Rgb(rgb) => {
            let order = color_order(layout);
            order.iter().flat_map(|&c| rgb.iter().skip(c).step_by(3).map(|&s| f32::from(s))).collect()
        }
        Pixels::Gray(gray) => gray.iter().map(|&s| f32::from(s)).collect(),
        Pixels::GrayFloat(gray) => gray.clone(),
    };
    Ok(Tensor::from_vec(planes, (1, channels, height, width), &Device::Cpu)?)
}

/// Width, height and pixels of an image output of this layout.
///
/// # Errors
/// [`Error::Output`] with the name of the output, if the tensor is no image of this layout.
pub fn from_tensor(name: &str, layout: ColorLayout, tensor: &Tensor) -> Result<(usize, usize, Pixels)> {
    let image = crate::image::pixels(name, layout, tensor)?;
    let (_, _, height, width) = image.dims4()?;
    let flat = image.flatten_all()?;
    let pixels = match layout {
        ColorLayout::GrayscaleFloat16 => Pixels::GrayFloat(flat.to_dtype(DType::F32)?.to_vec1()?),
        ColorLayout::Grayscale => Pixels::Gray(flat.to_vec1()?),
        ColorLayout::Rgb | ColorLayout::Bgr => {
            let planes: Vec<u8> = flat.to_vec1()?;
            let plane = width * height;
            let order = color_order(layout);
            Pixels::Rgb((0..plane).flat_map(|i| order.map(|c| planes[c * plane + i])).collect())
        }
    };
    Ok((width, height, pixels))
}

/// Indices of red, green and blue in this layout, and of its channels among them.
pub(crate) const fn color_order(layout: ColorLayout) -> [usize; 3] {
    if matches!(layout, ColorLayout::Bgr) { [2, 1, 0] } else { [0, 1, 2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_planes_in_layout_order_and_come_back() {
        let pixels = Pixels::Rgb(vec![1, 2, 3, 4, 5, 6]);
        for (layout, planes) in
            [(ColorLayout::Rgb, [1f32, 4.0, 2.0, 5.0, 3.0, 6.0]), (ColorLayout::Bgr, [3.0, 6.0, 2.0, 5.0, 1.0, 4.0])]
        {
            let tensor = to_tensor("x", layout, 2, 1, &pixels).expect("an image");
            assert_eq!(tensor.dims(), [1, 3, 1, 2]);
            assert_eq!(tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("samples"), planes);
            assert_eq!(from_tensor("x", layout, &tensor).expect("pixels"), (2, 1, pixels.clone()));
        }
    }

    #[test]
    fn gray_keeps_its_samples() {
        let gray = Pixels::Gray(vec![0, 255, 7]);
        let tensor = to_tensor("x", ColorLayout::Grayscale, 1, 3, &gray).expect("an image");
        assert_eq!(from_tensor("x", ColorLayout::Grayscale, &tensor).expect("pixels"), (1, 3, gray));
        let float = Pixels::GrayFloat(vec![0.5, -2.0]);
        let tensor = to_tensor("x", ColorLayout::GrayscaleFloat16, 2, 1, &float).expect("an image");
        assert_eq!(from_tensor("x", ColorLayout::GrayscaleFloat16, &tensor).expect("pixels"), (2, 1, float));
    }

    #[test]
    fn other_pixels_and_other_sizes_are_refused_by_name() {
        let gray = Pixels::Gray(vec![0; 4]);
        for (layout, width) in
            [(ColorLayout::Rgb, 2), (ColorLayout::Grayscale, 3), (ColorLayout::Grayscale, usize::MAX)]
        {
            let error = to_tensor("photo", layout, width, 2, &gray).expect_err("refused").to_string();
            assert!(error.contains("`photo`") && error.contains("gray pixels of 8 bits"), "{error}");
        }
    }
}
