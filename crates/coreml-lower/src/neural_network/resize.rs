//! Padding and resampling.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::resize::{
    BoxCoordinates, ConstantPadding, CropResize, InterpolationMode, LinearUpsampleMode, Padding, PaddingType,
    ResizeBilinear, SamplingMethod, SamplingMode, Upsample,
};

use super::build::{Blob, Extent, Network, flag, float, int, ints, of};
use super::convolution::{borders, pair};
use crate::emit::text;
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

pub(super) fn padding(n: &mut Network, layer: &NeuralNetworkLayer, p: &Padding) -> Lowered<()> {
    let x = n.only(layer)?;
    let amounts = borders(n, p.padding_amounts.as_ref())?;
    let (mode, value) = match &p.padding {
        Some(PaddingType::Constant(c)) => ("constant", c.value),
        Some(PaddingType::Reflection(_)) => ("reflect", 0.0),
        Some(PaddingType::Replication(_)) => ("replicate", 0.0),
        None => return n.refuse("it names no kind of padding"),
    };
    // A matrix is padded as it is.
    let (x, lead) = if x.shape.len() == 2 { (x, None) } else { n.nchw(&x).map(|(x, lead)| (x, Some(lead)))? };
    let mut shape = x.shape.clone();
    let first = shape.len() - 2;
    for (d, pads) in shape[first..].iter_mut().zip(amounts.chunks(2)) {
        *d = d.and_then(|d| d.checked_add(pads[0] + pads[1]));
    }
    let pads = std::iter::repeat_n(0, 2 * first).chain(amounts.map(|v| v as i32)).collect::<Vec<_>>();
    let inputs = vec![("x", of(&x)), ("pad", ints(&pads)), ("mode", text(mode)), ("constant_val", float(value))];
    let y = n.op("pad", inputs, shape);
    let y = lead.map_or(Ok(y.clone()), |lead| n.back(y, &lead))?;
    n.write(layer, vec![y])
}

/// Amounts that make extents of those that are listed and positive, before and after each axis.
fn missing(n: &mut Network, x: &Blob, listed: &Blob) -> Lowered<Blob> {
    let twice = x.shape.iter().map(|&d| n.known("shape", d)).collect::<Lowered<Vec<usize>>>()?;
    let twice: Vec<usize> = twice.iter().flat_map(|&d| [d, d]).collect();
    let shape = listed.shape.clone();
    let extents = ints(&n.sizes("shape", &twice)?);
    let more = n.typed("sub", vec![("x", of(listed)), ("y", extents)], DataType::I32, shape.clone());
    let wanted = n.typed("greater", vec![("x", of(listed)), ("y", int(0))], DataType::Bool, shape.clone());
    let zeros = ints(&vec![0; twice.len()]);
    Ok(n.typed("select", vec![("cond", of(&wanted)), ("a", of(&more)), ("b", zeros)], DataType::I32, shape))
}

pub(super) fn constant_pad(n: &mut Network, layer: &NeuralNetworkLayer, p: &ConstantPadding) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let x = n.full(&x);
    let mut amounts = n.sizes("padAmounts", &p.pad_amounts)?;
    if layer.input.len() > 1 {
        let listed = n.input(layer, 1)?;
        match n.integers(&listed) {
            Some(known) => amounts = n.sizes("padAmounts", &known)?,
            None => {
                let mut listed = n.list(&listed)?;
                if p.pad_to_given_output_size_mode {
                    listed = missing(n, &x, &listed)?;
                }
                let more = [("pad", of(&listed)), ("mode", text("constant")), ("constant_val", float(p.value))];
                let inputs = [("x", of(&x))].into_iter().chain(more).collect();
                let y = n.op("pad", inputs, vec![None; x.shape.len()]);
                return n.write(layer, vec![y]);
            }
        }
    }
    if amounts.len() != 2 * x.shape.len() {
        return n.refuse(format!("{} amounts for a blob of rank {}", amounts.len(), x.shape.len()));
    }
    let mut shape: Vec<Extent> = Vec::with_capacity(x.shape.len());
    for (d, pads) in x.shape.iter().zip(amounts.chunks_exact_mut(2)) {
        if p.pad_to_given_output_size_mode {
            let wanted = pads[0].max(pads[1]);
            if pads[0] > 0 && pads[1] > 0 {
                return n.refuse("it pads one axis on both sides to a size");
            }
            if wanted > 0 {
                let Some(more) = (wanted as usize).checked_sub(n.known("shape", *d)?) else {
                    return n.refuse(format!("it pads to {wanted}, which is less than its input"));
                };
                pads.iter_mut().filter(|p| **p > 0).for_each(|p| *p = more as i32);
            }
        }
        shape.push(d.and_then(|d| d.checked_add(pads[0] as usize + pads[1] as usize)));
    }
    let inputs =
        vec![("x", of(&x)), ("pad", ints(&amounts)), ("mode", text("constant")), ("constant_val", float(p.value))];
    let y = n.op("pad", inputs, shape);
    n.write(layer, vec![y])
}

