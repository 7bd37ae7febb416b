//! Layers that change the shape, or the order of elements.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::shape::{
    BroadcastToStatic, ExpandDims, Flatten, FlattenOrder, FlattenTo2d, MatrixBandPart, Permute, RankPreservingReshape,
    ReorganizationType, ReorganizeData, Reshape, ReshapeOrder, ReshapeStatic, Reverse, ReverseSeq, SequenceRepeat,
    Squeeze, Tile, Transpose, Triangular,
};

use coreml_format::program::{Argument, Binding, Value};

use super::build::{Blob, Extent, Network, int, ints, of, product, shown};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// The orders `[…, C, H, W]` to `[…, H, W, C]` and back.
fn last(rank: usize, left: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    if left {
        order[rank - 3..].rotate_left(1);
    } else {
        order[rank - 3..].rotate_right(1);
    }
    order
}

pub(super) fn reshape(n: &mut Network, layer: &NeuralNetworkLayer, p: &Reshape) -> Lowered<()> {
    let x = n.only(layer)?;
    if x.rank() < 4 {
        return n.refuse(format!("its input has rank {}", x.rank()));
    }
    let target: Vec<Extent> =
        n.sizes("targetShape", &p.target_shape)?.iter().map(|&d| usize::try_from(d).ok()).collect();
    if target.contains(&None) {
        return n.refuse(format!("`targetShape` is {:?}", p.target_shape));
    }
    let (x, mut shape, tail) = match *target {
        [_, _, _] => (x.clone(), x.shape[..x.shape.len() - 3].to_vec(), target),
        [sequence, ..] if target.len() == 4 => {
            let x = n.full(&x);
            if x.shape.len() != 5 {
                return n.refuse("its input has no sequence axis");
            }
            // Elements of several batches would be mixed with those of the sequence.
            if x.shape[1] != Some(1) && x.shape[0] != sequence {
                return n.refuse("it changes the sequence axis of a batch");
            }
            let batch = x.shape[1];
            (x, vec![sequence, batch], target[1..].to_vec())
        }
        _ => return n.refuse(format!("`targetShape` is {:?}", p.target_shape)),
    };
    let y = match n.choice("mode", p.mode)? {
        ReshapeOrder::ChannelFirst => {
            shape.extend(tail);
            n.reshape(&x, shape)?
        }
        ReshapeOrder::ChannelLast => {
            let rank = x.shape.len();
            let y = n.transpose(&x, &last(rank, true));
            shape.extend([tail[1], tail[2], tail[0]]);
            let y = n.reshape(&y, shape)?;
            n.transpose(&y, &last(rank, false))
        }
    };
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn flatten(n: &mut Network, layer: &NeuralNetworkLayer, p: &Flatten) -> Lowered<()> {
    let x = n.only(layer)?;
    let rank = x.shape.len();
    if rank < 3 {
        return n.refuse(format!("its input has rank {rank}"));
    }
    let ready = match n.choice("mode", p.mode)? {
        FlattenOrder::ChannelFirst => x.clone(),
        FlattenOrder::ChannelLast => n.transpose(&x, &last(rank, true)),
    };
    let mut shape = x.shape[..rank - 3].to_vec();
    shape.extend([product(&x.shape[rank - 3..]), Some(1), Some(1)]);
    let y = n.reshape(&ready, shape)?;
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn permute(n: &mut Network, layer: &NeuralNetworkLayer, p: &Permute) -> Lowered<()> {
    let x = n.only(layer)?;
    if x.rank() < 4 {
        return n.refuse(format!("its input has rank {}", x.rank()));
    }
    let mut sorted = p.axis.clone();
    sorted.sort_unstable();
    if sorted != [0, 1, 2, 3] {
        return n.refuse(format!("`axis` is {:?}", p.axis));
    }
    let y = if p.axis[0] == 0 && x.shape.len() == 4 {
        let order: Vec<usize> = p.axis.iter().map(|&a| a as usize).collect();
        n.transpose(&x, &order)
    } else {
        let x = n.full(&x);
        if x.shape.len() != 5 {
            return n.refuse("its input has no sequence axis");
        }
        // The batch stays where it is.
        let place = |a: u64| if a == 0 { 0 } else { a as usize + 1 };
        let order = [place(p.axis[0]), 1, place(p.axis[1]), place(p.axis[2]), place(p.axis[3])];
        n.transpose(&x, &order)
    };
    n.write(layer, vec![y])
}

pub(super) fn transpose(n: &mut Network, layer: &NeuralNetworkLayer, p: &Transpose) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let mut sorted = p.axes.clone();
    sorted.sort_unstable();
    // An image has a leading axis of 1 that its layers may not count.
    let more = x.shape.len().saturating_sub(sorted.len());
    let x = match more > 0 && !sorted.is_empty() && x.shape[..more].iter().all(|d| *d == Some(1)) {
        true => n.reshape(&x, x.shape[more..].to_vec())?,
        false => x,
    };
    if sorted != (0..x.shape.len() as u64).collect::<Vec<_>>() {
        return n.refuse(format!("`axes` {:?} for a blob of rank {}", p.axes, x.shape.len()));
    }
    let order: Vec<usize> = p.axes.iter().map(|&a| a as usize).collect();
    let y = n.transpose(&x, &order);
    n.write(layer, vec![y])
}

pub(super) fn reorganize(n: &mut Network, layer: &NeuralNetworkLayer, p: &ReorganizeData) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, lead) = n.nchw(&x)?;
    let block = n.size("blockSize", p.block_size)?;
    if block < 1 {
        return n.refuse("`blockSize` is 0");
    }
    let size = block as usize;
    let up = |d: Extent| d.and_then(|d| d.checked_mul(size));
    let (s, area) = (x.shape.clone(), size.saturating_mul(size));
    let down = |d: Extent, by: usize| d.map_or(Some(None), |d| d.is_multiple_of(by).then_some(Some(d / by)));
    let (kind, name, tail) = match n.choice("mode", p.mode)? {
        ReorganizationType::SpaceToDepth => {
            ("space_to_depth", "block_size", [s[1].map(|c| c.checked_mul(area)), down(s[2], size), down(s[3], size)])
        }
        ReorganizationType::DepthToSpace => {
            ("depth_to_space", "block_size", [down(s[1], area), Some(up(s[2])), Some(up(s[3]))])
        }
        ReorganizationType::PixelShuffle => {
            ("pixel_shuffle", "upscale_factor", [down(s[1], area), Some(up(s[2])), Some(up(s[3]))])
        }
    };
    let [Some(c), Some(h), Some(w)] = tail else {
        return n.refuse(format!("blocks of {block} for a blob of {}", shown(&s)));
    };
    let y = n.op(kind, vec![("x", of(&x)), (name, int(block))], vec![s[0], c, h, w]);
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

