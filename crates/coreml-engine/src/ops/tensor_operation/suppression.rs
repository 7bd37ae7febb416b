//! `non_maximum_suppression`: keeps the best of overlapping boxes.

use coreml_format::dtype::DataType;
use coreml_format::program::Opset;

use crate::array::Array;
use crate::budget::{self, Counted};
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::op::INTERNAL;
use crate::planned::Run;
use crate::shape::check_size;
use crate::value::Value;

/// Swaps the last two dimensions.
fn swap_last(x: &Array) -> Result<Array, OpError> {
    if x.rank() < 2 {
        return Err(OpError::shape(format!("boxes or scores of shape {:?}", x.shape())));
    }
    Ok(x.with(x.tensor().transpose(x.rank() - 2, x.rank() - 1)?.counted_contiguous()?))
}

/// Intersection over union of two boxes (x, y, width, height around the centre).
fn iou(a: &[f32], b: &[f32]) -> f32 {
    let (lo, hi) = (|v: &[f32], d: usize| v[d] - v[d + 2] / 2.0, |v: &[f32], d: usize| v[d] + v[d + 2] / 2.0);
    let overlap = |d: usize| (hi(a, d).min(hi(b, d)) - lo(a, d).max(lo(b, d))).max(0.0);
    let both = overlap(0) * overlap(1);
    let total = a[2] * a[3] + b[2] * b[3] - both;
    if total > 0.0 { both / total } else { 0.0 }
}

/// `non_maximum_suppression(boxes, scores, iou_threshold, score_threshold, max_boxes, per_class_suppression
/// = false)` → boxes `[n, max, 4]`, scores `[n, max, K]`, indices, number of boxes.
///
/// From iOS17 on, without `score_threshold` and the number of boxes, and with the boxes along the last dimension: `[n,
/// 4, B]` and `[n, K, B]`.
///
/// `engine.suppress_boxes`, of a layer of a network, has the parameters of iOS15, thresholds and number may be computed,
/// and the best box stays if none has the score.
pub(in crate::ops) fn nms(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (boxes, scores) = (b.slot("boxes")?, b.slot("scores")?);
    let layer = b.op().kind.starts_with(INTERNAL);
    let boxes_last = !layer && b.opset() >= Opset::Ios17;
    let iou_limit = b.param::<f32>("iou_threshold")?;
    let score_limit = if boxes_last { None } else { Some(b.param::<f32>("score_threshold")?) };
    let most = b.param::<i64>("max_boxes")?;
    if !layer && (iou_limit.constant().is_none() || most.constant().is_none()) {
        return Err(OpError::Unsupported("computed parameters of `non_maximum_suppression`".to_owned()));
    }
    let per_class = b.attr_or("per_class_suppression", false)?;
    b.run(move |f| {
        let iou_limit = *iou_limit.get(f)?;
        let score_limit = score_limit.as_ref().map(|limit| limit.get(f).map(|v| *v)).transpose()?;
        let most = usize::try_from(*most.get(f)?).map_err(|_| OpError::shape("a negative `max_boxes`"))?;
        let (mut boxes, mut scores) = (f.array(boxes)?, f.array(scores)?);
        if boxes_last {
            (boxes, scores) = (swap_last(&boxes)?, swap_last(&scores)?);
        }
        let (&[batch, count, 4], &[_, _, classes]) = (boxes.shape(), scores.shape()) else {
            return Err(OpError::shape(format!("boxes {:?}, scores {:?}", boxes.shape(), scores.shape())));
        };
        if scores.shape()[..2] != [batch, count] {
            return Err(OpError::shape(format!("boxes {:?}, scores {:?}", boxes.shape(), scores.shape())));
        }
        check_size(&[batch, most, classes.max(4)])?;
        let (all_boxes, all_scores) = (boxes.to_f32s()?, scores.to_f32s()?);
        let mut out_boxes = budget::filled(0f32, batch * most * 4)?;
        let mut out_scores = budget::filled(0f32, batch * most * classes)?;
        let mut out_index = budget::filled(-1i64, batch * most)?;
        let mut numbers = budget::filled(0i64, batch)?;
        // Order and kept boxes of an image, and sort temporaries. Each box is compared with all kept ones, and their
        // best classes are found each time.
        let _order = budget::lent(count.saturating_mul(4 * size_of::<usize>()))?;
        budget::products(&[batch, count, most.min(count), if per_class { 4 + 2 * classes } else { 4 }])?;
        for n in 0..batch {
            let boxes = &all_boxes[n * count * 4..(n + 1) * count * 4];
            let scores = &all_scores[n * count * classes..(n + 1) * count * classes];
            let best = |i: usize| {
                let row = &scores[i * classes..(i + 1) * classes];
                row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (c, &s)| if s > b.1 { (c, s) } else { b })
            };
            let mut order: Vec<usize> = (0..count).filter(|&i| score_limit.is_none_or(|s| best(i).1 > s)).collect();
            if layer && order.is_empty() {
                // The first of the best.
                order.extend((0..count).rev().max_by(|&a, &b| best(a).1.total_cmp(&best(b).1)));
            }
            order.sort_by(|&a, &b| best(b).1.total_cmp(&best(a).1));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() == most {
                    break;
                }
                let clash = |&k: &usize| {
                    (!per_class || best(k).0 == best(i).0)
                        && iou(&boxes[k * 4..k * 4 + 4], &boxes[i * 4..i * 4 + 4]) > iou_limit
                };
                if !kept.iter().any(clash) {
                    kept.push(i);
                }
            }
            numbers[n] = kept.len() as i64;
            for (slot, &i) in kept.iter().enumerate() {
                let at = n * most + slot;
                out_boxes[at * 4..at * 4 + 4].copy_from_slice(&boxes[i * 4..i * 4 + 4]);
                out_scores[at * classes..(at + 1) * classes].copy_from_slice(&scores[i * classes..(i + 1) * classes]);
                out_index[at] = i as i64;
            }
        }
        let d = f.device();
        let out_boxes = Array::from_f32(out_boxes, &[batch, most, 4], boxes.dtype(), d)?;
        let out_scores = Array::from_f32(out_scores, &[batch, most, classes], scores.dtype(), d)?;
        let out_index = Value::Array(Array::from_i64(out_index, &[batch, most], DataType::I32, d)?);
        if boxes_last {
            return Ok(vec![Value::Array(swap_last(&out_boxes)?), Value::Array(swap_last(&out_scores)?), out_index]);
        }
        let numbers = Value::Array(Array::from_i64(numbers, &[batch], DataType::I32, d)?);
        Ok(vec![Value::Array(out_boxes), Value::Array(out_scores), out_index, numbers])
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn boxes_that_overlap_a_better_one_are_left_out() {
        // x, y, width and height of three boxes; the second overlaps the first by more than half.
        let body = "tensor<fp32, [?, ?, ?]> y, tensor<fp32, [?, ?, ?]> sc, tensor<int32, [?, ?]> i = non_maximum_suppression(boxes = x, \
            scores = tensor<fp32, [1, 1, 3]>([[[0.8, 0.7, 0.1]]]), iou_threshold = fp32(0.5), max_boxes = int32(2));";
        let boxes = [0.0, 0.1, 9.0, 0.0, 0.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0];
        near(&of(body, &[1, 4, 3], &boxes), &[0.0, 9.0, 0.0, 9.0, 2.0, 2.0, 2.0, 2.0]);
        near(&of(&body.replace("fp32(0.5)", "fp32(1)"), &[1, 4, 3], &boxes), &[0.0, 0.1, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0]);
    }
}
