//! Image files as the tensors that image inputs of ML Programs take: `[1, channels, height, width]`, values
//! 0 to 255 (scale and bias are operations of the program).

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_coreml::CoreMLModel;
use candle_coreml::description::{ColorLayout, FeatureType};

pub(crate) fn load(model: &CoreMLModel, name: &str, file: &Path) -> Result<Tensor, Box<dyn std::error::Error>> {
    let feature = model.function_description().input(name).ok_or_else(|| format!("the model has no input `{name}`"))?;
    let FeatureType::Image { layout, .. } = &feature.ty else {
        return Err(format!("input `{name}` is not an image").into());
    };
    let image = image::ImageReader::open(file)
        .map_err(|e| format!("{}: {e}", file.display()))?
        .with_guessed_format()?
        .decode()
        .map_err(|e| format!("{}: {e}", file.display()))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let planes: Vec<f32> = match layout {
        ColorLayout::Grayscale => image.to_luma8().into_raw().into_iter().map(f32::from).collect(),
        ColorLayout::GrayscaleFloat16 => match &image {
            // 32-bit float TIFF: the values as they are.
            image::DynamicImage::ImageRgb32F(i) => i.pixels().map(|p| p.0[0]).collect(),
            other => other.to_luma8().into_raw().into_iter().map(f32::from).collect(),
        },
        ColorLayout::Rgb | ColorLayout::Bgr => {
            let pixels = image.to_rgb8();
            let order = if matches!(layout, ColorLayout::Rgb) { [0, 1, 2] } else { [2, 1, 0] };
            order.iter().flat_map(|&c| pixels.pixels().map(move |p| f32::from(p.0[c]))).collect()
        }
    };
    let channels = if matches!(layout, ColorLayout::Rgb | ColorLayout::Bgr) { 3 } else { 1 };
    Ok(Tensor::from_vec(planes, (1, channels, height, width), &Device::Cpu)?)
}