pub(super) fn squeeze(n: &mut Network, layer: &NeuralNetworkLayer, p: &Squeeze) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let rank = x.shape.len();
    let mut gone = vec![false; rank];
    if p.squeeze_all {
        if x.shape.contains(&None) {
            return n.write_open(layer, "squeeze", vec![("x", of(&x))]);
        }
        for (gone, d) in gone.iter_mut().zip(&x.shape) {
            *gone = n.known("shape", *d)? == 1;
        }
    }
    for &axis in p.axes.iter().filter(|_| !p.squeeze_all) {
        gone[n.axis(&x, axis)?.1] = true;
    }
    // A blob has an axis at least.
    if gone.iter().all(|&g| g) && !gone.is_empty() {
        gone[0] = false;
    }
    if (0..rank).any(|i| gone[i] && x.shape[i].is_some_and(|d| d != 1)) {
        return n.refuse(format!("it squeezes axes {:?} of a blob of {}", p.axes, shown(&x.shape)));
    }
    let which: Vec<i32> = (0..rank).filter(|&i| gone[i]).map(|i| i as i32).collect();
    let shape = (0..rank).filter(|&i| !gone[i]).map(|i| x.shape[i]).collect();
    let y = match which.is_empty() {
        true => x,
        false => n.op("squeeze", vec![("x", of(&x)), ("axes", ints(&which))], shape),
    };
    n.write(layer, vec![y])
}

