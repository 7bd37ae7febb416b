//! Image files (PNG, JPEG, TIFF) as tensors for image inputs: `[1, channels, height, width]`, values 0 to 255 (scale
//! and bias are operations of the program).
//!
//! Files are untrusted: only regular files are opened, images of a size that the model does not accept are rejected
//! before decoding, and decoders get [`Limits`].

use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType};
use coreml_format::file::{self, FileCause, FileError};
use coreml_framework::shape;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use tiff::decoder::{Decoder, DecodingResult};

/// Limits on decoding an image.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of pixels; 2²⁶ (8,192 × 8,192) by default.
    pub pixels: u64,
    /// Maximum memory of a decoder for pixels and tables, in bytes; 1 GiB by default.
    pub bytes: u64,
    /// Maximum number of JPEG scans; 512 by default, progressive files have about 10.
    pub scans: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pixels: 1 << 26, bytes: 1 << 30, scans: 512 }
    }
}

/// A file that can't be used as an image input.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// The cause.
    pub cause: ImageCause,
}

/// Cause of an [`ImageError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageCause {
    /// It can't be opened or read.
    #[error(transparent)]
    File(#[from] FileCause),
    /// It is not an image, does not match the input, or exceeds the limits.
    #[error("expected {expected}, found {found}")]
    Content {
        /// Expected content.
        expected: String,
        /// Found content.
        found: String,
    },
    /// Its pixels can't be decoded.
    #[error("a damaged or unusual image: {0}")]
    Decode(String),
}

impl ImageCause {
    fn content(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Content { expected: expected.into(), found: found.into() }
    }
}

impl From<io::Error> for ImageCause {
    fn from(e: io::Error) -> Self {
        Self::File(e.into())
    }
}

impl From<image::ImageError> for ImageCause {
    fn from(e: image::ImageError) -> Self {
        Self::Decode(e.to_string())
    }
}

impl From<tiff::TiffError> for ImageCause {
    fn from(e: tiff::TiffError) -> Self {
        Self::Decode(e.to_string())
    }
}

impl From<FileError> for ImageError {
    fn from(e: FileError) -> Self {
        Self { path: e.path, cause: e.cause.into() }
    }
}

/// Indices of red, green and blue in this channel layout.
pub fn color_order(layout: ColorLayout) -> [usize; 3] {
    crate::pixels::color_order(layout)
}

/// Reads an image file as a tensor for an image input: `[1, 3, height, width]` in the input's channel order, or
/// `[1, 1, height, width]`. Colours convert to gray by luminance; a float TIFF keeps its values if the input is 16-bit
/// grayscale, everything else has 8 bits.
///
/// # Errors
/// [`ImageError`] naming the file, expected and found; also if the feature is not an image.
pub fn read(path: &Path, feature: &FeatureDescription, limits: &Limits) -> Result<Tensor, ImageError> {
    let mut source = BufReader::new(file::open(path)?);
    read_from(&mut source, feature, limits).map_err(|cause| ImageError { path: path.to_owned(), cause })
}

/// [`read`] from any source.
///
/// # Errors
/// Same as [`read`].
pub fn read_from(
    source: &mut (impl BufRead + Seek),
    feature: &FeatureDescription,
    limits: &Limits,
) -> Result<Tensor, ImageCause> {
    let FeatureType::Image { layout, .. } = feature.ty else {
        return Err(ImageCause::content(feature.ty.in_words(), "an image"));
    };
    let channels = if matches!(layout, ColorLayout::Rgb | ColorLayout::Bgr) { 3 } else { 1 };
    let check = |(width, height): (u32, u32)| {
        let pixels = u64::from(width) * u64::from(height);
        if pixels > limits.pixels {
            let expected = format!("an image of at most {} pixels", limits.pixels);
            return Err(ImageCause::content(expected, format!("{width} × {height}")));
        }
        let dims = [1, channels, height as usize, width as usize];
        let unfit = |e: shape::ShapeError| ImageCause::content(e.expected, format!("an image of shape {dims:?}"));
        shape::check(feature, &dims).map_err(unfit)?;
        Ok(dims)
    };
    let unknown = || ImageCause::content("a PNG, JPEG or TIFF image", "another file");
    let known = |f: &ImageFormat| matches!(f, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Tiff);
    let guessed = ImageReader::new(&mut *source).with_guessed_format()?.format();
    let format = guessed.filter(known).ok_or_else(unknown)?;
    let tensor = |planes: Vec<f32>, dims: [usize; 4]| {
        Tensor::from_vec(planes, &dims, &Device::Cpu).map_err(|e| ImageCause::Decode(e.to_string()))
    };
    if format == ImageFormat::Jpeg {
        check_scans(source, limits.scans)?;
    }
    if format == ImageFormat::Tiff
        && layout == ColorLayout::GrayscaleFloat16
        && let Some((planes, dims)) = floats(source, limits, check)?
    {
        return tensor(planes, dims);
    }
    source.rewind()?;
    let mut reader = ImageReader::with_format(source, format);
    let mut memory = image::Limits::default();
    memory.max_alloc = Some(limits.bytes);
    reader.limits(memory.clone());
    let mut decoder = reader.into_decoder()?;
    let dims = check(decoder.dimensions())?;
    memory.reserve(decoder.total_bytes())?;
    decoder.set_limits(memory)?;
    let image = DynamicImage::from_decoder(decoder)?;
    let planes: Vec<f32> = if channels == 1 {
        image.into_luma8().into_raw().into_iter().map(f32::from).collect()
    } else {
        let pixels = image.into_rgb8();
        color_order(layout).iter().flat_map(|&c| pixels.pixels().map(move |p| f32::from(p.0[c]))).collect()
    };
    tensor(planes, dims)
}

