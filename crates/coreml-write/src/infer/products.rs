//! Products: convolutions, pooling, matrix products, attention.

use coreml_format::program::{Dim, Opset, TensorType, ValueType};

use super::{Call, Rule, broadcast, dims, fits, one};

pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "conv" => conv,
        "conv_transpose" => conv_transpose,
        "avg_pool" | "max_pool" | "l2_pool" => pool,
        "linear" => linear,
        "matmul" => matmul,
        "scaled_dot_product_attention" => attention,
        _ => return None,
    })
}

/// What a window does to the axes of an image.
struct Window {
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pad: Vec<i64>,
    kind: String,
    ceil: bool,
}

impl Window {
    fn of(c: &Call<'_>, axes: usize) -> Result<Self, String> {
        let numbers = |name: &str, count: usize, default: i64| match c.ints(name) {
            Some(all) if all.len() != count || all.iter().any(|&n| n < default) => {
                Err(format!("parameter `{name}`: expected {count} numbers of at least {default}, found {all:?}"))
            }
            Some(all) => Ok(all),
            None => Ok(vec![default; count]),
        };
        Ok(Self {
            strides: numbers("strides", axes, 1)?,
            dilations: numbers("dilations", axes, 1)?,
            pad: numbers("pad", 2 * axes, 0)?,
            kind: c.text("pad_type").unwrap_or("valid").to_owned(),
            ceil: c.flag("ceil_mode"),
        })
    }

    /// Extent of an axis after a window of this size passed over it.
    fn over(&self, i: usize, n: Dim, kernel: Dim) -> Result<Dim, String> {
        let (Dim::Fixed(n), Dim::Fixed(kernel)) = (n, kernel) else { return Ok(Dim::Unknown) };
        let (n, reach, stride) = (n as i64, self.dilations[i] * (kernel as i64 - 1) + 1, self.strides[i]);
        let pad = match self.kind.as_str() {
            "valid" => 0,
            "custom" => self.pad[2 * i] + self.pad[2 * i + 1],
            "same" | "same_lower" => return Ok(Dim::Fixed(((n + stride - 1) / stride) as usize)),
            other => {
                return Err(format!(
                    "parameter `pad_type`: expected valid, same, same_lower or custom, found `{other}`"
                ));
            }
        };
        let room = n + pad - reach;
        if room < 0 {
            return Err(format!("axis {}: a window of {reach} does not fit into {n} elements padded by {pad}", i + 2));
        }
        let mut out = if self.ceil { (room + stride - 1) / stride } else { room / stride } + 1;
        // With `ceil_mode`, no window starts in the padding at the end.
        if self.ceil && (out - 1) * stride >= n + if self.kind == "custom" { self.pad[2 * i] } else { 0 } {
            out -= 1;
        }
        Ok(Dim::Fixed(out as usize))
    }
}

fn bias(c: &Call<'_>, channels: Dim) -> Result<(), String> {
    if c.has("bias") { fits("bias", &c.ty("bias")?.shape, &[channels]) } else { Ok(()) }
}

/// Input and weight of a convolution, of one rank from 3 to 5.
fn convolved<'c>(c: &'c Call<'_>) -> Result<(&'c TensorType, &'c TensorType), String> {
    let (x, w) = (c.ty("x")?, c.ty("weight")?);
    if !(3..=5).contains(&x.shape.len()) || w.shape.len() != x.shape.len() {
        return Err(format!(
            "expected x and weight of one rank from 3 to 5, found {} and {}",
            dims(&x.shape),
            dims(&w.shape)
        ));
    }
    Ok((x, w))
}

/// From iOS 17 on, weight and bias may have another element type than x.
fn weight_type(c: &Call<'_>, x: &TensorType, w: &TensorType) -> Result<(), String> {
    if x.dtype != w.dtype && c.opset < Opset::Ios17 {
        return Err(format!("expected x and weight of one element type, found {} and {}", x.dtype, w.dtype));
    }
    match c.has("bias").then(|| c.ty("bias")).transpose()? {
        Some(b) if b.dtype != w.dtype => {
            Err(format!("expected weight and bias of one element type, found {} and {}", w.dtype, b.dtype))
        }
        _ => Ok(()),
    }
}

fn conv(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, w) = convolved(c)?;
    let rank = x.shape.len();
    weight_type(c, x, w)?;
    let groups = usize::try_from(c.int("groups", 1))
        .ok()
        .filter(|&g| g > 0)
        .ok_or("parameter `groups`: expected a positive number")?;
    if let (Dim::Fixed(channels), Dim::Fixed(each), Dim::Fixed(rows)) = (x.shape[1], w.shape[1], w.shape[0]) {
        if each.checked_mul(groups) != Some(channels) {
            return Err(format!(
                "weight has shape {} but the input has {channels} channels in {groups} groups",
                dims(&w.shape)
            ));
        }
        if !rows.is_multiple_of(groups) {
            return Err(format!("expected a multiple of {groups} output channels, found {rows}"));
        }
    }
    bias(c, w.shape[0])?;
    let window = Window::of(c, rank - 2)?;
    let mut shape = vec![x.shape[0], w.shape[0]];
    for i in 0..rank - 2 {
        shape.push(window.over(i, x.shape[i + 2], w.shape[i + 2])?);
    }
    one(x.dtype, shape)
}

