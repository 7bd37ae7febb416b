//! Convolutions over height and width, and their transpose.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::convolution::{
    BorderAmounts, Convolution, ConvolutionPadding, SamePadding, SamePaddingMode,
};

use super::build::{Blob, Extent, Network, int, ints, of};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// Two numbers, or what they are when the file does not say.
pub(super) fn pair(n: &Network, what: &str, values: &[u64], default: usize) -> Lowered<[usize; 2]> {
    match *values {
        [] => Ok([default; 2]),
        [h, w] if h > 0 && w > 0 => Ok([n.size(what, h)? as usize, n.size(what, w)? as usize]),
        _ => n.refuse(format!("`{what}` is {values:?}")),
    }
}

/// Amounts `[top, bottom, left, right]`.
pub(super) fn borders(n: &Network, amounts: Option<&BorderAmounts>) -> Lowered<[usize; 4]> {
    let amount = |v| n.size("borderAmounts", v).map(|v| v as usize);
    match amounts.map_or(&[][..], |a| &a.border_amounts) {
        [] => Ok([0; 4]),
        [h, w] => Ok([
            amount(h.start_edge_size)?,
            amount(h.end_edge_size)?,
            amount(w.start_edge_size)?,
            amount(w.end_edge_size)?,
        ]),
        other => n.refuse(format!("it has {} border amounts", other.len())),
    }
}

/// Whether the larger half of an odd amount stands at the beginning.
pub(super) fn heavy_first(n: &Network, p: &SamePadding) -> Lowered<bool> {
    Ok(n.choice::<SamePaddingMode>("asymmetryMode", p.asymmetry_mode)? == SamePaddingMode::TopLeftHeavy)
}

/// Results of a window; none if it does not fit.
pub(super) fn placed(input: Extent, pads: usize, span: usize, stride: usize) -> Option<Extent> {
    let Some(input) = input else { return Some(None) };
    Some(Some((input.checked_add(pads)?.checked_sub(span)?) / stride + 1))
}

pub(super) fn convolution(n: &mut Network, layer: &NeuralNetworkLayer, p: &Convolution) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let (x, lead) = n.nchw(&x)?;
    let groups = p.n_groups.max(1);
    let kernel = pair(n, "kernelSize", &p.kernel_size, 3)?;
    let size = (kernel[0] as u64, kernel[1] as u64);
    let (out, inner) = (p.output_channels, p.kernel_channels);
    let channels = inner.checked_mul(if p.is_deconvolution { 1 } else { groups });
    let fits = x.shape[1].is_none_or(|c| channels == Some(c as u64));
    if out == 0 || inner == 0 || !out.is_multiple_of(groups) || !fits {
        let found = super::build::shown(&x.shape);
        return n.refuse(format!("{inner} kernel channels, {groups} groups and {out} outputs for a blob of {found}"));
    }
    let bias = match p.has_bias {
        true => Some(n.vector("bias", &p.bias, out)?),
        false => None,
    };
    let shape = match p.is_deconvolution {
        true => [inner, out / groups, size.0, size.1],
        false => [out, inner, size.0, size.1],
    };
    let weight = match layer.input.len() {
        1 => {
            // Which axis of a transposed convolution has the scales is not known.
            let rows = if p.is_deconvolution { 0 } else { out as usize };
            n.stored("weights", &p.weights, &shape, rows)?
        }
        2 if !p.is_deconvolution => {
            let w = n.input(layer, 1)?;
            if w.shape != shape.map(|d| Some(d as usize)) {
                return n.refuse("its second input does not have the shape of the weights");
            }
            Blob { short: false, ..w }
        }
        inputs => return n.refuse(format!("it has {inputs} inputs")),
    };
    let y = match p.is_deconvolution {
        true => transposed(n, &x, &weight, bias.as_ref(), p, kernel)?,
        false => forward(n, &x, &weight, bias.as_ref(), p, kernel)?,
    };
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

fn forward(
    n: &mut Network,
    x: &Blob,
    weight: &Blob,
    bias: Option<&Blob>,
    p: &Convolution,
    kernel: [usize; 2],
) -> Lowered<Blob> {
    let stride = pair(n, "stride", &p.stride, 1)?;
    let dilation = pair(n, "dilationFactor", &p.dilation_factor, 1)?;
    let span = |i: usize| (kernel[i] - 1).saturating_mul(dilation[i]).saturating_add(1);
    let mut pads = [0; 4];
    let (kind, sizes) = match &p.padding {
        Some(ConvolutionPadding::Same(s)) => {
            let kind = if heavy_first(n, s)? { "same_lower" } else { "same" };
            (kind, [0, 1].map(|i| Some(x.shape[2 + i].map(|d| d.div_ceil(stride[i])))))
        }
        other => {
            if let Some(ConvolutionPadding::Valid(v)) = other {
                pads = borders(n, v.padding_amounts.as_ref())?;
            }
            let of = |i: usize| placed(x.shape[2 + i], pads[2 * i] + pads[2 * i + 1], span(i), stride[i]);
            ("custom", [of(0), of(1)])
        }
    };
    let [Some(h), Some(w)] = sizes else { return n.refuse("its kernel does not fit its input") };
    let numbers = |v: [usize; 2]| ints(&v.map(|v| v as i32));
    let mut inputs = vec![
        ("x", of(x)),
        ("weight", of(weight)),
        ("strides", numbers(stride)),
        ("pad_type", text(kind)),
        ("pad", ints(&pads.map(|v| v as i32))),
        ("dilations", numbers(dilation)),
        ("groups", int(n.size("nGroups", p.n_groups.max(1))?)),
    ];
    inputs.extend(bias.map(|b| ("bias", of(b))));
    Ok(n.op("conv", inputs, vec![x.shape[0], weight.shape[0], h, w]))
}