pub(super) fn expand_dims(n: &mut Network, layer: &NeuralNetworkLayer, p: &ExpandDims) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let rank = x.shape.len() + p.axes.len();
    let mut new = vec![false; rank];
    for &axis in &p.axes {
        let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        match usize::try_from(at).ok().and_then(|at| new.get_mut(at)) {
            Some(new) if !*new => *new = true,
            _ => return n.refuse(format!("`axes` is {:?} for a blob of rank {}", p.axes, x.shape.len())),
        }
    }
    let which: Vec<i32> = (0..rank).filter(|&i| new[i]).map(|i| i as i32).collect();
    let mut old = x.shape.iter().copied();
    let shape = new.iter().map(|&new| if new { Some(1) } else { old.next().flatten() }).collect();
    let y = n.op("expand_dims", vec![("x", of(&x)), ("axes", ints(&which))], shape);
    n.write(layer, vec![y])
}

pub(super) fn flatten_to_2d(n: &mut Network, layer: &NeuralNetworkLayer, p: &FlattenTo2d) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let at = if p.axis < 0 { p.axis.saturating_add(x.shape.len() as i64) } else { p.axis };
    let Some(at) = usize::try_from(at).ok().filter(|&at| at <= x.shape.len()) else {
        return n.refuse(format!("`axis` is {}", p.axis));
    };
    let shape = vec![product(&x.shape[..at]), product(&x.shape[at..])];
    let y = n.reshape(&x, shape)?;
    n.write(layer, vec![y])
}

pub(super) fn reshape_like(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let (x, like) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let (x, like) = (n.full(&x), n.full(&like));
    if like.shape.iter().filter(|d| d.is_none()).count() < 2 {
        let y = n.reshape(&x, like.shape)?;
        return n.write(layer, vec![y]);
    }
    let (argument, shape) = n.shape_of(&like)?;
    let y = n.op("reshape", vec![("x", of(&x)), ("shape", argument)], shape);
    n.write(layer, vec![y])
}

pub(super) fn reshape_static(n: &mut Network, layer: &NeuralNetworkLayer, p: &ReshapeStatic) -> Lowered<()> {
    let x = n.only(layer)?;
    let target = n.sizes("targetShape", &p.target_shape)?;
    if target.iter().any(|&d| d < -1 || d == 0) {
        return n.refuse(format!("`targetShape` is {target:?}"));
    }
    let y = n.reshape(&x, target.iter().map(|&d| usize::try_from(d).ok()).collect())?;
    n.write(layer, vec![y])
}

pub(super) fn rank_preserving(n: &mut Network, layer: &NeuralNetworkLayer, p: &RankPreservingReshape) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let target = n.sizes("targetShape", &p.target_shape)?;
    if target.len() != x.shape.len() || target.iter().any(|&d| d < -1) {
        return n.refuse(format!("`targetShape` is {target:?}"));
    }
    let shape = target.iter().zip(&x.shape).map(|(&d, &old)| if d == 0 { old } else { usize::try_from(d).ok() });
    let y = n.reshape(&x, shape.collect())?;
    n.write(layer, vec![y])
}

/// A blob, broadcast to a shape.
fn broadcast(n: &mut Network, x: &Blob, (argument, wanted): (Argument, Vec<Extent>)) -> Lowered<Blob> {
    let x = n.full(x);
    let shape = n.broadcast(&x.shape, &wanted)?;
    let grows = |(found, wanted): (&Extent, &Extent)| wanted.is_some() && found != wanted;
    if shape.len() != wanted.len() || shape.iter().zip(&wanted).any(grows) {
        return n.refuse(format!("{} is not broadcast to {}", shown(&x.shape), shown(&wanted)));
    }
    let zeros = n.op("fill", vec![("shape", argument), ("value", super::build::float(0.0))], wanted);
    n.binary("add", &x, &zeros)
}

pub(super) fn broadcast_dynamic(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let shape = n.listed_shape(layer, 1)?;
    let y = broadcast(n, &x, shape)?;
    n.write(layer, vec![y])
}

