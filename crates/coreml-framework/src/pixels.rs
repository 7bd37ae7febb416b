//! Conversion between pixel rows and image tensors: `[1, channels, height, width]`, samples 0 to 255 (any value in
//! half-precision images).
//!
//! A pixel buffer declares its own byte order, and Core ML converts it to the model's. So a tensor's channel order is
//! the model's ([`ColorLayout`]), the byte order the buffer's ([`PixelFormat`]), and this module converts between them.
//! Rows may be padded; padding is neither read nor written.

use coreml_format::description::ColorLayout;
use half::f16;

/// Pixel format of a buffer (`kCVPixelFormatType_…` of `CVPixelBuffer.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// One byte per pixel.
    Gray8,
    /// One half-precision float in native byte order.
    GrayF16,
    /// Four bytes: blue, green, red, alpha.
    Bgra,
    /// Four bytes: red, green, blue, alpha.
    Rgba,
    /// Four bytes: alpha, red, green, blue.
    Argb,
    /// Four bytes: alpha, blue, green, red.
    Abgr,
}

impl PixelFormat {
    /// All formats.
    pub const ALL: [Self; 6] = [Self::Gray8, Self::GrayF16, Self::Bgra, Self::Rgba, Self::Argb, Self::Abgr];

    /// The framework's code.
    pub const fn code(self) -> u32 {
        match self {
            Self::Gray8 => u32::from_be_bytes(*b"L008"),
            Self::GrayF16 => u32::from_be_bytes(*b"L00h"),
            Self::Bgra => u32::from_be_bytes(*b"BGRA"),
            Self::Rgba => u32::from_be_bytes(*b"RGBA"),
            // Predates the four-character codes.
            Self::Argb => 32,
            Self::Abgr => u32::from_be_bytes(*b"ABGR"),
        }
    }

    /// The format with this code; `None` for formats that models neither accept nor return.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.code() == code)
    }

    /// Bytes per pixel.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Gray8 => 1,
            Self::GrayF16 => 2,
            Self::Bgra | Self::Rgba | Self::Argb | Self::Abgr => 4,
        }
    }

    /// Format in which an image of this layout is passed to Core ML; for colour images, the one that all processors
    /// accept.
    pub const fn of(layout: ColorLayout) -> Self {
        match layout {
            ColorLayout::Grayscale => Self::Gray8,
            ColorLayout::GrayscaleFloat16 => Self::GrayF16,
            ColorLayout::Rgb | ColorLayout::Bgr => Self::Bgra,
        }
    }

    /// The model layout that this format indicates.
    pub const fn layout(self) -> ColorLayout {
        match self {
            Self::Gray8 => ColorLayout::Grayscale,
            Self::GrayF16 => ColorLayout::GrayscaleFloat16,
            Self::Rgba | Self::Argb => ColorLayout::Rgb,
            Self::Bgra | Self::Abgr => ColorLayout::Bgr,
        }
    }

    /// Offsets of red, green, blue and alpha in a pixel; `None` for gray.
    const fn places(self) -> Option<[usize; 4]> {
        match self {
            Self::Gray8 | Self::GrayF16 => None,
            Self::Bgra => Some([2, 1, 0, 3]),
            Self::Rgba => Some([0, 1, 2, 3]),
            Self::Argb => Some([1, 2, 3, 0]),
            Self::Abgr => Some([3, 2, 1, 0]),
        }
    }
}

/// Number of channels of an image tensor with this layout.
pub const fn channels(layout: ColorLayout) -> usize {
    match layout {
        ColorLayout::Grayscale | ColorLayout::GrayscaleFloat16 => 1,
        ColorLayout::Rgb | ColorLayout::Bgr => 3,
    }
}

