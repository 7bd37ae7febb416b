//! Where samples lie, and how one is taken.

use mil_kernels::resample::{OUTSIDE, Taps};

use crate::budget::claim_of;
use crate::error::OpError;

/// Positions in an input of `n` that an output of `out` samples, by the mode's rule.
pub(super) fn grid(n: usize, out: usize, mode: &str) -> Result<Vec<f32>, OpError> {
    claim_of::<f32>(out)?;
    span(0.0, n.saturating_sub(1) as f32, n as f32, out, mode)
        .map(|points| points.into_iter().map(|v| v.clamp(0.0, n.saturating_sub(1) as f32)).collect())
}

/// `out` positions over `first ..= last`, which stand for `n` elements.
fn span(first: f32, last: f32, n: f32, out: usize, mode: &str) -> Result<Vec<f32>, OpError> {
    let size = out as f32;
    let (start, step) = match mode {
        "STRICT_ALIGN_CORNERS" => (first, if out > 1 { (last - first) / (size - 1.0) } else { 0.0 }),
        "ALIGN_CORNERS" if out == 1 => ((first + last) / 2.0, 0.0),
        "ALIGN_CORNERS" => (first, (last - first) / (size - 1.0)),
        "DEFAULT" => (first, if out > 1 { (n - n / size) / (size - 1.0) } else { 0.0 }),
        "OFFSET_CORNERS" => {
            let delta = (last - first).max(1.0) / size;
            (first + 0.5 * delta, delta)
        }
        "UNALIGN_CORNERS" => (first + 0.5 * n / size - 0.5, n / size),
        other => return Err(OpError::data(format!("unknown sampling mode `{other}`"))),
    };
    Ok((0..out).map(|i| start + i as f32 * step).collect())
}

/// Rows and columns of the points that a box is resized to.
pub(super) fn box_points(
    coordinates: &[f32],
    layout: &str,
    (h, w): (usize, usize),
    (height, width): (usize, usize),
    normalized: bool,
    scale: f32,
    mode: &str,
) -> Result<(Vec<f32>, Vec<f32>), OpError> {
    let &[a, b, c, d] = coordinates else { return Err(OpError::shape("a box has four coordinates")) };
    let (top, left, bottom, right) = match layout {
        "CORNERS_HEIGHT_FIRST" => (a, b, c, d),
        "CORNERS_WIDTH_FIRST" => (b, a, d, c),
        "CENTER_SIZE_HEIGHT_FIRST" => (a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0),
        "CENTER_SIZE_WIDTH_FIRST" => (b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0),
        other => return Err(OpError::data(format!("unknown box layout `{other}`"))),
    };
    let unit = |extent: usize| if normalized { (extent - 1) as f32 } else { 1.0 };
    let (top, bottom) = (top * unit(h) * scale, bottom * unit(h) * scale);
    let (left, right) = (left * unit(w) * scale, right * unit(w) * scale);
    Ok((span(top, bottom, bottom - top + 1.0, height, mode)?, span(left, right, right - left + 1.0, width, mode)?))
}

/// What lies outside an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Padding {
    Constant(f32),
    Border,
    Reflection,
    Symmetric,
}

impl Padding {
    pub(super) fn new(mode: &str, value: f32) -> Result<Self, OpError> {
        Ok(match mode {
            "constant" => Padding::Constant(value),
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            "symmetric" => Padding::Symmetric,
            other => return Err(OpError::data(format!("unknown padding mode `{other}`"))),
        })
    }
}

/// Folds a position into `low ..= high` by reflection at both ends.
fn fold(at: f32, low: f32, high: f32) -> f32 {
    let length = high - low;
    if length <= 0.0 || !at.is_finite() {
        return low;
    }
    let offset = (at - low).rem_euclid(2.0 * length);
    low + if offset > length { 2.0 * length - offset } else { offset }
}

/// One position alone.
pub(super) fn single(at: usize) -> Taps {
    Taps { at: [at, OUTSIDE, OUTSIDE, OUTSIDE], weights: [1.0, 0.0, 0.0, 0.0] }
}

/// What a sample of an image of a batch takes at a row and column, which may lie outside.
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
            // Without aligned corners the image ends half a pixel outside its last centres.
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