pub(super) fn reshape_dynamic(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let listed = n.input(layer, 1)?;
    if let Some(target) = n.integers(&listed) {
        let target = n.sizes("shape", &target)?;
        if target.iter().any(|&d| d < -1) {
            return n.refuse(format!("its shape is {target:?}"));
        }
        let y = n.reshape(&x, target.iter().map(|&d| usize::try_from(d).ok()).collect())?;
        return n.write(layer, vec![y]);
    }
    if let Some(shape) = n.open_shape(layer, 1)? {
        return n.write_open(layer, "reshape", vec![("x", of(&x)), ("shape", shape)]);
    }
    let (argument, shape) = n.listed_shape(layer, 1)?;
    let y = n.op("reshape", vec![("x", of(&x)), ("shape", argument)], shape);
    n.write(layer, vec![y])
}

pub(super) fn reverse_sequence(n: &mut Network, layer: &NeuralNetworkLayer, p: &ReverseSeq) -> Lowered<()> {
    let (x, lengths) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let x = n.full(&x);
    let lengths = n.list(&lengths)?;
    let (_, batch) = n.axis(&x, p.batch_axis)?;
    let (_, sequence) = n.axis(&x, p.sequence_axis)?;
    let more = vec![("lengths", of(&lengths)), ("seq_axis", int(sequence as i32)), ("batch_axis", int(batch as i32))];
    let y = n.map("reverse_sequence", &x, more);
    n.write(layer, vec![y])
}

pub(super) fn broadcast_to(n: &mut Network, layer: &NeuralNetworkLayer, p: &BroadcastToStatic) -> Lowered<()> {
    let x = n.only(layer)?;
    n.count(&p.target_shape)?;
    let target = n.sizes("targetShape", &p.target_shape)?;
    let shape = target.iter().map(|&d| Some(d as usize)).collect();
    let y = broadcast(n, &x, (ints(&target), shape))?;
    n.write(layer, vec![y])
}

pub(super) fn broadcast_like(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<()> {
    let (x, like) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let like = n.full(&like);
    let shape = n.shape_of(&like)?;
    let y = broadcast(n, &x, shape)?;
    n.write(layer, vec![y])
}

fn tiled(n: &mut Network, x: &Blob, reps: &[i32]) -> Lowered<Blob> {
    if reps.len() != x.shape.len() || reps.iter().any(|&r| r < 1) {
        return n.refuse(format!("{reps:?} repetitions of a blob of rank {}", x.shape.len()));
    }
    let shape = x.shape.iter().zip(reps).map(|(d, &r)| d.and_then(|d| d.checked_mul(r as usize))).collect();
    Ok(n.op("tile", vec![("x", of(x)), ("reps", ints(reps))], shape))
}

/// A blob of at least this rank: axes of 1 come before those that it has.
fn leading(n: &mut Network, x: &Blob, rank: usize) -> Blob {
    let missing = rank.saturating_sub(x.shape.len());
    if missing == 0 {
        return x.clone();
    }
    let shape = std::iter::repeat_n(Some(1), missing).chain(x.shape.iter().copied()).collect();
    let axes: Vec<i32> = (0..missing as i32).collect();
    n.op("expand_dims", vec![("x", of(x)), ("axes", ints(&axes))], shape)
}

/// Values, and an argument behind them.
fn ones_before(ones: Binding, argument: Argument) -> Argument {
    Argument::Many(std::iter::once(ones).chain(argument.bindings().iter().cloned()).collect())
}

pub(super) fn sequence_repeat(n: &mut Network, layer: &NeuralNetworkLayer, p: &SequenceRepeat) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let times = n.size("nRepetitions", p.n_repetitions)?;
    let y = tiled(n, &x, &[times, 1, 1, 1, 1])?;
    n.write(layer, vec![y])
}