/// Reason why an image was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PixelError {
    /// A sample out of range of a byte.
    #[error("the sample {value} at element {index} is not within 0 to 255")]
    Sample {
        /// The first such sample.
        value: String,
        /// Its row-major index.
        index: usize,
    },
    /// The number of samples does not match the size.
    #[error("{layout:?} image of {width} × {height} pixels: expected {expected} samples, found {found}")]
    Samples {
        /// Layout of the image.
        layout: ColorLayout,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Expected number of samples.
        expected: usize,
        /// Number of samples found.
        found: usize,
    },
    /// Rows that overlap, are not a whole number of pixels, or exceed the address space.
    #[error("{height} rows of {row} bytes can't be those of {width} pixels of {pixel} bytes")]
    Rows {
        /// Row stride in bytes.
        row: usize,
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Bytes per pixel.
        pixel: usize,
    },
    /// The memory is too short for the rows.
    #[error("expected {expected} bytes of pixels, found {found}")]
    Memory {
        /// Minimum number of bytes.
        expected: usize,
        /// Number of bytes found.
        found: usize,
    },
    /// The pixel format does not match the layout.
    #[error("expected an image in the layout {layout:?}, found pixels in the format {format:?}")]
    Format {
        /// Layout of the model.
        layout: ColorLayout,
        /// Format of the buffer.
        format: PixelFormat,
    },
}

/// Size and row stride of a pixel buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Row stride in bytes.
    pub row: usize,
}

impl Rows {
    /// Number of bytes from the start of the buffer to the end of its last pixel.
    ///
    /// # Errors
    /// [`PixelError::Rows`] if rows overlap or exceed the address space.
    pub fn span(&self, pixel: usize) -> Result<usize, PixelError> {
        let used = self.width.checked_mul(pixel).filter(|&used| used <= self.row);
        let before = self.row.checked_mul(self.height.saturating_sub(1));
        let span = used.zip(before).and_then(|(used, before)| before.checked_add(used));
        let span = if self.width == 0 || self.height == 0 { Some(0) } else { span };
        let Rows { row, width, height } = *self;
        span.filter(|&span| isize::try_from(span).is_ok()).ok_or(PixelError::Rows { row, width, height, pixel })
    }

    fn check(&self, format: PixelFormat, layout: ColorLayout, found: usize) -> Result<usize, PixelError> {
        let expected = self.span(format.bytes())?;
        if expected > found {
            return Err(PixelError::Memory { expected, found });
        }
        let gray = matches!(layout, ColorLayout::Grayscale | ColorLayout::GrayscaleFloat16);
        if gray != format.places().is_none() {
            return Err(PixelError::Format { layout, format });
        }
        Ok(self.width * self.height)
    }

    /// Tensor channel for each colour byte of this format; the tensor's channels are in the order of `layout`.
    fn color_places(layout: ColorLayout, places: [usize; 4]) -> [usize; 3] {
        let [red, green, blue, _] = places;
        if layout == ColorLayout::Bgr { [blue, green, red] } else { [red, green, blue] }
    }

    /// Writes samples, `[channels, height, width]`, to a pixel buffer; alpha becomes opaque. Bytes are rounded to
    /// nearest.
    ///
    /// # Errors
    /// If the samples do not match the size or do not fit a byte, the format does not match the layout, or the memory
    /// is too short.
    pub fn pack(
        &self,
        samples: &[f32],
        layout: ColorLayout,
        format: PixelFormat,
        bytes: &mut [u8],
    ) -> Result<(), PixelError> {
        let plane = self.check(format, layout, bytes.len())?;
        let expected = plane * channels(layout);
        if samples.len() != expected {
            let (width, height, found) = (self.width, self.height, samples.len());
            return Err(PixelError::Samples { layout, width, height, expected, found });
        }
        if plane == 0 {
            return Ok(());
        }
        let bytewise = format != PixelFormat::GrayF16;
        if bytewise && let Some(index) = samples.iter().position(|s| !(-0.5..=255.5).contains(s)) {
            return Err(PixelError::Sample { value: samples[index].to_string(), index });
        }
        let used = self.width * format.bytes();
        let rows = || (0..self.height).map(|y| (y * self.width, y * self.row));
        // In range, and saturated at its ends: 255.5 becomes 255.
        let byte = |sample: f32| sample.round_ties_even() as u8;
        match format.places() {
            Some(places) => {
                for (at, start) in rows() {
                    let row = &mut bytes[start..start + used];
                    row.chunks_exact_mut(4).for_each(|pixel| pixel[places[3]] = u8::MAX);
                    for (channel, place) in Self::color_places(layout, places).into_iter().enumerate() {
                        let from = &samples[channel * plane + at..][..self.width];
                        row.chunks_exact_mut(4).zip(from).for_each(|(pixel, &s)| pixel[place] = byte(s));
                    }
                }
            }
            None if bytewise => {
                for (at, start) in rows() {
                    let row = &mut bytes[start..start + used];
                    row.iter_mut().zip(&samples[at..]).for_each(|(b, &s)| *b = byte(s));
                }
            }
            None => {
                for (at, start) in rows() {
                    let row = bytes[start..start + used].chunks_exact_mut(2);
                    row.zip(&samples[at..]).for_each(|(b, &s)| b.copy_from_slice(&f16::from_f32(s).to_ne_bytes()));
                }
            }
        }
        Ok(())
    }

