//! Resizing, cropping and resampling of images `[…, height, width]`.
//!
//! Semantics follow the reference documentation of coremltools' `image_resizing` chapter.

use candle_core::{DType, Device};
use coreml_format::program::Opset;
use coreml_kernels::gather::AxisIndices;
use coreml_kernels::parallel;
use coreml_kernels::resample::{self, Between, OUTSIDE, Taps};

use crate::array::Array;
use crate::budget::{self, Counted, claim_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::rearrange;
use crate::shape::check_size;

mod sampling;

use sampling::{BoxLayout, Coordinates, Grid, Padding, single, taps_at};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("affine", IOS15, affine).kernel("sampling"),
    OpSpec::new("crop", IOS15, crop),
    OpSpec::new("crop_resize", IOS15_16_17, crop_resize).kernel("sampling"),
    OpSpec::new("resample", IOS15_16_17, resample).kernel("sampling"),
    OpSpec::new("resize", IOS17, resize).kernel("separable interpolation"),
    OpSpec::new("resize_bilinear", IOS15, resize_bilinear).kernel("separable interpolation"),
    OpSpec::new("resize_nearest_neighbor", IOS15, resize_nearest).kernel("gather"),
    OpSpec::new("upsample_bilinear", IOS15_16, upsample_bilinear).kernel("separable interpolation"),
    OpSpec::new("upsample_nearest_neighbor", IOS15, upsample_nearest).kernel("gather"),
];

fn size(b: &OpBuilder<'_>, name: &str, default: i64) -> Result<usize, OpError> {
    let n = b.attr_or(name, default)?;
    let n = usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| OpError::shape(format!("`{name}` is {n}")))?;
    check_size(&[n])
}

/// Height and width of a tensor with at least two dimensions.
fn plane(x: &Array) -> Result<(usize, usize), OpError> {
    match x.shape() {
        [.., h, w] => Ok((*h, *w)),
        other => Err(OpError::shape(format!("an image of shape {other:?}"))),
    }
}

/// Interpolates every plane at the given row and column positions.
fn interpolate(x: &Array, rows: &[f32], columns: &[f32]) -> Result<Array, OpError> {
    let (h, w) = plane(x)?;
    let mut shape = x.shape().to_vec();
    let rank = shape.len();
    (shape[rank - 2], shape[rank - 1]) = (rows.len(), columns.len());
    let count = check_size(&shape)?;
    if x.tensor().elem_count() == 0 || count == 0 {
        if count > 0 {
            return Err(OpError::shape(format!("an image of shape {:?} has nothing to interpolate", x.shape())));
        }
        return Array::from_f32(Vec::new(), &shape, x.dtype(), x.tensor().device());
    }
    let split = |&at: &f32, n: usize| {
        let low = (at.floor().max(0.0) as usize).min(n - 1);
        Between { low, high: (low + 1).min(n - 1), part: at - low as f32 }
    };
    let columns = budget::collect(columns.iter().map(|c| split(c, w)))?;
    let rows = budget::collect(rows.iter().map(|r| split(r, h)))?;
    let t = x.tensor().to_device(&Device::Cpu)?.counted_to_dtype(DType::F32)?;
    // Innermost channels stay innermost.
    let mut order: Vec<usize> = (0..rank).collect();
    let mut inner = 1;
    if rank > 2 && !t.is_contiguous() {
        order[rank - 3..].rotate_left(1);
        if t.permute(order.as_slice())?.is_contiguous() {
            inner = x.shape()[rank - 3];
        } else {
            order[rank - 3..].rotate_right(1);
        }
    }
    let t = layout::contiguous(&t.permute(order.as_slice())?)?;
    claim_of::<f32>(count)?;
    // Each thread keeps two rows.
    let _lines = budget::lent(columns.len().saturating_mul(inner * 2 * size_of::<f32>() * parallel::threads()))?;
    let out = with_f32s(&t, |x| resample::bilinear(x, (h, w), inner, &rows, &columns));
    let out = out.ok_or_else(|| OpError::data("an image outside the CPU's memory"))?;
    Array::new(layout::from_memory(out, &shape, &order, x.tensor())?, x.dtype())
}

