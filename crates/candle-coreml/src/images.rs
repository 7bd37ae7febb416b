//! Image files (PNG, JPEG, TIFF) as the tensors that image inputs take: `[1, channels, height, width]`, values 0 to 255 (scale
//! and bias are operations of the program).
//!
//! Files may come from strangers: only regular files are opened, an image of a size that the model does not take is refused
//! before its pixels are decoded, and decoders get [`Limits`].

use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use coreml_apple::shape;
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType};
use coreml_format::file::{self, FileCause, FileError};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use tiff::decoder::{Decoder, DecodingResult};

/// What decoding an image may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pixels, whatever the model takes; 2²⁶ (8,192 × 8,192) by default.
    pub pixels: u64,
    /// Bytes that a decoder may take for pixels and tables; 1 GiB by default.
    pub bytes: u64,
    /// Passes over a JPEG's pixels (scans); 512 by default, where progressive ones have about 10.
    pub scans: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pixels: 1 << 26, bytes: 1 << 30, scans: 512 }
    }
}

/// Why a file is no image that an input takes.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: ImageCause,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageCause {
    /// It can't be opened or read.
    #[error(transparent)]
    File(#[from] FileCause),
    /// It is none, or not what the input takes, or goes beyond the limits.
    #[error("expected {expected}, found {found}")]
    Content {
        /// What belongs there.
        expected: String,
        /// What is there.
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

/// Where red, green and blue stand among the channels of this layout.
pub fn color_order(layout: ColorLayout) -> [usize; 3] {
    if layout == ColorLayout::Bgr { [2, 1, 0] } else { [0, 1, 2] }
}

/// Reads an image file as the tensor that an image input takes: `[1, 3, height, width]` in the order of its colours, or
/// `[1, 1, height, width]`. Colours become gray by their luminance; a TIFF of floats keeps its values where the input is
/// 16-bit grayscale, everything else has 8 bits.
///
/// # Errors
/// [`ImageError`] naming the file, what was expected and what was found; a feature that is not an image.
pub fn read(path: &Path, feature: &FeatureDescription, limits: &Limits) -> Result<Tensor, ImageError> {
    let mut source = BufReader::new(file::open(path)?);
    read_from(&mut source, feature, limits).map_err(|cause| ImageError { path: path.to_owned(), cause })
}

/// [`read`] of what is not a file.
///
/// # Errors
/// As [`read`].
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

/// The values of a TIFF of one channel of floats, as they are, and its shape; none for other pixels, which `image` reads.
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

/// Refuses a JPEG of very many scans, each of which may be a pass over all pixels: the decoder does not count them.
///
/// Coded data has no byte 0xFF before another than 0 and restart markers, so that no scan goes uncounted.
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
            // 12,288 bytes of pixels.
            let few = Limits { bytes: 12_287, ..SMALL };
            assert!(read(&whole, ShapeConstraint::Unspecified, &few).is_err(), "{format:?}");
        }
        // Pixels that are not there: the size is what is wrong first.
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
