//! Convolutions and pooling over depth, height and width.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::convolution::{Convolution3d, Convolution3dPadding};
use coreml_format::model_types::neural_network::pooling::{
    GlobalPooling3d, GlobalPoolingType3d, Pooling3d, Pooling3dPadding, PoolingType3d,
};

use coreml_format::program::Argument;

use super::build::{Blob, Extent, Network, flag, int, ints, of};
use super::convolution::{Borders, Windows, placed};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

/// How windows are placed.
#[derive(Clone, Copy, PartialEq)]
enum Padding {
    /// These amounts before and after each axis.
    Amounts([usize; 6]),
    /// As many windows as fit with the stride.
    Same,
}

/// The input as `[N, C, D, H, W]`.
fn volume(n: &mut Network, layer: &NeuralNetworkLayer) -> Lowered<Blob> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    if x.shape.len() == 5 { Ok(x) } else { n.refuse(format!("its input has rank {}", x.shape.len())) }
}

/// Three numbers; 0 stands for a default.
fn three(n: &Network, what: &str, values: [i32; 3], default: i32) -> Lowered<[i32; 3]> {
    let values = values.map(|v| if v == 0 { default } else { v });
    if values.iter().all(|&v| v > 0) { Ok(values) } else { n.refuse(format!("`{what}` is {values:?}")) }
}

fn amounts(n: &Network, values: [i32; 6]) -> Lowered<[usize; 6]> {
    if values.iter().any(|&v| v < 0) {
        return n.refuse(format!("its padding is {values:?}"));
    }
    Ok(values.map(|v| v as usize))
}

/// Extents of the results of windows with these spans.
fn sizes(n: &Network, x: &Blob, padding: Padding, span: [usize; 3], stride: [i32; 3]) -> Lowered<Vec<Extent>> {
    let one = |i: usize| match padding {
        Padding::Same => Some(x.shape[2 + i].map(|d| d.div_ceil(stride[i] as usize))),
        Padding::Amounts(a) => placed(x.shape[2 + i], a[2 * i] + a[2 * i + 1], span[i], stride[i] as usize),
    };
    let found: Option<Vec<Extent>> = (0..3).map(one).collect();
    found.map_or_else(|| n.refuse("its kernel does not fit its input"), Ok)
}

