//! Images brought to the size of an input, as Vision's `imageCropAndScaleOption` does: whole within a border, cut to the
//! middle, or stretched.

use std::str::FromStr;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{ImageBuffer, Luma, Pixel};

use super::ImageCause;

/// How an image gets the size of an input. Pixels are interpolated linearly, over all pixels that one covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The whole image, in the middle of a black border (Vision's `scaleFit`).
    Fit,
    /// The middle of the image, in the shape of the input (Vision's `centerCrop`).
    Crop,
    /// The whole image, stretched to the shape of the input (Vision's `scaleFill`).
    Stretch,
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fit" => Ok(Self::Fit),
            "crop" => Ok(Self::Crop),
            "stretch" => Ok(Self::Stretch),
            _ => Err("expected fit, crop or stretch".to_owned()),
        }
    }
}

/// Checks the memory that interpolation needs: rows are made first, as four floats a pixel.
pub(super) fn check(size: (u32, u32), wanted: (u32, u32), most: u64) -> Result<(), ImageCause> {
    let rows = u64::from(size.0.max(wanted.0)).saturating_mul(u64::from(wanted.1)).saturating_mul(16);
    if rows <= most {
        return Ok(());
    }
    let found = format!("{rows} bytes for {} × {} pixels as {} × {}", size.0, size.1, wanted.0, wanted.1);
    Err(ImageCause::content(format!("an image that takes at most {most} bytes to resize"), found))
}

type Image<P> = ImageBuffer<P, Vec<<P as Pixel>::Subpixel>>;

/// Part of `all` in the proportion `part` to `whole`, rounded, at least one.
fn share(all: u32, part: u32, whole: u32) -> u32 {
    let (all, part, whole) = (u64::from(all), u64::from(part), u64::from(whole));
    u32::try_from((all * part + whole / 2) / whole).unwrap_or(u32::MAX).max(1)
}

/// Brings an image to this size.
pub(super) fn apply<P: Pixel + 'static>(
    image: Image<P>,
    resize: Option<Resize>,
    (width, height): (u32, u32),
    border: P,
) -> Image<P> {
    let (w, h) = image.dimensions();
    let wider = u64::from(w) * u64::from(height) > u64::from(h) * u64::from(width);
    let scaled = |image: &Image<P>, width, height| imageops::resize(image, width, height, FilterType::Triangle);
    match resize {
        None => image,
        Some(Resize::Stretch) => scaled(&image, width, height),
        Some(Resize::Crop) => {
            let (cut_w, cut_h) =
                if wider { (share(h, width, height).min(w), h) } else { (w, share(w, height, width).min(h)) };
            let part = imageops::crop_imm(&image, (w - cut_w) / 2, (h - cut_h) / 2, cut_w, cut_h).to_image();
            scaled(&part, width, height)
        }
        Some(Resize::Fit) => {
            let (fit_w, fit_h) =
                if wider { (width, share(h, width, w).min(height)) } else { (share(w, height, h).min(width), height) };
            let small = scaled(&image, fit_w, fit_h);
            let mut whole = ImageBuffer::from_pixel(width, height, border);
            let (left, top) = ((width - fit_w) / 2, (height - fit_h) / 2);
            imageops::replace(&mut whole, &small, i64::from(left), i64::from(top));
            whole
        }
    }
}

/// Turns an image of floats, which `DynamicImage` does not hold.
pub(super) fn turn(image: Image<Luma<f32>>, orientation: Orientation) -> Image<Luma<f32>> {
    match orientation {
        Orientation::NoTransforms => image,
        Orientation::Rotate90 => imageops::rotate90(&image),
        Orientation::Rotate180 => imageops::rotate180(&image),
        Orientation::Rotate270 => imageops::rotate270(&image),
        Orientation::FlipHorizontal => imageops::flip_horizontal(&image),
        Orientation::FlipVertical => imageops::flip_vertical(&image),
        Orientation::Rotate90FlipH => imageops::flip_horizontal(&imageops::rotate90(&image)),
        Orientation::Rotate270FlipH => imageops::flip_horizontal(&imageops::rotate270(&image)),
    }
}