    /// Reads samples, `[channels, height, width]`, from a pixel buffer; alpha is ignored.
    ///
    /// # Errors
    /// If the format does not match the layout, or the memory is too short.
    pub fn unpack(&self, bytes: &[u8], format: PixelFormat, layout: ColorLayout) -> Result<Vec<f32>, PixelError> {
        let plane = self.check(format, layout, bytes.len())?;
        let mut samples = vec![0.0; plane * channels(layout)];
        if plane == 0 {
            return Ok(samples);
        }
        let used = self.width * format.bytes();
        for y in 0..self.height {
            let (at, row) = (y * self.width, &bytes[y * self.row..][..used]);
            match format.places() {
                Some(places) => {
                    for (channel, place) in Self::color_places(layout, places).into_iter().enumerate() {
                        let to = samples[channel * plane + at..].iter_mut();
                        to.zip(row.chunks_exact(4)).for_each(|(s, pixel)| *s = f32::from(pixel[place]));
                    }
                }
                None if format == PixelFormat::Gray8 => {
                    samples[at..].iter_mut().zip(row).for_each(|(s, &b)| *s = f32::from(b));
                }
                None => {
                    let halves = row.chunks_exact(2).map(|b| f16::from_ne_bytes([b[0], b[1]]).to_f32());
                    samples[at..].iter_mut().zip(halves).for_each(|(s, x)| *s = x);
                }
            }
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUTS: [ColorLayout; 4] =
        [ColorLayout::Grayscale, ColorLayout::GrayscaleFloat16, ColorLayout::Rgb, ColorLayout::Bgr];

    /// Letters of a tensor's channels and of a pixel's bytes: the reference for packing.
    fn letters(layout: ColorLayout) -> &'static str {
        match layout {
            ColorLayout::Grayscale | ColorLayout::GrayscaleFloat16 => "L",
            ColorLayout::Rgb => "RGB",
            ColorLayout::Bgr => "BGR",
        }
    }

    fn pixel_letters(format: PixelFormat) -> &'static str {
        match format {
            PixelFormat::Gray8 | PixelFormat::GrayF16 => "L",
            PixelFormat::Bgra => "BGRA",
            PixelFormat::Rgba => "RGBA",
            PixelFormat::Argb => "ARGB",
            PixelFormat::Abgr => "ABGR",
        }
    }