pub(super) fn tile(n: &mut Network, layer: &NeuralNetworkLayer, p: &Tile) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let mut x = n.full(&x);
    let mut reps = n.sizes("reps", &p.reps)?;
    if layer.input.len() > 1 {
        let listed = n.input(layer, 1)?;
        match n.integers(&listed) {
            Some(known) => reps = n.sizes("reps", &known)?,
            None => {
                let (mut argument, extents) = n.listed_shape(layer, 1)?;
                let rank = extents.len().max(x.shape.len());
                x = leading(n, &x, rank);
                if extents.len() < rank {
                    let ones = Binding::Value(Value::ints(&vec![1; rank - extents.len()]));
                    let values = ones_before(ones, argument);
                    let inputs = vec![("values", values), ("axis", int(0)), ("interleave", super::build::flag(false))];
                    argument = of(&n.typed("concat", inputs, DataType::I32, vec![Some(rank)]));
                }
                let y = n.op("tile", vec![("x", of(&x)), ("reps", argument)], vec![None; rank]);
                return n.write(layer, vec![y]);
            }
        }
    }
    x = leading(n, &x, reps.len());
    let missing = x.shape.len() - reps.len();
    reps.splice(..0, std::iter::repeat_n(1, missing));
    let y = tiled(n, &x, &reps)?;
    n.write(layer, vec![y])
}

pub(super) fn reverse(n: &mut Network, layer: &NeuralNetworkLayer, p: &Reverse) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    if p.reverse_dim.len() != x.shape.len() {
        return n.refuse(format!("{} flags for a blob of rank {}", p.reverse_dim.len(), x.shape.len()));
    }
    let axes: Vec<i32> = (0..x.shape.len()).filter(|&i| p.reverse_dim[i]).map(|i| i as i32).collect();
    let y = if axes.is_empty() { x } else { n.map("reverse", &x, vec![("axes", ints(&axes))]) };
    n.write(layer, vec![y])
}

/// The elements of the last two axes near the diagonal; −1 keeps all on that side.
fn band(n: &mut Network, layer: &NeuralNetworkLayer, lower: i64, upper: i64) -> Lowered<()> {
    let x = n.only(layer)?;
    let bounds = [lower, upper].map(|b| i32::try_from(b.max(-1)).unwrap_or(i32::MAX));
    let y = n.map("band_part", &x, vec![("lower", int(bounds[0])), ("upper", int(bounds[1]))]);
    n.write(layer, vec![y])
}

/// The elements of the last two axes that [`band`] makes zero.
fn outside(n: &mut Network, layer: &NeuralNetworkLayer, lower: i64, upper: i64) -> Lowered<()> {
    let x = n.only(layer)?;
    let (argument, shape) = n.shape_of(&x)?;
    let ones = n.op("fill", vec![("shape", argument), ("value", super::build::float(1.0))], shape);
    let bounds = [lower, upper].map(|b| i32::try_from(b.max(-1)).unwrap_or(i32::MAX));
    let near = n.map("band_part", &ones, vec![("lower", int(bounds[0])), ("upper", int(bounds[1]))]);
    let near =
        n.typed("equal", vec![("x", of(&near)), ("y", super::build::float(1.0))], DataType::Bool, x.shape.clone());
    let zero = n.scalar(0.0);
    let y = n.op("select", vec![("cond", of(&near)), ("a", of(&zero)), ("b", of(&x))], x.shape.clone());
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn band_part(n: &mut Network, layer: &NeuralNetworkLayer, p: &MatrixBandPart) -> Lowered<()> {
    band(n, layer, p.num_lower, p.num_upper)
}

pub(super) fn lower_triangular(n: &mut Network, layer: &NeuralNetworkLayer, p: &Triangular) -> Lowered<()> {
    match p.k.checked_neg() {
        _ if p.k >= 0 => band(n, layer, -1, p.k),
        // Keeps what is not in the band above the diagonal.
        Some(below) => outside(n, layer, below - 1, -1),
        None => n.refuse(format!("`k` is {}", p.k)),
    }
}

pub(super) fn upper_triangular(n: &mut Network, layer: &NeuralNetworkLayer, p: &Triangular) -> Lowered<()> {
    match p.k.checked_neg() {
        _ if p.k > 0 => outside(n, layer, -1, p.k - 1),
        Some(below) => band(n, layer, below, -1),
        None => n.refuse(format!("`k` is {}", p.k)),
    }
}
