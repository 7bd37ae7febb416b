//! Sampling: positions of samples and their interpolation.

use coreml_kernels::resample::{OUTSIDE, Taps};

use crate::budget::claim_of;
use crate::build::OpBuilder;
use crate::error::OpError;

/// Placement of the sampling grid of a resized output over the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grid {
    Default,
    StrictAlignCorners,
    AlignCorners,
    OffsetCorners,
    UnalignCorners,
}

impl Grid {
    /// The parameter `sampling_mode = "DEFAULT"`.
    pub(super) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        b.choice(
            "sampling_mode",
            &[
                ("DEFAULT", Self::Default),
                ("STRICT_ALIGN_CORNERS", Self::StrictAlignCorners),
                ("ALIGN_CORNERS", Self::AlignCorners),
                ("OFFSET_CORNERS", Self::OffsetCorners),
                ("UNALIGN_CORNERS", Self::UnalignCorners),
            ],
        )
    }

    /// Positions sampled by an output of `out` in an input of `n`.
    pub(super) fn points(self, n: usize, out: usize) -> Result<Vec<f32>, OpError> {
        claim_of::<f32>(out)?;
        let last = n.saturating_sub(1) as f32;
        Ok(self.span(0.0, last, n as f32, out).into_iter().map(|v| v.clamp(0.0, last)).collect())
    }

    /// `out` positions over `first ..= last`, which represent `n` elements.
    fn span(self, first: f32, last: f32, n: f32, out: usize) -> Vec<f32> {
        let size = out as f32;
        let (start, step) = match self {
            Self::AlignCorners if out == 1 => ((first + last) / 2.0, 0.0),
            Self::StrictAlignCorners | Self::Default if out == 1 => (first, 0.0),
            Self::StrictAlignCorners | Self::AlignCorners => (first, (last - first) / (size - 1.0)),
            Self::Default => (first, (n - n / size) / (size - 1.0)),
            Self::OffsetCorners => {
                let delta = (last - first).max(1.0) / size;
                (first + 0.5 * delta, delta)
            }
            Self::UnalignCorners => (first + 0.5 * n / size - 0.5, n / size),
        };
        (0..out).map(|i| start + i as f32 * step).collect()
    }
}

/// Unit of sample coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// −1 to 1 over the image.
    Signed,
    /// 0 to 1 over the image.
    Unit,
    /// Pixels.
    Pixels,
}

/// Layout of box coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BoxLayout {
    CornersYx,
    CornersXy,
    CenterYx,
    CenterXy,
}

impl BoxLayout {
    /// The parameter `box_coordinate_mode = "CORNERS_HEIGHT_FIRST"`.
    pub(super) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        b.choice(
            "box_coordinate_mode",
            &[
                ("CORNERS_HEIGHT_FIRST", Self::CornersYx),
                ("CORNERS_WIDTH_FIRST", Self::CornersXy),
                ("CENTER_SIZE_HEIGHT_FIRST", Self::CenterYx),
                ("CENTER_SIZE_WIDTH_FIRST", Self::CenterXy),
            ],
        )
    }

    pub(super) fn is_corners(self) -> bool {
        matches!(self, Self::CornersYx | Self::CornersXy)
    }
}

/// Rows and columns of the sample points of a resized box.
pub(super) fn box_points(
    coordinates: &[f32],
    layout: BoxLayout,
    (h, w): (usize, usize),
    (height, width): (usize, usize),
    normalized: bool,
    scale: f32,
    grid: Grid,
) -> Result<(Vec<f32>, Vec<f32>), OpError> {
    let &[a, b, c, d] = coordinates else { return Err(OpError::shape("a box has four coordinates")) };
    let (top, left, bottom, right) = match layout {
        BoxLayout::CornersYx => (a, b, c, d),
        BoxLayout::CornersXy => (b, a, d, c),
        BoxLayout::CenterYx => (a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0),
        BoxLayout::CenterXy => (b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0),
    };
    let unit = |extent: usize| if normalized { (extent - 1) as f32 } else { 1.0 };
    let (top, bottom) = (top * unit(h) * scale, bottom * unit(h) * scale);
    let (left, right) = (left * unit(w) * scale, right * unit(w) * scale);
    Ok((grid.span(top, bottom, bottom - top + 1.0, height), grid.span(left, right, right - left + 1.0, width)))
}

