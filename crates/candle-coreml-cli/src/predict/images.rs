//! Image files as the tensors that image features of ML Programs are: `[1, channels, height, width]`, values
//! 0 to 255 (scale and bias are operations of the program).

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_coreml::CoreMLModel;
use candle_coreml::description::{ColorLayout, FeatureDescription, FeatureType};
use image::{DynamicImage, GrayImage, ImageFormat, ImageReader, RgbImage};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::encoder::{TiffEncoder, colortype::Gray32Float};

use crate::{CommandResult, write};

type Failure = Box<dyn std::error::Error>;

/// The layout of an image feature.
fn layout(side: &str, name: &str, feature: Option<&FeatureDescription>) -> Result<ColorLayout, Failure> {
    match feature.map(|f| &f.ty) {
        Some(FeatureType::Image { layout, .. }) => Ok(*layout),
        Some(_) => Err(format!("{side} `{name}` is not an image").into()),
        None => Err(format!("the model has no {side} `{name}`").into()),
    }
}

/// Where red, green and blue stand among the channels.
fn order(layout: ColorLayout) -> [usize; 3] {
    if layout == ColorLayout::Bgr { [2, 1, 0] } else { [0, 1, 2] }
}

/// An image file as the tensor that an input takes.
pub(crate) fn load(model: &CoreMLModel, name: &str, file: &Path) -> Result<Tensor, Failure> {
    let layout = layout("input", name, model.function_description().input(name))?;
    let bad = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let reader = ImageReader::open(file).map_err(|e| bad(&e))?.with_guessed_format()?;
    if layout == ColorLayout::GrayscaleFloat16
        && reader.format() == Some(ImageFormat::Tiff)
        && let Some(image) = float_image(file).map_err(|e| bad(&e))?
    {
        return Ok(image);
    }
    let image = reader.decode().map_err(|e| bad(&e))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let planes: Vec<f32> = match layout {
        ColorLayout::Grayscale | ColorLayout::GrayscaleFloat16 => {
            image.to_luma8().into_raw().into_iter().map(f32::from).collect()
        }
        ColorLayout::Rgb | ColorLayout::Bgr => {
            let pixels = image.to_rgb8();
            order(layout).iter().flat_map(|&c| pixels.pixels().map(move |p| f32::from(p.0[c]))).collect()
        }
    };
    let channels = planes.len() / (width * height).max(1);
    Ok(Tensor::from_vec(planes, (1, channels, height, width), &Device::Cpu)?)
}

/// A TIFF of one channel of floats, with its values as they are; none for other pixels, which `image` reads.
fn float_image(file: &Path) -> Result<Option<Tensor>, Failure> {
    let mut decoder = Decoder::new(BufReader::new(File::open(file)?))?;
    if !matches!(decoder.colortype()?, tiff::ColorType::Gray(16 | 32 | 64)) {
        return Ok(None);
    }
    let (width, height) = decoder.dimensions()?;
    let values: Vec<f32> = match decoder.read_image()? {
        DecodingResult::F16(v) => v.into_iter().map(f32::from).collect(),
        DecodingResult::F32(v) => v,
        DecodingResult::F64(v) => v.into_iter().map(|v| v as f32).collect(),
        _ => return Ok(None),
    };
    Ok(Some(Tensor::from_vec(values, (1, 1, height as usize, width as usize), &Device::Cpu)?))
}

/// The format of a file that an image output goes to, if its name fits what the output is.
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

/// Whether an output is an image that this file can hold: before the model runs.
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
        let mixed = (0..plane).flat_map(|i| order(layout).map(|c| planes[c * plane + i])).collect();
        RgbImage::from_raw(width, height, mixed).map(DynamicImage::from)
    };
    let image = image.ok_or_else(|| format!("output `{name}` of shape {:?} is no image", pixels.dims()))?;
    image.write_to(&mut content, format)?;
    write::bytes(file, content.get_ref())
}
