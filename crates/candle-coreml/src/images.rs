//! Image files (PNG, JPEG, TIFF, WebP, BMP) as tensors for image inputs: `[1, channels, height, width]`, values 0 to 255
//! (scale and bias are operations of the program). Images are turned as their EXIF orientation says.
//!
//! [`read`] takes images of the sizes that the input accepts; [`Reader`] also brings others to size. [`in_folder`] lists
//! the images of a folder.
//!
//! Files are untrusted: only regular files are opened, images of a size that the model does not accept are rejected
//! before decoding, and decoders get [`Limits`].

use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType};
use coreml_format::file::{self, FileCause, FileError};
use coreml_framework::shape;
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Luma, Rgb};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;

mod resize;

pub use resize::Resize;

/// Formats that are read.
const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Bmp];
/// Largest number of images of a folder.
const MOST_FILES: usize = 1 << 20;

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
    /// Its size is not one of the input's; [`Reader::resize`] brings it to size.
    #[error("expected {expected}, found {found}")]
    Size {
        /// The sizes of the input.
        expected: String,
        /// The size of the image.
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
    Reader { limits: *limits, ..Reader::default() }.read(path, feature)
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
    Reader { limits: *limits, ..Reader::default() }.read_from(source, feature)
}

/// The image files of a folder, by their endings, sorted by name.
///
/// # Errors
/// [`ImageError`] if the folder can't be read, has too many files, or has no images.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let fail = |cause: ImageCause| ImageError { path: folder.to_owned(), cause };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| fail(e.into()))? {
        let path = entry.map_err(|e| fail(e.into()))?.path();
        if ImageFormat::from_path(&path).is_ok_and(|f| FORMATS.contains(&f)) && path.is_file() {
            all.push(path);
        }
        if all.len() > MOST_FILES {
            return Err(fail(ImageCause::content(format!("at most {MOST_FILES} images"), "more")));
        }
    }
    if all.is_empty() {
        return Err(fail(ImageCause::content("images: PNG, JPEG, TIFF, WebP or BMP", "none")));
    }
    all.sort();
    Ok(all)
}

/// Reads image files as inputs.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use candle_coreml::CoreMLModel;
/// use candle_coreml::images::{self, Reader, Resize};
/// let model = CoreMLModel::load("classifier.mlpackage")?;
/// let input = &model.function_description().inputs[0];
/// let reader = Reader { resize: Some(Resize::Crop), ..Reader::default() };
/// for file in images::in_folder("photos".as_ref())? {
///     let outputs = model.predict(&[(input.name.as_str(), reader.read(&file, input)?)], None)?;
///     println!("{}: {outputs:?}", file.display());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Reader {
    /// How images of sizes that an input does not accept get its default size; `None` refuses them.
    pub resize: Option<Resize>,
    /// Limits on decoding.
    pub limits: Limits,
}

/// What becomes of an image: its size, and the size that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Width and height of the tensor.
    size: (u32, u32),
    /// How it gets that size.
    resize: Option<Resize>,
}

impl Reader {
    /// Reads a file; see [`read`].
    ///
    /// # Errors
    /// [`ImageError`] naming the file, expected and found; also if the feature is not an image.
    pub fn read(&self, path: &Path, feature: &FeatureDescription) -> Result<Tensor, ImageError> {
        let mut source = BufReader::new(file::open(path)?);
        self.read_from(&mut source, feature).map_err(|cause| ImageError { path: path.to_owned(), cause })
    }

    /// The size of the tensor of an image of this size, checked before its pixels are decoded.
    fn plan(&self, feature: &FeatureDescription, channels: usize, size: (u32, u32)) -> Result<Plan, ImageCause> {
        let limits = &self.limits;
        let few = |(width, height): (u32, u32)| {
            if u64::from(width) * u64::from(height) <= limits.pixels {
                return Ok(());
            }
            let expected = format!("an image of at most {} pixels", limits.pixels);
            Err(ImageCause::content(expected, format!("{width} × {height}")))
        };
        few(size)?;
        let dims = [1, channels, size.1 as usize, size.0 as usize];
        let Err(unfit) = shape::check(feature, &dims) else { return Ok(Plan { size, resize: None }) };
        let unfit =
            || ImageCause::Size { expected: unfit.expected.clone(), found: format!("an image of shape {dims:?}") };
        let (Some(resize), FeatureType::Image { width, height, .. }) = (self.resize, &feature.ty) else {
            return Err(unfit());
        };
        let wanted = (u32::try_from(*width).map_err(|_| unfit())?, u32::try_from(*height).map_err(|_| unfit())?);
        few(wanted)?;
        if size.0 == 0 || size.1 == 0 || wanted.0 == 0 || wanted.1 == 0 {
            return Err(unfit());
        }
        resize::check(size, wanted, limits.bytes)?;
        Ok(Plan { size: wanted, resize: Some(resize) })
    }