/// Bilinear interpolation on a grid.
fn bilinear(n: &mut Network, x: &Blob, size: [usize; 2], grid: &str) -> Lowered<Blob> {
    let target = n.sizes("targetSize", &size)?;
    let shape = vec![x.shape[0], x.shape[1], Some(size[0]), Some(size[1])];
    let inputs = vec![
        ("x", of(x)),
        ("target_size_height", int(target[0])),
        ("target_size_width", int(target[1])),
        ("sampling_mode", text(grid)),
    ];
    Ok(n.op("resize_bilinear", inputs, shape))
}

pub(super) fn upsample(n: &mut Network, layer: &NeuralNetworkLayer, p: &Upsample) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, lead) = n.nchw(&x)?;
    let scale = match *p.fractional_scaling_factor {
        [] => {
            let whole = pair(n, "scalingFactor", &p.scaling_factor, 1)?;
            [n.size("scalingFactor", whole[0])? as f32, n.size("scalingFactor", whole[1])? as f32]
        }
        [h, w] if h > 0.0 && w > 0.0 && h.is_finite() && w.is_finite() => [h, w],
        _ => return n.refuse(format!("`fractionalScalingFactor` is {:?}", p.fractional_scaling_factor)),
    };
    // As many whole pixels as fit.
    let sizes = [0, 1].map(|i| x.shape[2 + i].map(|d| (d as f64 * f64::from(scale[i])) as usize));
    let y = match n.choice("mode", p.mode)? {
        InterpolationMode::Nearest => {
            let inputs =
                vec![("x", of(&x)), ("scale_factor_height", float(scale[0])), ("scale_factor_width", float(scale[1]))];
            n.op("upsample_nearest_neighbor", inputs, vec![x.shape[0], x.shape[1], sizes[0], sizes[1]])
        }
        InterpolationMode::Bilinear => {
            let grid = match n.choice("linearUpsampleMode", p.linear_upsample_mode)? {
                LinearUpsampleMode::Default => "DEFAULT",
                LinearUpsampleMode::AlignCornersTrue => "STRICT_ALIGN_CORNERS",
                LinearUpsampleMode::AlignCornersFalse => "UNALIGN_CORNERS",
            };
            let size = [n.known("size", sizes[0])?, n.known("size", sizes[1])?];
            bilinear(n, &x, size, grid)?
        }
    };
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

/// The sampling grid of a layer in the words of the operations.
fn grid(n: &Network, mode: Option<&SamplingMode>) -> Lowered<&'static str> {
    Ok(match n.choice("samplingMethod", mode.map_or(0, |m| m.sampling_method))? {
        SamplingMethod::StrictAlignEndpoints => "STRICT_ALIGN_CORNERS",
        SamplingMethod::AlignEndpoints => "ALIGN_CORNERS",
        SamplingMethod::Upsample => "DEFAULT",
        SamplingMethod::RoiAlign => "OFFSET_CORNERS",
    })
}

pub(super) fn resize_bilinear(n: &mut Network, layer: &NeuralNetworkLayer, p: &ResizeBilinear) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, lead) = n.nchw(&x)?;
    let size = pair(n, "targetSize", &p.target_size, 1)?;
    let grid = grid(n, p.mode.as_ref())?;
    let y = bilinear(n, &x, size, grid)?;
    let y = n.back(y, &lead)?;
    n.write(layer, vec![y])
}

pub(super) fn crop_resize(n: &mut Network, layer: &NeuralNetworkLayer, p: &CropResize) -> Lowered<()> {
    let (x, boxes) = (n.input(layer, 0)?, n.input(layer, 1)?);
    let (x, boxes) = (n.full(&x), n.full(&boxes));
    let size = pair(n, "targetSize", &p.target_size, 1)?;
    if x.shape.len() != 5 || x.shape[0] != Some(1) || boxes.shape.len() != 5 {
        return n.refuse("its inputs are not an image and boxes of rank 5");
    }
    let image = n.reshape(&x, x.shape[1..].to_vec())?;
    let layout = match n.choice("boxMode", p.box_indices_mode.as_ref().map_or(0, |m| m.box_mode))? {
        BoxCoordinates::CornersHeightFirst => "CORNERS_HEIGHT_FIRST",
        BoxCoordinates::CornersWidthFirst => "CORNERS_WIDTH_FIRST",
        BoxCoordinates::CenterSizeHeightFirst => "CENTER_SIZE_HEIGHT_FIRST",
        BoxCoordinates::CenterSizeWidthFirst => "CENTER_SIZE_WIDTH_FIRST",
    };
    let target = n.sizes("targetSize", &size)?;
    let scale = if p.spatial_scale == 0.0 { 1.0 } else { p.spatial_scale };
    let batch = if boxes.shape[2] == Some(5) { Some(1) } else { image.shape[0] };
    let shape = vec![boxes.shape[0], batch, image.shape[1], Some(size[0]), Some(size[1])];
    let inputs = vec![
        ("x", of(&image)),
        ("roi", of(&boxes)),
        ("target_height", int(target[0])),
        ("target_width", int(target[1])),
        ("normalized_coordinates", flag(p.normalized_coordinates)),
        ("spatial_scale", float(scale)),
        ("box_coordinate_mode", text(layout)),
        ("sampling_mode", text(grid(n, p.mode.as_ref())?)),
    ];
    let y = n.op("crop_resize", inputs, shape);
    n.write(layer, vec![y])
}
