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
    let format = ImageReader::new(&mut *source).with_guessed_format()?.format().ok_or_else(unknown)?;
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