/// Padding outside an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Padding {
    Constant(f32),
    Border,
    Reflection,
    Symmetric,
}

impl Padding {
    /// The parameters `padding_mode` and `padding_value = 0`, used by constant padding only.
    pub(super) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        let value = b.attr_or("padding_value", 0f32)?;
        b.required_choice(
            "padding_mode",
            &[
                ("constant", Padding::Constant(value)),
                ("border", Padding::Border),
                ("reflection", Padding::Reflection),
                ("symmetric", Padding::Symmetric),
            ],
        )
    }
}

/// Reflects a position into `low ..= high` at both ends.
fn fold(at: f32, low: f32, high: f32) -> f32 {
    let length = high - low;
    if length <= 0.0 || !at.is_finite() {
        return low;
    }
    let offset = (at - low).rem_euclid(2.0 * length);
    low + if offset > length { 2.0 * length - offset } else { offset }
}

/// A single position.
pub(super) fn single(at: usize) -> Taps {
    Taps { at: [at, OUTSIDE, OUTSIDE, OUTSIDE], weights: [1.0, 0.0, 0.0, 0.0] }
}

/// Taps of a sample at a row and column, possibly outside, of one image of a batch.
pub(super) fn taps_at(
    image: usize,
    (h, w): (usize, usize),
    (row, column): (f32, f32),
    linear: bool,
    padding: Padding,
    align: bool,
) -> Taps {
    let bring = |at: f32, n: usize| {
        let last = (n - 1) as f32;
        match padding {
            Padding::Constant(_) => at,
            Padding::Border => at.clamp(0.0, last),
            Padding::Reflection if align => fold(at, 0.0, last),
            // Without aligned corners the image ends half a pixel beyond its outermost centres.
            Padding::Reflection | Padding::Symmetric => fold(at, -0.5, last + 0.5).clamp(0.0, last),
        }
    };
    let (row, column) = (bring(row, h), bring(column, w));
    let position = |r: f32, c: f32| {
        let inside = r >= 0.0 && c >= 0.0 && r < h as f32 && c < w as f32;
        let (r, c) = match (inside, padding) {
            (true, _) => (r, c),
            (false, Padding::Constant(_)) => return OUTSIDE,
            (false, _) => (r.clamp(0.0, (h - 1) as f32), c.clamp(0.0, (w - 1) as f32)),
        };
        (image * h + r as usize) * w + c as usize
    };
    if !linear {
        return single(position(row.round_ties_even(), column.round_ties_even()));
    }
    let (top, left) = (row.floor(), column.floor());
    let (v, u) = (row - top, column - left);
    let (bottom, right) = (top + 1.0, left + 1.0);
    Taps {
        at: [position(top, left), position(top, right), position(bottom, left), position(bottom, right)],
        weights: [(1.0 - v) * (1.0 - u), (1.0 - v) * u, v * (1.0 - u), v * u],
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn affine_with_the_identity_gives_the_image() {
        let body = "tensor<fp32, [1, 1, 2, 2]> y = affine(x = x, transform_matrix = tensor<fp32, [1, 6]>([[1, 0, 0, 0, 1, 0]]), \
            output_height = int32(2), output_width = int32(2), sampling_mode = string(\"bilinear\"), padding_mode = string(\"constant\"), \
            padding_value = fp32(0), coordinates_mode = string(\"normalized_minus_one_to_one\"), align_corners = bool(true));";
        near(&of(body, &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), &[1.0, 2.0, 3.0, 4.0]);
    }
}