/// Gathers elements of every plane at the given rows and columns.
fn pick(x: &Array, rows: Vec<usize>, columns: Vec<usize>) -> Result<Array, OpError> {
    let mut places: Vec<AxisIndices> = x.shape().iter().map(|&n| AxisIndices::Run(0..n)).collect();
    let rank = x.rank();
    (places[rank - 2], places[rank - 1]) = (AxisIndices::At(rows), AxisIndices::At(columns));
    Ok(x.with(rearrange::pick(x.tensor(), &places, None)?))
}

/// `resize_bilinear(x, target_size_height = 1, target_size_width = 1, sampling_mode = "DEFAULT")`.
fn resize_bilinear(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (height, width) = (size(b, "target_size_height", 1)?, size(b, "target_size_width", 1)?);
    let grid = Grid::new(b)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let (h, w) = plane(&x)?;
        one(interpolate(&x, &grid.points(h, height)?, &grid.points(w, width)?)?)
    })
}

/// Nearest source index of each position: floor(i · n / size).
fn nearest(n: usize, size: usize) -> Result<Vec<usize>, OpError> {
    budget::collect((0..size).map(|i| ((i as f32 * (n as f32 / size as f32)) as usize).min(n.saturating_sub(1))))
}

/// `resize_nearest_neighbor(x, target_size_height, target_size_width)`.
fn resize_nearest(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (height, width) = (size(b, "target_size_height", 1)?, size(b, "target_size_width", 1)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let (h, w) = plane(&x)?;
        check_size(&[height, width])?;
        one(pick(&x, nearest(h, height)?, nearest(w, width)?)?)
    })
}

/// `resize(x, shape, resized_dims, interpolation_mode = "LINEAR", sampling_mode = "DEFAULT")`.
fn resize(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let shape = b.param::<Vec<i64>>("shape")?;
    let dims = size(b, "resized_dims", 2)?;
    let nearest = b.choice("interpolation_mode", &[("LINEAR", false), ("NEAREST_NEIGHBOR", true)])?;
    let grid = Grid::new(b)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let shape = shape.get(f)?;
        let (h, w) = plane(&x)?;
        let target = |back: usize, n: usize| -> Result<usize, OpError> {
            if back > dims {
                return Ok(n);
            }
            match shape.len().checked_sub(back).and_then(|i| shape.get(i)) {
                Some(0) | None => Ok(n),
                Some(&v) => usize::try_from(v).map_err(|_| OpError::shape(format!("a target of {v}"))),
            }
        };
        if dims > 2
            && (3..=dims.min(x.rank()))
                .any(|d| target(d, x.shape()[x.rank() - d]).ok() != Some(x.shape()[x.rank() - d]))
        {
            return Err(OpError::Unsupported("resize of more than two dimensions".to_owned()));
        }
        let (height, width) = (target(2, h)?, target(1, w)?);
        check_size(&[height, width])?;
        if nearest {
            let rows = |n: usize, to| -> Result<Vec<usize>, OpError> {
                let at = |v: f32| (v.round() as usize).min(n.saturating_sub(1));
                budget::collect(grid.points(n, to)?.into_iter().map(at))
            };
            return one(pick(&x, rows(h, height)?, rows(w, width)?)?);
        }
        one(interpolate(&x, &grid.points(h, height)?, &grid.points(w, width)?)?)
    })
}

fn scaled(n: usize, scale: f32) -> Result<usize, OpError> {
    let size = (n as f32 * scale).floor();
    if size.is_finite() && size >= 0.0 {
        check_size(&[size as usize])
    } else {
        Err(OpError::shape(format!("a scale of {scale}")))
    }
}

/// `upsample_nearest_neighbor(x, scale_factor_height = 1, scale_factor_width = 1)`.
fn upsample_nearest(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (sh, sw) = (b.attr_or("scale_factor_height", 1f32)?, b.attr_or("scale_factor_width", 1f32)?);
    b.run(move |f| {
        let x = f.array(x)?;
        let (h, w) = plane(&x)?;
        one(pick(&x, nearest(h, scaled(h, sh)?)?, nearest(w, scaled(w, sw)?)?)?)
    })
}

