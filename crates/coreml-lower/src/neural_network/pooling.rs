//! Pooling over height and width.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::pooling::{Pooling, PoolingPadding, PoolingType};

use super::build::{Extent, Network, flag, ints, of};
use super::convolution::{borders, heavy_first, pair, placed};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

pub(super) fn pooling(n: &mut Network, layer: &NeuralNetworkLayer, p: &Pooling) -> Lowered<()> {
    let x = n.only(layer)?;
    let kind: PoolingType = n.choice("type", p.ty)?;
    if p.global_pooling {
        let reduction = match kind {
            PoolingType::Max => "reduce_max",
            PoolingType::Average => "reduce_mean",
            PoolingType::L2 => "reduce_l2_norm",
        };
        let y = n.reduced(reduction, &x, &[2, 1])?;
        return n.write(layer, vec![y]);
    }
    let (x, lead) = n.nchw(&x)?;
    let kernel = pair(n, "kernelSize", &p.kernel_size, 3)?;
    let stride = pair(n, "stride", &p.stride, 1)?;
    let (mut pads, mut ceil) = ([0; 4], false);
    let (padding, sizes): (_, [Option<Extent>; 2]) = match &p.padding {
        Some(PoolingPadding::Same(s)) => {
            let padding = if heavy_first(n, s)? { "same_lower" } else { "same" };
            (padding, [0, 1].map(|i| Some(x.shape[2 + i].map(|d| d.div_ceil(stride[i])))))
        }
        Some(PoolingPadding::IncludeLastPixel(c)) => {
            let [h, w] = match *c.padding_amounts {
                [] => [0, 0],
                [h, w] => [n.size("paddingAmounts", h)? as usize, n.size("paddingAmounts", w)? as usize],
                _ => return n.refuse(format!("`paddingAmounts` is {:?}", c.padding_amounts)),
            };
            if (h == 0) != (w == 0) && (0..2).any(|i| stride[i] > kernel[i]) {
                return n.refuse("it includes the last pixel, pads one axis and skips elements");
            }
            (pads, ceil) = ([h, h, w, w], true);
            ("custom", [0, 1].map(|i| complete(x.shape[2 + i], [h, w][i], kernel[i], stride[i])))
        }
        other => {
            if let Some(PoolingPadding::Valid(v)) = other {
                pads = borders(n, v.padding_amounts.as_ref())?;
            }
            let of = |i: usize| placed(x.shape[2 + i], pads[2 * i] + pads[2 * i + 1], kernel[i], stride[i]);
            ("custom", [of(0), of(1)])
        }
    };
    let [Some(h), Some(w)] = sizes else { return n.refuse("its kernel does not fit its input") };
    let mut inputs = vec![
        ("x", of(&x)),
        ("kernel_sizes", ints(&kernel.map(|v| v as i32))),
        ("strides", ints(&stride.map(|v| v as i32))),
        ("pad_type", text(padding)),
        ("pad", ints(&pads.map(|v| v as i32))),
        ("ceil_mode", flag(ceil)),
    ];
    let kind = match kind {
        PoolingType::Max => "max_pool",
        PoolingType::L2 => "l2_pool",
        PoolingType::Average => {
            inputs.push(("exclude_padding_from_average", flag(p.avg_pool_exclude_padding)));
            "avg_pool"
        }
    };
    let y = n.op(kind, inputs, vec![x.shape[0], x.shape[1], h, w]);
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

/// Results where the last window may hang over the end, but not lie in the padding alone.
fn complete(input: Extent, pad: usize, kernel: usize, stride: usize) -> Option<Extent> {
    let Some(input) = input else { return Some(None) };
    let room = input.checked_add(2 * pad)?.checked_add(stride - 1)?.checked_sub(kernel)?;
    let count = room / stride + 1;
    let over = pad > 0 && (count - 1) * stride >= input + pad;
    Some(Some(count - usize::from(over)))
}