/// Weight `[in, out / groups, …]`.
fn conv_transpose(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, w) = convolved(c)?;
    let rank = x.shape.len();
    weight_type(c, x, w)?;
    fits("weight", &w.shape[..1], &x.shape[1..2])?;
    if let Some(shape) = c.ints("output_shape") {
        return one(x.dtype, shape.into_iter().map(super::extent).collect());
    }
    let window = Window::of(c, rank - 2)?;
    let groups = usize::try_from(c.int("groups", 1)).unwrap_or(1);
    let channels = w.shape[1].fixed().and_then(|n| n.checked_mul(groups)).map_or(Dim::Unknown, Dim::Fixed);
    bias(c, channels)?;
    let mut shape = vec![x.shape[0], channels];
    for i in 0..rank - 2 {
        let (Dim::Fixed(n), Dim::Fixed(k)) = (x.shape[i + 2], w.shape[i + 2]) else {
            shape.push(Dim::Unknown);
            continue;
        };
        let reach = window.dilations[i] * (k as i64 - 1) + 1;
        let full = (n as i64 - 1) * window.strides[i] + reach;
        shape.push(super::extent(match window.kind.as_str() {
            "valid" => full,
            "custom" => full - window.pad[2 * i] - window.pad[2 * i + 1],
            _ => n as i64 * window.strides[i],
        }));
    }
    one(x.dtype, shape)
}

fn pool(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let rank = x.shape.len();
    let kernel = c.ints("kernel_sizes").ok_or("parameter `kernel_sizes` is missing")?;
    if !(3..=5).contains(&rank) || kernel.len() != rank - 2 || kernel.iter().any(|&k| k < 1) {
        return Err(format!("expected kernel sizes for the axes of {}, found {kernel:?}", dims(&x.shape)));
    }
    let window = Window::of(c, rank - 2)?;
    let mut shape = x.shape[..2].to_vec();
    for (i, &k) in kernel.iter().enumerate() {
        shape.push(window.over(i, x.shape[i + 2], super::extent(k))?);
    }
    one(x.dtype, shape)
}

/// Weight `[out, in]`.
fn linear(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, w) = (c.ty("x")?, c.ty("weight")?);
    let (&[rows, columns], Some((last, outer))) = (w.shape.as_slice(), x.shape.split_last()) else {
        return Err(format!(
            "expected x with an axis and a weight of rank 2, found {} and {}",
            dims(&x.shape),
            dims(&w.shape)
        ));
    };
    weight_type(c, x, w)?;
    if let (Dim::Fixed(a), Dim::Fixed(b)) = (columns, *last)
        && a != b
    {
        return Err(format!("weight has shape {} but x has {b} columns", dims(&w.shape)));
    }
    bias(c, rows)?;
    let mut shape = outer.to_vec();
    shape.push(rows);
    one(x.dtype, shape)
}

fn matmul(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, y) = (c.ty("x")?, c.ty("y")?);
    let constant = |name: &str| c.var(name).is_some_and(|v| v.constant);
    // From iOS 17 on a constant may have a type of its own; the result has that of the other.
    let dtype = match (constant("x"), constant("y")) {
        _ if x.dtype == y.dtype => x.dtype,
        (true, false) if c.opset >= Opset::Ios17 => y.dtype,
        (false, true) if c.opset >= Opset::Ios17 => x.dtype,
        _ => return Err(format!("expected x and y of one element type, found {} and {}", x.dtype, y.dtype)),
    };
    let lift = |s: &[Dim], front: bool| match s {
        [n] if front => vec![Dim::Fixed(1), *n],
        [n] => vec![*n, Dim::Fixed(1)],
        s => s.to_vec(),
    };
    let (mut a, mut b) = (lift(&x.shape, true), lift(&y.shape, false));
    if a.len() < 2 || b.len() < 2 {
        return Err("expected x and y with axes".to_owned());
    }
    let turn = |s: &mut Vec<Dim>| {
        let n = s.len();
        s.swap(n - 1, n - 2);
    };
    if c.flag("transpose_x") {
        turn(&mut a);
    }
    if c.flag("transpose_y") {
        turn(&mut b);
    }
    let (inner, rows) = (a[a.len() - 1], b[b.len() - 2]);
    if let (Dim::Fixed(m), Dim::Fixed(n)) = (inner, rows)
        && m != n
    {
        return Err(format!("expected inner extents that agree, found {} and {}", dims(&a), dims(&b)));
    }
    let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
    if x.shape.len() > 1 {
        shape.push(a[a.len() - 2]);
    }
    if y.shape.len() > 1 {
        shape.push(b[b.len() - 1]);
    }
    one(dtype, shape)
}

/// Query `[…, L, E]`, key `[…, S, E]`, value `[…, S, V]`.
fn attention(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (q, k, v) = (c.ty("query")?, c.ty("key")?, c.ty("value")?);
    let rank = q.shape.len();
    if rank < 3 || k.shape.len() != rank || v.shape.len() != rank {
        return Err(format!(
            "expected query, key and value of one rank of at least 3, found {}, {} and {}",
            dims(&q.shape),
            dims(&k.shape),
            dims(&v.shape)
        ));
    }
    fits("key", &k.shape[rank - 1..], &q.shape[rank - 1..])?;
    fits("value", &v.shape[rank - 2..rank - 1], &k.shape[rank - 2..rank - 1])?;
    let mut shape = broadcast(&broadcast(&q.shape[..rank - 2], &k.shape[..rank - 2])?, &v.shape[..rank - 2])?;
    shape.extend([q.shape[rank - 2], v.shape[rank - 1]]);
    one(q.dtype, shape)
}