    #[test]
    fn formats_have_the_codes_of_the_header() {
        let codes: Vec<u32> = PixelFormat::ALL.iter().map(|f| f.code()).collect();
        assert_eq!(codes, [0x4c30_3038, 0x4c30_3068, 0x4247_5241, 0x5247_4241, 0x20, 0x4142_4752]);
        for format in PixelFormat::ALL {
            assert_eq!(PixelFormat::from_code(format.code()), Some(format));
            assert_eq!(channels(format.layout()) == 3, format.bytes() == 4);
        }
        assert_eq!(PixelFormat::from_code(0), None);
        for layout in LAYOUTS {
            assert_eq!(channels(PixelFormat::of(layout).layout()), channels(layout));
            assert_eq!(channels(layout), letters(layout).len());
        }
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// Every byte matches its letter, padding is untouched, and unpacking reverses it.
        #[test]
        fn pixels_hold_the_samples_that_their_letters_say(
            layout in prop::sample::select(LAYOUTS.to_vec()),
            format in prop::sample::select(PixelFormat::ALL.to_vec()),
            (width, height, pad) in (0_usize..6, 0_usize..5, 0_usize..9),
            seed in any::<u32>(),
        ) {
            let pad = if format == PixelFormat::GrayF16 { pad * 2 } else { pad };
            let rows = Rows { width, height, row: width * format.bytes() + pad };
            let plane = width * height;
            let samples: Vec<f32> = (0..plane * channels(layout))
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as f32)
                .collect();
            let mut bytes = vec![0xa5; rows.row * height];
            let packed = rows.pack(&samples, layout, format, &mut bytes);
            if letters(layout).len() == 1 && pixel_letters(format) != "L" || letters(layout).len() == 3 && pixel_letters(format) == "L" {
                prop_assert_eq!(packed, Err(PixelError::Format { layout, format }));
                return Ok(());
            }
            prop_assert_eq!(packed, Ok(()));
            for (at, found) in bytes.iter().enumerate() {
                let (y, x) = (at / rows.row, at % rows.row);
                let want = if x >= width * format.bytes() {
                    0xa5
                } else if format == PixelFormat::GrayF16 {
                    f16::from_f32(samples[y * width + x / 2]).to_ne_bytes()[x % 2]
                } else {
                    let letter = pixel_letters(format).as_bytes()[x % format.bytes()] as char;
                    match letters(layout).find(letter) {
                        Some(channel) => samples[channel * plane + y * width + x / format.bytes()] as u8,
                        None => 255,
                    }
                };
                prop_assert_eq!(*found, want, "byte {} of row {}", x, y);
            }
            prop_assert_eq!(rows.unpack(&bytes, format, layout), Ok(samples));
        }
    }

    #[test]
    fn bytes_round_and_refuse_what_they_can_not_hold() {
        let rows = Rows { width: 4, height: 1, row: 4 };
        let mut bytes = [0; 4];
        rows.pack(&[-0.5, 0.6, 127.5, 255.5], ColorLayout::Grayscale, PixelFormat::Gray8, &mut bytes).expect("fits");
        assert_eq!(bytes, [0, 1, 128, 255]);
        for bad in [-0.6, 256.0, f32::NAN, f32::INFINITY] {
            let error = rows.pack(&[0.0, 0.0, bad, 0.0], ColorLayout::Grayscale, PixelFormat::Gray8, &mut bytes);
            assert_eq!(error, Err(PixelError::Sample { value: bad.to_string(), index: 2 }));
        }
        let half = Rows { width: 1, height: 1, row: 2 };
        half.pack(&[-3.0e4], ColorLayout::GrayscaleFloat16, PixelFormat::GrayF16, &mut bytes).expect("any value");
        assert_eq!(half.unpack(&bytes, PixelFormat::GrayF16, ColorLayout::GrayscaleFloat16), Ok(vec![-3.0e4]));
    }

    #[test]
    fn memory_and_samples_of_another_size_are_refused() {
        let (layout, format) = (ColorLayout::Rgb, PixelFormat::Bgra);
        let rows = Rows { width: 2, height: 2, row: 12 };
        assert_eq!(rows.span(4), Ok(20), "the last row needs no padding");
        let short = PixelError::Memory { expected: 20, found: 19 };
        assert_eq!(rows.pack(&[0.0; 12], layout, format, &mut [0; 19]), Err(short.clone()));
        assert_eq!(rows.unpack(&[0; 19], format, layout), Err(short));
        let few = PixelError::Samples { layout, width: 2, height: 2, expected: 12, found: 11 };
        assert_eq!(rows.pack(&[0.0; 11], layout, format, &mut [0; 20]), Err(few));
        assert!(Rows { width: 2, height: 2, row: 7 }.span(4).is_err(), "rows that overlap");
        assert!(Rows { width: usize::MAX, height: 2, row: usize::MAX }.span(4).is_err());
        assert!(Rows { width: 1, height: usize::MAX, row: 16 }.span(4).is_err());
        assert_eq!(Rows { width: 0, height: usize::MAX, row: 16 }.span(4), Ok(0));
    }
}
