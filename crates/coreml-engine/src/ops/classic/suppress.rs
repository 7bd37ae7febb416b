//! `engine.suppress`: boxes without those that overlap better ones.

use super::{Declared, numbers, shape_of};
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.suppress", &[], build);

/// A matrix of `columns`, possibly with leading extents of one.
fn matrix(f: &Frame<'_>, slot: Slot, name: &str) -> Result<(Vec<f64>, usize, usize), OpError> {
    let shape = shape_of(f.value(slot)?);
    match shape.as_slice() {
        [leading @ .., rows, columns] if leading.iter().all(|&n| n == 1) => Ok((numbers(f, &[slot])?, *rows, *columns)),
        _ => Err(OpError::shape(format!("`{name}` has shape {shape:?}, not boxes by columns"))),
    }
}

/// A threshold given, or that of the model where none is given (NaN).
fn threshold(f: &Frame<'_>, given: Option<Slot>, or: f64, most: f64, name: &str) -> Result<f64, OpError> {
    let given = given.map(|slot| numbers(f, &[slot])).transpose()?;
    match given.as_deref() {
        None => Ok(or),
        Some([x]) if x.is_nan() => Ok(or),
        Some([x]) if (0.0..=most).contains(x) => Ok(*x),
        Some([x]) => Err(OpError::data(format!("the threshold `{name}` is {x}, not from 0 to {most}"))),
        Some(all) => Err(OpError::shape(format!("{} thresholds `{name}`", all.len()))),
    }
}

/// Intersection over union of two boxes of center, width and height; 0 of boxes without area.
fn overlap(a: &[f64], b: &[f64]) -> f64 {
    let side = |c: usize| {
        let half = |r: &[f64]| (r[c] - r[c + 2] / 2.0, r[c] + r[c + 2] / 2.0);
        let (a, b) = (half(a), half(b));
        (a.1.min(b.1) - a.0.max(b.0)).max(0.0)
    };
    let both = side(0) * side(1);
    let all = a[2] * a[3] + b[2] * b[3] - both;
    if all > 0.0 { both / all } else { 0.0 }
}

/// `engine.suppress(confidence, coordinates, iou, least, iou_given?, least_given?, per_class, fewest, most)` → confidences
/// and coordinates of the boxes that stay, best first.
///
/// Boxes count by the confidence of their best class. Those below `least` go; then each box suppresses every worse one
/// with which its intersection over union is above `iou`, with `per_class` only of its own best class. Of results more
/// than `most` (−1: any number) the best stay, and rows of zeros fill up to `fewest`.
///
/// Definition: coremltools' `NonMaximumSuppression.proto`, PickTop.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (confidence, coordinates) = (b.slot("confidence")?, b.slot("coordinates")?);
    let declared = [Declared::of(b, 0)?, Declared::of(b, 1)?];
    let (iou, least): (f64, f64) = (b.attr("iou")?, b.attr("least")?);
    let (iou_given, least_given) = (b.slot_opt("iou_given")?, b.slot_opt("least_given")?);
    let (per_class, fewest): (bool, i64) = (b.attr("per_class")?, b.attr("fewest")?);
    let most = usize::try_from(b.attr::<i64>("most")?).ok();
    let fewest = usize::try_from(fewest).map_err(|_| OpError::data(format!("at least {fewest} boxes")))?;
    b.run(move |f| {
        let (scores, count, classes) = matrix(f, confidence, "confidence")?;
        let (boxes, rows, four) = matrix(f, coordinates, "coordinates")?;
        if rows != count || four != 4 || classes == 0 {
            let found = format!("coordinates [{rows}, {four}] for confidences [{count}, {classes}]");
            return Err(OpError::shape(found));
        }
        let iou = threshold(f, iou_given, iou, 1.0, "iou")?;
        let least = threshold(f, least_given, least, f64::MAX, "confidence")?;
        budget::claim_of::<[usize; 4]>(count)?;
        let best = |row: &[f64]| (0..classes).fold(0, |b, i| if row[i] > row[b] { i } else { b });
        let mut open: Vec<(f64, usize, usize)> = Vec::with_capacity(count);
        for (i, row) in scores.chunks(classes).enumerate() {
            if row.iter().any(|x| x.is_nan()) {
                return Err(OpError::data(format!("the confidence of box {i} is not a number")));
            }
            let class = best(row);
            if row[class] >= least {
                open.push((row[class], i, class));
            }
        }
        // The sort is stable: of equal boxes the first counts as better.
        open.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut kept: Vec<(usize, usize)> = Vec::new();
        for &(_, i, class) in &open {
            if most.is_some_and(|most| kept.len() >= most) {
                break;
            }
            budget::work(kept.len() as u64)?;
            let row = |i: usize| &boxes[4 * i..4 * i + 4];
            let covered =
                |&(j, other): &(usize, usize)| (!per_class || other == class) && overlap(row(i), row(j)) > iou;
            if !kept.iter().any(covered) {
                kept.push((i, class));
            }
        }
        let rows = kept.len().max(fewest);
        let gather = |from: &[f64], width: usize| {
            let mut out = budget::filled(0.0, rows.saturating_mul(width))?;
            for (to, &(i, _)) in out.chunks_mut(width).zip(&kept) {
                to.copy_from_slice(&from[i * width..(i + 1) * width]);
            }
            Ok::<_, OpError>(out)
        };
        Ok(vec![
            declared[0].value(gather(&scores, classes)?, &[rows, classes])?,
            declared[1].value(gather(&boxes, 4)?, &[rows, 4])?,
        ])
    })
}