fn words(padding: Padding) -> [(&'static str, Argument); 2] {
    let (kind, pads) = match padding {
        Padding::Same => ("same", [0; 6]),
        Padding::Amounts(a) => ("custom", a.map(|v| v as i32)),
    };
    [("pad_type", text(kind)), ("pad", ints(&pads))]
}

pub(super) fn pooling(n: &mut Network, layer: &NeuralNetworkLayer, p: &Pooling3d) -> Lowered<()> {
    let x = volume(n, layer)?;
    let kernel = three(n, "kernel", [p.kernel_depth, p.kernel_height, p.kernel_width], 3)?;
    let stride = three(n, "stride", [p.stride_depth, p.stride_height, p.stride_width], 1)?;
    let padding = match n.choice("paddingType", p.padding_type)? {
        Pooling3dPadding::Same => Padding::Same,
        Pooling3dPadding::Valid => Padding::Amounts([0; 6]),
        Pooling3dPadding::Custom => Padding::Amounts(amounts(
            n,
            [
                p.custom_padding_front,
                p.custom_padding_back,
                p.custom_padding_top,
                p.custom_padding_bottom,
                p.custom_padding_left,
                p.custom_padding_right,
            ],
        )?),
    };
    let mut shape = x.shape[..2].to_vec();
    shape.extend(sizes(n, &x, padding, kernel.map(|k| k as usize), stride)?);
    let mut inputs = vec![("x", of(&x)), ("kernel_sizes", ints(&kernel)), ("strides", ints(&stride))];
    inputs.extend(words(padding));
    let kind = match n.choice("type", p.ty)? {
        PoolingType3d::Max => "max_pool",
        PoolingType3d::Average => {
            inputs.push(("exclude_padding_from_average", flag(p.count_exclude_padding)));
            "avg_pool"
        }
    };
    let y = n.op(kind, inputs, shape);
    n.write(layer, vec![y])
}

pub(super) fn global_pooling(n: &mut Network, layer: &NeuralNetworkLayer, p: &GlobalPooling3d) -> Lowered<()> {
    let x = volume(n, layer)?;
    let kind = match n.choice("type", p.ty)? {
        GlobalPoolingType3d::Max => "reduce_max",
        GlobalPoolingType3d::Average => "reduce_mean",
    };
    let y = n.reduced(kind, &x, &[3, 2, 1])?;
    n.write(layer, vec![y])
}

pub(super) fn convolution(n: &mut Network, layer: &NeuralNetworkLayer, p: &Convolution3d) -> Lowered<()> {
    let x = volume(n, layer)?;
    let kernel = three(n, "kernel", [p.kernel_depth, p.kernel_height, p.kernel_width], 3)?;
    let stride = three(n, "stride", [p.stride_depth, p.stride_height, p.stride_width], 1)?;
    let dilation = three(n, "dilation", [p.dilation_depth, p.dilation_height, p.dilation_width], 1)?;
    let groups = p.n_groups.max(1);
    let (inner, out) = (p.input_channels, p.output_channels);
    let fits = x.shape[1].is_none_or(|c| i32::try_from(c) == Ok(inner));
    if inner < 1 || out < 1 || inner % groups != 0 || out % groups != 0 || !fits {
        return n.refuse(format!("{inner} input channels, {groups} groups and {out} outputs"));
    }
    let (inner, out, parts) = (inner as u64, out as u64, groups as u64);
    let size = kernel.map(|k| k as u64);
    let shape = match p.is_deconvolution {
        true => [inner, out / parts, size[0], size[1], size[2]],
        false => [out, inner / parts, size[0], size[1], size[2]],
    };
    let rows = if p.is_deconvolution { 0 } else { out as usize };
    let weight = n.stored("weights", &p.weights, &shape, rows)?;
    let custom = amounts(
        n,
        [
            p.custom_padding_front,
            p.custom_padding_back,
            p.custom_padding_top,
            p.custom_padding_bottom,
            p.custom_padding_left,
            p.custom_padding_right,
        ],
    )?;
    let padding = match n.choice("paddingType", p.padding_type)? {
        Convolution3dPadding::Same => Padding::Same,
        Convolution3dPadding::Valid => Padding::Amounts([0; 6]),
        Convolution3dPadding::Custom => Padding::Amounts(custom),
    };
    let mut inputs = vec![("x", of(&x)), ("weight", of(&weight)), ("strides", ints(&stride)), ("groups", int(groups))];
    if p.has_bias {
        inputs.push(("bias", of(&n.vector("bias", &p.bias, out)?)));
    }
    let mut shape = vec![x.shape[0], Some(out as usize)];
    let kind = if p.is_deconvolution {
        let (crops, extents) = transposed(n, &x, p, padding, [kernel, stride, dilation])?;
        shape.extend(extents);
        inputs.extend(words(Padding::Amounts(crops)));
        inputs.push(("dilations", ints(&dilation)));
        if !p.output_shape.is_empty() {
            inputs.push(("output_shape", ints(&n.sizes("outputShape", &p.output_shape)?)));
        }
        "conv_transpose"
    } else {
        let span = |i: usize| (kernel[i] as usize - 1).saturating_mul(dilation[i] as usize).saturating_add(1);
        shape.extend(sizes(n, &x, padding, [0, 1, 2].map(span), stride)?);
        inputs.extend(words(padding));
        inputs.push(("dilations", ints(&dilation)));
        "conv"
    };
    let y = n.op(kind, inputs, shape);
    n.write(layer, vec![y])
}

/// What a transposed convolution cuts from its result, and what remains.
fn transposed(
    n: &Network,
    x: &Blob,
    p: &Convolution3d,
    padding: Padding,
    [kernel, stride, dilation]: [[i32; 3]; 3],
) -> Lowered<([usize; 6], Vec<Extent>)> {
    let wanted = match *p.output_shape {
        [] => None,
        [d, h, w] if d > 0 && h > 0 && w > 0 => Some([d, h, w]),
        _ => return n.refuse(format!("`outputShape` is {:?}", p.output_shape)),
    };
    let (mut crops, mut extents) = ([0; 6], Vec::new());
    for i in 0..3 {
        let windows =
            Windows { kernel: kernel[i] as usize, stride: stride[i] as usize, dilation: dilation[i] as usize };
        let borders = match padding {
            Padding::Amounts(a) => Borders::Amounts([a[2 * i], a[2 * i + 1]]),
            Padding::Same => Borders::Same { heavy_first: false },
        };
        let wanted = wanted.map(|w| n.count(&[w[i]])).transpose()?;
        let (cut, out) = windows.spread(n, x.shape[2 + i], borders, wanted)?;
        (crops[2 * i], crops[2 * i + 1]) = (cut[0], cut[1]);
        extents.push(out);
    }
    Ok((crops, extents))
}
