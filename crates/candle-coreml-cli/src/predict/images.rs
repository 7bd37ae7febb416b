//! Image files for image inputs and outputs, `[1, channels, height, width]`.

use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Tensor};
use candle_coreml::CoreMLModel;
use candle_coreml::description::{ColorLayout, FeatureDescription, FeatureType};
use candle_coreml::images::{self, Resize};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use tiff::encoder::{TiffEncoder, colortype::Gray32Float};

use crate::{CommandResult, write};

type Failure = Box<dyn std::error::Error>;

/// Colour layout of an image feature.
fn layout(side: &str, name: &str, feature: Option<&FeatureDescription>) -> Result<ColorLayout, Failure> {
    match feature.map(|f| &f.ty) {
        Some(FeatureType::Image { layout, .. }) => Ok(*layout),
        Some(_) => Err(format!("{side} `{name}` is not an image").into()),
        None => Err(format!("the model has no {side} `{name}`").into()),
    }
}

/// Loads an image file as an input tensor.
pub(crate) fn load(model: &CoreMLModel, name: &str, file: &Path, resize: Option<Resize>) -> Result<Tensor, Failure> {
    let feature = model.function_description().input(name);
    layout("input", name, feature)?;
    let feature = feature.ok_or("an input")?;
    let reader = images::Reader { resize, ..images::Reader::default() };
    reader.read(file, feature).map_err(|e| {
        let hint = if matches!(e.cause, images::ImageCause::Size { .. }) {
            "; --resize fit, crop or stretch brings it to size"
        } else {
            ""
        };
        format!("input `{name}`: {e}{hint}").into()
    })
}

/// File format for an image output, checked against its colour layout.
fn format(name: &str, layout: ColorLayout, file: &Path) -> Result<ImageFormat, Failure> {
    let format = ImageFormat::from_path(file).ok();
    let allowed: &[ImageFormat] = match layout {
        ColorLayout::GrayscaleFloat16 => &[ImageFormat::Tiff],
        _ => &[ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Tiff],
    };
    format.filter(|f| allowed.contains(f)).ok_or_else(|| {
        let endings: Vec<&str> = allowed.iter().flat_map(|f| f.extensions_str()).copied().collect();
        format!("{}: output `{name}` can be written as a file that ends in {}", file.display(), endings.join(", "))
            .into()
    })
}

/// Checks, before the model runs, that an output is an image and the file format can hold it.
pub(crate) fn check_output(model: &CoreMLModel, name: &str, file: &Path) -> CommandResult {
    let layout = layout("output", name, model.function_description().output(name))?;
    format(name, layout, file).map(drop)
}

/// Writes an image output, `[1, channels, height, width]`, to a file.
pub(crate) fn save(model: &CoreMLModel, name: &str, pixels: &Tensor, file: &Path) -> CommandResult {
    let layout = layout("output", name, model.function_description().output(name))?;
    let format = format(name, layout, file)?;
    let (_, channels, height, width) = pixels.dims4()?;
    let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
    let mut content = Cursor::new(Vec::new());
    if layout == ColorLayout::GrayscaleFloat16 {
        let values: Vec<f32> = pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        TiffEncoder::new(&mut content)?.write_image::<Gray32Float>(width, height, &values)?;
        return write::bytes(file, content.get_ref());
    }
    let planes: Vec<u8> = pixels.flatten_all()?.to_vec1()?;
    let image = if channels == 1 {
        GrayImage::from_raw(width, height, planes).map(DynamicImage::from)
    } else {
        let plane = planes.len() / channels.max(1);
        let mixed = (0..plane).flat_map(|i| images::color_order(layout).map(|c| planes[c * plane + i])).collect();
        RgbImage::from_raw(width, height, mixed).map(DynamicImage::from)
    };
    let image = image.ok_or_else(|| format!("output `{name}` of shape {:?} is no image", pixels.dims()))?;
    image.write_to(&mut content, format)?;
    write::bytes(file, content.get_ref())
}