    /// [`read`](Self::read) from any source.
    ///
    /// # Errors
    /// Same as [`read`](Self::read).
    pub fn read_from(
        &self,
        source: &mut (impl BufRead + Seek),
        feature: &FeatureDescription,
    ) -> Result<Tensor, ImageCause> {
        let FeatureType::Image { layout, .. } = feature.ty else {
            return Err(ImageCause::content(feature.ty.in_words(), "an image"));
        };
        let channels = if matches!(layout, ColorLayout::Rgb | ColorLayout::Bgr) { 3 } else { 1 };
        let unknown = || ImageCause::content("a PNG, JPEG, TIFF, WebP or BMP image", "another file");
        let guessed = ImageReader::new(&mut *source).with_guessed_format()?.format();
        let format = guessed.filter(|f| FORMATS.contains(f)).ok_or_else(unknown)?;
        let tensor = |planes: Vec<f32>, (width, height): (u32, u32)| {
            let dims = [1, channels, height as usize, width as usize];
            Tensor::from_vec(planes, &dims, &Device::Cpu).map_err(|e| ImageCause::Decode(e.to_string()))
        };
        if format == ImageFormat::Jpeg {
            check_scans(source, self.limits.scans)?;
        }
        if format == ImageFormat::Tiff
            && layout == ColorLayout::GrayscaleFloat16
            && let Some(image) = self.floats(source, feature)?
        {
            let size = image.dimensions();
            return tensor(image.into_raw(), size);
        }
        source.rewind()?;
        let mut reader = ImageReader::with_format(source, format);
        let mut memory = image::Limits::default();
        memory.max_alloc = Some(self.limits.bytes);
        reader.limits(memory.clone());
        let mut decoder = reader.into_decoder()?;
        // An image whose metadata are damaged stands as it is.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let plan = self.plan(feature, channels, turned(decoder.dimensions(), orientation))?;
        memory.reserve(decoder.total_bytes())?;
        decoder.set_limits(memory)?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        let planes: Vec<f32> = if channels == 1 {
            let gray = resize::apply(image.into_luma8(), plan.resize, plan.size, Luma([0]));
            gray.into_raw().into_iter().map(f32::from).collect()
        } else {
            let pixels = resize::apply(image.into_rgb8(), plan.resize, plan.size, Rgb([0; 3]));
            color_order(layout).iter().flat_map(|&c| pixels.pixels().map(move |p| f32::from(p.0[c]))).collect()
        };
        tensor(planes, plan.size)
    }

    /// Values of a single-channel float TIFF; `None` for other pixel formats, which `image` decodes.
    fn floats(
        &self,
        source: &mut (impl BufRead + Seek),
        feature: &FeatureDescription,
    ) -> Result<Option<ImageBuffer<Luma<f32>, Vec<f32>>>, ImageCause> {
        source.rewind()?;
        let mut memory = tiff::decoder::Limits::default();
        memory.decoding_buffer_size = usize::try_from(self.limits.bytes).unwrap_or(usize::MAX);
        let mut decoder = Decoder::new(source)?.with_limits(memory);
        if !matches!(decoder.colortype()?, tiff::ColorType::Gray(16 | 32 | 64)) {
            return Ok(None);
        }
        let tag = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
        let orientation = tag.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
        let size = decoder.dimensions()?;
        let plan = self.plan(feature, 1, turned(size, orientation))?;
        let values: Vec<f32> = match decoder.read_image()? {
            DecodingResult::F16(v) => v.into_iter().map(f32::from).collect(),
            DecodingResult::F32(v) => v,
            DecodingResult::F64(v) => v.into_iter().map(|v| v as f32).collect(),
            _ => return Ok(None),
        };
        let image = ImageBuffer::from_raw(size.0, size.1, values)
            .ok_or_else(|| ImageCause::Decode("fewer values than pixels".to_owned()))?;
        let image = resize::turn(image, orientation);
        Ok(Some(resize::apply(image, plan.resize, plan.size, Luma([0.0]))))
    }
}