/// Windows of a transposed convolution along one axis.
pub(super) struct Windows {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
}

/// What a transposed convolution cuts from its result.
#[derive(Clone, Copy)]
pub(super) enum Borders {
    Amounts([usize; 2]),
    /// What is beyond `input · stride`, or the size that is given; the larger half of an odd rest at the beginning or the end.
    Same {
        heavy_first: bool,
    },
}

impl Windows {
    /// What is cut at both ends, and the extent of the result.
    ///
    /// coremltools states the size of the result beside amounts, with that of dilated windows (its test of
    /// `conv_transpose`): the size counts, so that the amount at the end may be another, and the result may reach beyond
    /// the windows by less than a step.
    pub(super) fn spread(
        &self,
        n: &Network,
        input: Extent,
        borders: Borders,
        wanted: Option<usize>,
    ) -> Lowered<([usize; 2], Extent)> {
        let span = (self.kernel - 1).saturating_mul(self.dilation).saturating_add(1);
        let whole = match input {
            None => None,
            Some(d) => match d.checked_sub(1).and_then(|d| d.checked_mul(self.stride)?.checked_add(span)) {
                Some(whole) => Some(whole),
                None => return n.refuse("its input is empty"),
            },
        };
        let reach = |out: usize, whole: usize| {
            n.refuse::<([usize; 2], Extent)>(format!("an output of {out} of windows that reach over {whole}"))
        };
        match (borders, wanted) {
            (Borders::Amounts(cut), None) => match whole.map(|w| w.checked_sub(cut[0].saturating_add(cut[1]))) {
                Some(None | Some(0)) => n.refuse("its borders are as large as its output"),
                out => Ok((cut, out.flatten())),
            },
            (Borders::Amounts([first, _]), Some(out)) => {
                let whole = n.known("size", whole)?;
                let beyond = self.stride.max(self.dilation) - 1;
                match whole.checked_sub(first) {
                    Some(rest) if out <= rest.saturating_add(beyond) => {
                        Ok(([first, rest.saturating_sub(out)], Some(out)))
                    }
                    _ => reach(out, whole),
                }
            }
            (Borders::Same { heavy_first }, wanted) => {
                let out = wanted.map(Some).unwrap_or(input.and_then(|d| d.checked_mul(self.stride)));
                let total = match wanted {
                    Some(out) => n.known("size", whole)?.checked_sub(out),
                    None => span.checked_sub(self.stride),
                };
                let Some(total) = total else { return reach(out.unwrap_or(self.stride), whole.unwrap_or(span)) };
                let (less, more) = (total / 2, total - total / 2);
                Ok((if heavy_first { [more, less] } else { [less, more] }, out))
            }
        }
    }
}

fn transposed(
    n: &mut Network,
    x: &Blob,
    weight: &Blob,
    bias: Option<&Blob>,
    p: &Convolution,
    kernel: [usize; 2],
) -> Lowered<Blob> {
    let stride = pair(n, "stride", &p.stride, 1)?;
    let wanted = match *p.output_shape {
        [] => None,
        _ => Some(pair(n, "outputShape", &p.output_shape, 1)?),
    };
    let dilation = pair(n, "dilationFactor", &p.dilation_factor, 1)?;
    let (mut pads, mut sizes) = ([0; 4], [None; 2]);
    for i in 0..2 {
        let windows = Windows { kernel: kernel[i], stride: stride[i], dilation: dilation[i] };
        let borders = match &p.padding {
            Some(ConvolutionPadding::Same(s)) => Borders::Same { heavy_first: heavy_first(n, s)? },
            Some(ConvolutionPadding::Valid(v)) => {
                let all = borders(n, v.padding_amounts.as_ref())?;
                Borders::Amounts([all[2 * i], all[2 * i + 1]])
            }
            None => Borders::Amounts([0; 2]),
        };
        let (crop, out) = windows.spread(n, x.shape[2 + i], borders, wanted.map(|w| w[i]))?;
        (pads[2 * i], pads[2 * i + 1], sizes[i]) = (crop[0], crop[1], out);
    }
    let channels = Some(p.output_channels as usize);
    let mut inputs = vec![
        ("x", of(x)),
        ("weight", of(weight)),
        ("strides", ints(&stride.map(|v| v as i32))),
        ("pad_type", text("custom")),
        ("pad", ints(&pads.map(|v| v as i32))),
        ("dilations", ints(&dilation.map(|v| v as i32))),
        ("groups", int(n.size("nGroups", p.n_groups.max(1))?)),
    ];
    if let Some(wanted) = wanted {
        inputs.push(("output_shape", ints(&n.sizes("outputShape", &wanted)?)));
    }
    inputs.extend(bias.map(|b| ("bias", of(b))));
    Ok(n.op("conv_transpose", inputs, vec![x.shape[0], channels, sizes[0], sizes[1]]))
}