/// `upsample_bilinear(x, scale_factor_height = 1, scale_factor_width = 1, align_corners = true,
/// half_pixel_centers (iOS16) = !align_corners)`.
fn upsample_bilinear(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (sh, sw) = (b.attr_or("scale_factor_height", 1f32)?, b.attr_or("scale_factor_width", 1f32)?);
    let align = b.attr_or("align_corners", true)?;
    let half = b.attr_since(Opset::Ios16, "half_pixel_centers", !align)?;
    if align && half {
        return Err(OpError::Unsupported("`align_corners` together with `half_pixel_centers`".to_owned()));
    }
    b.run(move |f| {
        let x = f.array(x)?;
        let (h, w) = plane(&x)?;
        let points = |n: usize, s: f32| -> Result<Vec<f32>, OpError> {
            let out = scaled(n, s)?;
            let last = n.saturating_sub(1) as f32;
            // From the actual sizes, even if the scale implies a fractional size.
            let step = n as f32 / out.max(1) as f32;
            budget::collect((0..out).map(|i| {
                let i = i as f32;
                let at = match (align, half) {
                    (true, _) => {
                        if out > 1 {
                            i * last / (out - 1) as f32
                        } else {
                            0.0
                        }
                    }
                    (false, true) => (i + 0.5) * step - 0.5,
                    (false, false) => i * step,
                };
                at.clamp(0.0, last)
            }))
        };
        one(interpolate(&x, &points(h, sh)?, &points(w, sw)?)?)
    })
}

/// `crop(x, crop_height, crop_width)`: each a pair of counts to drop at both ends.
fn crop(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (rows, columns): (Vec<i64>, Vec<i64>) = (b.attr("crop_height")?, b.attr("crop_width")?);
    b.run(move |f| {
        let x = f.array(x)?;
        let (h, w) = plane(&x)?;
        let keep = |n: usize, cut: &[i64]| -> Result<(usize, usize), OpError> {
            let bad = || OpError::shape(format!("crop of {cut:?} from {n}"));
            let &[before, after] = cut else { return Err(bad()) };
            let (before, after) =
                (usize::try_from(before).map_err(|_| bad())?, usize::try_from(after).map_err(|_| bad())?);
            let left = before.checked_add(after).and_then(|c| n.checked_sub(c)).ok_or_else(bad)?;
            Ok((before, left))
        };
        let ((top, height), (left, width)) = (keep(h, &rows)?, keep(w, &columns)?);
        let t = x.tensor().narrow(x.rank() - 2, top, height)?.narrow(x.rank() - 1, left, width)?;
        one(x.with(t))
    })
}

/// Samples `x[N, C, h, w]` to `[images, C, rows, columns]` with `taps` by image, row and column index.
fn sampled(
    x: &Array,
    images: usize,
    (rows, columns): (usize, usize),
    padding: Padding,
    taps: impl Fn(usize) -> Taps + Sync,
) -> Result<Array, OpError> {
    let channels = x.shape()[1];
    let outside = if let Padding::Constant(value) = padding { value } else { 0.0 };
    let image = x.tensor().to_device(&Device::Cpu)?.counted_to_dtype(DType::F32)?;
    let image = layout::contiguous(&image.permute([0, 2, 3, 1].as_slice())?)?;
    claim_of::<f32>(check_size(&[images, rows, columns, channels])?)?;
    let out = with_f32s(&image, |x| resample::sample(x, channels, images * rows * columns, outside, taps));
    let out = out.ok_or_else(|| OpError::data("an image outside the CPU's memory"))?;
    let t = layout::from_memory(out, &[images, channels, rows, columns], &[0, 2, 3, 1], x.tensor())?;
    Array::new(t, x.dtype())
}