/// The size of an image that was turned.
fn turned((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    match orientation {
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => (height, width),
        _ => (width, height),
    }
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

    /// A reader that resizes.
    fn resized(bytes: &[u8], resize: Resize, width: usize, height: usize) -> Tensor {
        let ty = FeatureType::Image { layout: ColorLayout::Rgb, width, height, sizes: ShapeConstraint::Fixed };
        let feature = FeatureDescription { ty, ..feature(ColorLayout::Rgb, ShapeConstraint::Fixed) };
        let reader = Reader { resize: Some(resize), limits: SMALL };
        reader.read_from(&mut Cursor::new(bytes), &feature).expect("an image")
    }

    /// Red of each row.
    fn red(tensor: &Tensor) -> Vec<Vec<f32>> {
        tensor.get(0).and_then(|t| t.get(0)?.to_vec2()).expect("a plane")
    }

    #[test]
    fn images_are_brought_to_size_whole_cut_or_stretched() {
        // Red is the column.
        let wide = file(8, 2, ImageFormat::Png);
        // Pillow 13, Image.resize((4, 2), Image.BILINEAR), gives 1, 3, 5, 6; halves may round either way.
        for row in red(&resized(&wide, Resize::Stretch, 4, 2)) {
            assert!(row.iter().zip([1.0, 3.0, 5.0, 6.0]).all(|(a, b)| (a - b).abs() <= 1.0), "{row:?}");
        }
        let fit = red(&resized(&wide, Resize::Fit, 4, 4));
        assert_eq!((&fit[0], &fit[1].len(), &fit[3]), (&vec![0.0; 4], &4, &vec![0.0; 4]), "black above and below");
        let crop = red(&resized(&wide, Resize::Crop, 2, 2));
        assert_eq!(crop, [[3.0, 4.0], [3.0, 4.0]], "the middle, as it is");
        // A size that the input accepts stays.
        assert_eq!(red(&resized(&wide, Resize::Crop, 8, 2)), [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]; 2]);
        // A line that would take much memory on the way.
        let ty = FeatureType::Image { layout: ColorLayout::Rgb, width: 1, height: 64, sizes: ShapeConstraint::Fixed };
        let feature = FeatureDescription { ty, ..feature(ColorLayout::Rgb, ShapeConstraint::Fixed) };
        let reader = Reader { resize: Some(Resize::Stretch), limits: SMALL };
        let line = file(4096, 1, ImageFormat::Png);
        let error = reader.read_from(&mut Cursor::new(line), &feature).expect_err("too much").to_string();
        assert!(error.contains("at most 65536 bytes"), "{error}");
    }

    #[test]
    fn every_format_is_read_and_every_orientation_turned() {
        for format in FORMATS {
            let tensor = read(&file(2, 2, format), ShapeConstraint::Fixed, &SMALL).expect("pixels");
            assert_eq!(tensor.dims(), [1, 3, 2, 2], "{format:?}");
        }
        // A JPEG of 16 × 8 with an EXIF segment of one entry, the orientation: red grows to the right.
        let mut content = Cursor::new(Vec::new());
        let pixels = image::RgbImage::from_fn(16, 8, |x, _| image::Rgb([16 * x as u8, 0, 0]));
        pixels.write_to(&mut content, ImageFormat::Jpeg).expect("encoded");
        let plain = content.into_inner();
        let exif = |orientation: u8| {
            let mut entry = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
            entry.extend([orientation, 0, 0, 0, 0, 0, 0]);
            let length = (entry.len() as u16 + 2).to_be_bytes();
            [&plain[..2], &[0xff, 0xe1], &length, &entry, &plain[2..]].concat()
        };
        for (orientation, width, height, place) in [
            (1, 16, 8, "right"),
            (2, 16, 8, "left"),
            (3, 16, 8, "left"),
            (4, 16, 8, "right"),
            (5, 8, 16, "below"),
            (6, 8, 16, "below"),
            (7, 8, 16, "above"),
            (8, 8, 16, "above"),
        ] {
            let tensor = resized(&exif(orientation), Resize::Crop, width, height);
            let rows = red(&tensor);
            let (first, last) = match place {
                "right" | "left" => (rows[0][0], rows[0][width - 1]),
                _ => (rows[0][0], rows[height - 1][0]),
            };
            let grows = matches!(place, "right" | "below");
            assert!(
                (last - first > 150.0) == grows && (first - last > 150.0) != grows,
                "{orientation}: {first} {last}"
            );
        }
    }

    #[test]
    fn folders_give_their_images_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        assert!(in_folder(folder.path()).expect_err("none").to_string().contains("found none"));
        for name in ["b.PNG", "a.jpg", "notes.txt", "c.webp"] {
            std::fs::write(path(name), b"x").expect("written");
        }
        std::fs::create_dir(path("d.png")).expect("a folder");
        assert_eq!(in_folder(folder.path()).expect("images"), [path("a.jpg"), path("b.PNG"), path("c.webp")]);
        assert!(in_folder(&path("gone")).is_err());
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
            read(b"P6 1 1 255 abc", ShapeConstraint::Fixed, &SMALL)
                .expect_err("PPM")
                .contains("PNG, JPEG, TIFF, WebP or BMP")
        );
        assert!(read(b"", ShapeConstraint::Fixed, &SMALL).is_err());
        let number =
            FeatureDescription { ty: FeatureType::Double, ..feature(ColorLayout::Rgb, ShapeConstraint::Fixed) };
        let image = file(2, 2, ImageFormat::Png);
        let error = read_from(&mut Cursor::new(image), &number, &SMALL).expect_err("a number").to_string();
        assert_eq!(error, "expected a number, found an image");
    }
}