/// Values and shape of a single-channel float TIFF; `None` for other pixel formats, which `image` decodes.
fn floats(
    source: &mut (impl BufRead + Seek),
    limits: &Limits,
    check: impl Fn((u32, u32)) -> Result<[usize; 4], ImageCause>,
) -> Result<Option<(Vec<f32>, [usize; 4])>, ImageCause> {
    source.rewind()?;
    let mut memory = tiff::decoder::Limits::default();
    memory.decoding_buffer_size = usize::try_from(limits.bytes).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new(source)?.with_limits(memory);
    if !matches!(decoder.colortype()?, tiff::ColorType::Gray(16 | 32 | 64)) {
        return Ok(None);
    }
    let dims = check(decoder.dimensions()?)?;
    let values: Vec<f32> = match decoder.read_image()? {
        DecodingResult::F16(v) => v.into_iter().map(f32::from).collect(),
        DecodingResult::F32(v) => v,
        DecodingResult::F64(v) => v.into_iter().map(|v| v as f32).collect(),
        _ => return Ok(None),
    };
    Ok(Some((values, dims)))
}

/// Rejects a JPEG with too many scans: each may be a pass over all pixels, and the decoder does not count them.
///
/// In coded data, 0xFF is followed only by 0 or a restart marker, so no scan goes uncounted.
fn check_scans(source: &mut (impl BufRead + Seek), most: usize) -> Result<(), ImageCause> {
    source.seek(SeekFrom::Start(0))?;
    let (mut scans, mut marker) = (0_usize, false);
    loop {
        let piece = source.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        for &byte in piece {
            scans += usize::from(marker && byte == 0xda);
            marker = byte == 0xff;
        }
        if scans > most {
            return Err(ImageCause::content(format!("a JPEG of at most {most} scans"), "more"));
        }
        let n = piece.len();
        source.consume(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::description::ShapeConstraint;
    use std::io::Cursor;

    const SMALL: Limits = Limits { pixels: 4096, bytes: 1 << 16, scans: 4 };

    /// An image input of 2 × 2 pixels, or of any size.
    fn feature(layout: ColorLayout, sizes: ShapeConstraint) -> FeatureDescription {
        let ty = FeatureType::Image { layout, width: 2, height: 2, sizes };
        FeatureDescription { name: "x".to_owned(), description: String::new(), ty, optional: false }
    }

    fn file(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut content = Cursor::new(Vec::new());
        let pixels = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]));
        pixels.write_to(&mut content, format).expect("encoded");
        content.into_inner()
    }

    fn read(bytes: &[u8], sizes: ShapeConstraint, limits: &Limits) -> Result<Tensor, String> {
        let feature = feature(ColorLayout::Rgb, sizes);
        read_from(&mut Cursor::new(bytes), &feature, limits).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_are_refused_before_pixels_are_decoded() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Tiff] {
            let whole = file(64, 64, format);
            assert_eq!(read(&whole, ShapeConstraint::Unspecified, &SMALL).expect("pixels").dims(), [1, 3, 64, 64]);
            let error = read(&whole, ShapeConstraint::Fixed, &SMALL).expect_err("64 × 64");
            assert_eq!(error, "expected an image, shape [1, 3, 2, 2], found an image of shape [1, 3, 64, 64]");
            let few = Limits { pixels: 4095, ..SMALL };
            let error = read(&whole, ShapeConstraint::Unspecified, &few).expect_err("4,096 pixels");
            assert_eq!(error, "expected an image of at most 4095 pixels, found 64 × 64");
            // 12,288 bytes of pixel data.
            let few = Limits { bytes: 12_287, ..SMALL };
            assert!(read(&whole, ShapeConstraint::Unspecified, &few).is_err(), "{format:?}");
        }
        // No pixel data: the size is rejected first.
        let whole = file(64, 64, ImageFormat::Png);
        let data = whole.windows(4).position(|w| w == b"IDAT").expect("pixels");
        let error = read(&whole[..data + 8], ShapeConstraint::Fixed, &SMALL).expect_err("64 × 64");
        assert!(error.contains("[1, 3, 2, 2]"), "{error}");
        assert!(read(&whole[..data + 8], ShapeConstraint::Unspecified, &SMALL).is_err());
    }

    #[test]
    fn jpegs_of_many_scans_are_refused() {
        let whole = file(2, 2, ImageFormat::Jpeg);
        assert!(read(&whole, ShapeConstraint::Fixed, &SMALL).is_ok());
        let many = [whole.as_slice(), &[0xff, 0xda].repeat(4)].concat();
        let error = read(&many, ShapeConstraint::Fixed, &SMALL).expect_err("five scans");
        assert_eq!(error, "expected a JPEG of at most 4 scans, found more");
    }

    #[test]
    fn what_is_no_image_or_no_image_input_is_refused() {
        assert!(
            read(b"P6 1 1 255 abc", ShapeConstraint::Fixed, &SMALL).expect_err("PPM").contains("PNG, JPEG or TIFF")
        );
        assert!(read(b"", ShapeConstraint::Fixed, &SMALL).is_err());
        let number =
            FeatureDescription { ty: FeatureType::Double, ..feature(ColorLayout::Rgb, ShapeConstraint::Fixed) };
        let image = file(2, 2, ImageFormat::Png);
        let error = read_from(&mut Cursor::new(image), &number, &SMALL).expect_err("a number").to_string();
        assert_eq!(error, "expected a number, found an image");
    }
}