/// `resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)`.
///
/// `align_corners` maps the ends of normalized coordinates to the centres of the outermost pixels; otherwise to their
/// outer edges. Pixel coordinates count from centre to centre.
fn resample(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, coordinates) = (b.slot("x")?, b.slot("coordinates")?);
    let linear = b.required_choice("sampling_mode", &[("bilinear", true), ("nearest", false)])?;
    let padding = Padding::new(b)?;
    let mode = b.required_choice(
        "coordinates_mode",
        &[
            ("normalized_minus_one_to_one", Coordinates::Signed),
            ("normalized_zero_to_one", Coordinates::Unit),
            ("unnormalized", Coordinates::Pixels),
        ],
    )?;
    let align = b.attr::<bool>("align_corners")?;
    b.run(move |f| {
        let (x, coordinates) = (f.array(x)?, f.array(coordinates)?);
        let (&[n, c, h, w], &[n2, rows, columns, 2]) = (x.shape(), coordinates.shape()) else {
            return Err(OpError::shape(format!("image {:?}, coordinates {:?}", x.shape(), coordinates.shape())));
        };
        if n != n2 || h == 0 || w == 0 {
            return Err(OpError::shape(format!("image {:?}, coordinates {:?}", x.shape(), coordinates.shape())));
        }
        let place = |v: f32, extent: usize| {
            let unit = match mode {
                Coordinates::Signed => (v + 1.0) / 2.0,
                Coordinates::Unit => v,
                Coordinates::Pixels => return v,
            };
            if align { unit * (extent - 1) as f32 } else { unit * extent as f32 - 0.5 }
        };
        check_size(&[n, c, rows, columns])?;
        let points = coordinates.to_f32s()?;
        let (points, align) = (points.as_chunks::<2>().0, align || mode == Coordinates::Pixels);
        let taps = |i: usize| {
            let at = (place(points[i][1], h), place(points[i][0], w));
            taps_at(i / (rows * columns), (h, w), at, linear, padding, align)
        };
        one(sampled(&x, n, (rows, columns), padding, taps)?)
    })
}

/// `affine(x, transform_matrix, output_height, output_width, sampling_mode = "bilinear", padding_mode = "constant",
/// padding_value, coordinates_mode = "normalized_minus_one_to_one", align_corners)`: the operation defines no other
/// values for its modes.
///
/// Coordinates of −1 and 1 are the centres of the outermost pixels of output and input; without aligned corners, their
/// outer edges.
fn affine(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, matrix) = (b.slot("x")?, b.slot("transform_matrix")?);
    let (rows, columns) = (size(b, "output_height", 1)?, size(b, "output_width", 1)?);
    b.required_choice("sampling_mode", &[("bilinear", ())])?;
    b.required_choice("padding_mode", &[("constant", ())])?;
    b.required_choice("coordinates_mode", &[("normalized_minus_one_to_one", ())])?;
    let padding = Padding::Constant(b.attr_or("padding_value", 0f32)?);
    let align = b.attr::<bool>("align_corners")?;
    b.run(move |f| {
        let (x, matrix) = (f.array(x)?, f.array(matrix)?);
        let (&[n, c, h, w], &[d, 6]) = (x.shape(), matrix.shape()) else {
            return Err(OpError::shape(format!("image {:?}, matrix {:?}", x.shape(), matrix.shape())));
        };
        if (d != 1 && d != n) || h == 0 || w == 0 {
            return Err(OpError::shape(format!("image {:?}, matrix {:?}", x.shape(), matrix.shape())));
        }
        check_size(&[n, c, rows, columns])?;
        let m = matrix.to_f32s()?;
        let unit = |i: usize, n: usize| match align {
            true if n > 1 => 2.0 * i as f32 / (n - 1) as f32 - 1.0,
            true => -1.0,
            false => (2 * i + 1) as f32 / n as f32 - 1.0,
        };
        let taps = |i: usize| {
            let (batch, row, column) = (i / columns / rows, i / columns % rows, i % columns);
            let m = &m[if d == 1 { 0 } else { batch * 6 }..][..6];
            let (u, v) = (unit(column, columns), unit(row, rows));
            let at = |a: &[f32], extent: usize| {
                let at = (a[0] * u + a[1] * v + a[2] + 1.0) / 2.0;
                if align { at * (extent - 1) as f32 } else { at * extent as f32 - 0.5 }
            };
            taps_at(batch, (h, w), (at(&m[3..], h), at(m, w)), true, padding, true)
        };
        one(sampled(&x, n, (rows, columns), padding, taps)?)
    })
}

/// `crop_resize(x, roi | boxes (iOS17), box_indices (iOS17), target_height = 1, target_width = 1,
/// normalized_coordinates = false, spatial_scale = 1, box_coordinate_mode, sampling_mode, pad_value (iOS16))`.
///
/// Samples outside the image are `pad_value` from opset iOS16 on, the nearest pixel in earlier ones; there, a box that
/// ends above its start covers the whole image (following Apple's tests of the operation).
fn crop_resize(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let new = b.since(Opset::Ios17);
    let (x, boxes) = (b.slot("x")?, b.slot(if new { "boxes" } else { "roi" })?);
    let indices = if new { b.slot_opt("box_indices")? } else { None };
    let (height, width) = (size(b, "target_height", 1)?, size(b, "target_width", 1)?);
    let normalized = b.attr_or("normalized_coordinates", false)?;
    let scale = b.attr_or("spatial_scale", 1f32)?;
    let (layout, grid) = (BoxLayout::new(b)?, Grid::new(b)?);
    let pads = b.since(Opset::Ios16);
    let padding = if pads { Padding::Constant(b.attr_or("pad_value", 0f32)?) } else { Padding::Border };
    b.run(move |f| {
        let (x, boxes) = (f.array(x)?, f.array(boxes)?);
        let &[n, c, h, w] = x.shape() else { return Err(OpError::shape(format!("an image of shape {:?}", x.shape()))) };
        let fields = if new { 4 } else { boxes.shape().get(2).copied().unwrap_or(0) };
        let values = boxes.to_f32s()?;
        if !(4..=5).contains(&fields) || values.len() % fields != 0 || h == 0 || w == 0 {
            return Err(OpError::shape(format!("boxes of shape {:?}", boxes.shape())));
        }
        let chosen = f.array_opt(indices)?.map(|i| i.to_i64s()).transpose()?;
        let count = values.len() / fields;
        let per_box = if fields == 5 || new { 1 } else { n };
        check_size(&[count, per_box, c, height, width])?;
        let mut places = budget::room(count)?;
        claim_of::<f32>(check_size(&[count, height.saturating_add(width)])?)?;
        for (k, row) in values.chunks_exact(fields).enumerate() {
            let mut coordinates = &row[fields - 4..];
            if !pads && normalized && layout.is_corners() && coordinates[..2] > coordinates[2..] {
                coordinates = &[0.0, 0.0, 1.0, 1.0];
            }
            let first = match (&chosen, fields) {
                (Some(c), _) => c.get(k).copied().unwrap_or(-1),
                (None, 5) => row[0] as i64,
                (None, _) if new => k as i64,
                _ => 0,
            };
            let first = usize::try_from(first).ok().filter(|&i| i + per_box <= n);
            let first =
                first.ok_or_else(|| OpError::shape(format!("box {k} is of an image outside the batch of {n}")))?;
            let (rows, columns) =
                sampling::box_points(coordinates, layout, (h, w), (height, width), normalized, scale, grid)?;
            places.push((first, rows, columns));
        }
        let taps = |i: usize| {
            let (index, row, column) = (i / width / height, i / width % height, i % width);
            let (first, rows, columns) = &places[index / per_box];
            let (r, s) = (rows[row], columns[column]);
            let inside = (0.0..=(h - 1) as f32).contains(&r) && (0.0..=(w - 1) as f32).contains(&s);
            match padding {
                Padding::Constant(_) if !inside => single(OUTSIDE),
                _ => taps_at(first + index % per_box, (h, w), (r, s), true, padding, true),
            }
        };
        let out = sampled(&x, count * per_box, (height, width), padding, taps)?;
        let shape = if new { vec![count, c, height, width] } else { vec![count, per_box, c, height, width] };
        one(out.with(layout::reshape(out.tensor(), &shape)?))
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn upsample_nearest_neighbor_repeats_pixels() {
        let body = "tensor<fp32, [1, 1, 2, 4]> y = upsample_nearest_neighbor(x = x, scale_factor_height = fp32(2), scale_factor_width = fp32(2));";
        near(&of(body, &[1, 1, 1, 2], &[1.0, 2.0]), &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn resize_bilinear_with_aligned_corners_keeps_them() {
        let body = "tensor<fp32, [1, 1, 1, 3]> y = resize_bilinear(x = x, target_size_height = int32(1), target_size_width = int32(3), \
            sampling_mode = string(\"STRICT_ALIGN_CORNERS\"));";
        near(&of(body, &[1, 1, 1, 2], &[0.0, 1.0]), &[0.0, 0.5, 1.0]);
    }
}
