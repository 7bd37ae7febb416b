//! Programs with products and convolutions: their epilogues, and several products of one input.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Value};

use super::maker::{Maker, Val, eighths};
use super::patterns::{NO_NUMBERS, ODD, angles, odd_operand, scalars, swish_of};

/// A product or convolution with constant (rarely computed) weights.
pub fn product(m: &mut Maker<'_>) -> Option<Val> {
    if m.bytes.below(2) == 0 {
        let filed = m.bytes.below(4) == 3;
        let (outputs, inputs) = if filed { (72, 64) } else { (m.extent(), m.extent()) };
        let mut shape = if filed { vec![m.bytes.pick(&[9, 1, 12])] } else { m.shape(0, 3) };
        shape.push(inputs);
        let x = odd_operand(m, &shape, &ODD[..NO_NUMBERS]);
        let weight = if filed { m.filed() } else { weights(m, &[outputs, inputs]) };
        return linear(m, &x, &weight);
    }
    let spatial = m.bytes.pick(&[2, 1, 3]);
    let groups = if m.bytes.rare(6) { 2 } else { 1 };
    let channels = groups * m.bytes.pick(&[2, 1, 3, 4]);
    let mut shape = vec![m.bytes.pick(&[1, 2]), channels];
    shape.extend((0..spatial).map(|_| m.bytes.pick(&[4, 5, 3, 7, 1])));
    // Merged groups spread NaN and infinities to each other; convolutions too small for packing do not.
    let odd = if groups > 1 { &[2.0] } else { &ODD[..NO_NUMBERS] };
    let x = odd_operand(m, &shape, odd);
    conv(m, &x, groups)
}

/// Constant weights in one of their forms, rarely computed.
fn weights(m: &mut Maker<'_>, shape: &[usize]) -> Val {
    let count = shape.iter().product();
    match m.bytes.below(8) {
        6 if m.dtype == DataType::F32 => {
            let half = Value::tensor(DataType::F16, shape, super::maker::packed(DataType::F16, &eighths(count, 4)));
            let inputs = [
                ("source_val", Argument::One(Binding::Value(half))),
                ("output_dtype", Argument::One(Binding::Value(Value::string("fp32")))),
            ];
            m.op("constexpr_cast", &inputs, shape)
        }
        5 => {
            let bytes: Vec<u8> = (0..count).map(|i| (i * 7 % 17) as u8).collect();
            let one = |value: Value| Argument::One(Binding::Value(value));
            let scale = Value::tensor(m.dtype, &[], super::maker::packed(m.dtype, &[0.125]));
            let inputs = [
                ("quantized_data", one(Value::tensor(DataType::U8, shape, bytes))),
                ("zero_point", one(Value::tensor(DataType::U8, &[], vec![8]))),
                ("scale", one(scale)),
                ("axis", one(Value::int(0))),
            ];
            m.op("constexpr_affine_dequantize", &inputs, shape)
        }
        7 if m.bytes.rare(4) => m.operand(shape),
        _ => m.floats(shape, &eighths(count, 4)),
    }
}

fn bias(m: &mut Maker<'_>, outputs: usize) -> Option<Argument> {
    match m.bytes.below(8) {
        0..4 => Some(m.floats(&[outputs], &eighths(outputs, 9)).argument()),
        4 => Some(m.operand(&[outputs]).argument()),
        5 => Some(m.floats(&[1], &[0.5]).argument()),
        _ => None,
    }
}

fn linear(m: &mut Maker<'_>, x: &Val, weight: &Val) -> Option<Val> {
    let mut shape = x.shape.clone();
    *shape.last_mut()? = *weight.shape.first()?;
    let mut inputs = vec![("x", x.argument()), ("weight", weight.argument())];
    inputs.extend(bias(m, weight.shape[0]).map(|b| ("bias", b)));
    Some(m.op("linear", &inputs, &shape))
}

fn conv(m: &mut Maker<'_>, x: &Val, groups: usize) -> Option<Val> {
    let spatial = x.shape.len().checked_sub(2)?;
    let outputs = groups * m.bytes.pick(&[2, 3, 1, 9]);
    let kernel = m.bytes.pick(&[1, 3, 2]);
    let mut extents = vec![outputs, x.shape[1] / groups];
    extents.extend(vec![kernel; spatial]);
    let weight = weights(m, &extents);
    let mut inputs = vec![("x", x.argument()), ("weight", weight.argument())];
    inputs.extend(bias(m, outputs).map(|b| ("bias", b)));
    let stride = if m.bytes.rare(4) { 2 } else { 1 };
    if stride > 1 || m.bytes.below(2) == 1 {
        inputs.push(("strides", m.ints(&vec![stride as i32; spatial])));
    }
    if groups > 1 || m.bytes.below(2) == 1 {
        inputs.push(("groups", m.int(groups as i32)));
    }
    let mut pad = 0;
    match m.bytes.below(4) {
        0 => {
            inputs.push(("pad_type", m.text("same")));
            pad = usize::MAX;
        }
        1 => {
            pad = m.bytes.below(2);
            inputs.push(("pad_type", m.text("custom")));
            inputs.push(("pad", m.ints(&vec![pad as i32; spatial * 2])));
        }
        // Ignored, since padding is not `custom`.
        2 => inputs.push(("pad", m.ints(&vec![1; spatial * 2]))),
        _ => {}
    }
    let mut shape = vec![x.shape[0], outputs];
    for &n in &x.shape[2..] {
        shape.push(match pad {
            usize::MAX => n.div_ceil(stride),
            pad => (n + 2 * pad).checked_sub(kernel)? / stride + 1,
        });
    }
    Some(m.op("conv", &inputs, &shape))
}

/// A product, a residual and an activation, in some order.
pub fn finish(m: &mut Maker<'_>) -> Option<Val> {
    let mut value = product(m)?;
    for _ in 0..1 + m.bytes.below(3) {
        value = if m.bytes.below(2) == 0 { activation(m, &value)? } else { residual(m, &value)? };
    }
    Some(value)
}

fn residual(m: &mut Maker<'_>, value: &Val) -> Option<Val> {
    let other = match m.bytes.below(12) {
        11 => value.clone(),
        9 | 10 => {
            let extents = m.partner(&value.shape);
            angles(m, &extents)
        }
        8 => m.input(&value.shape.clone()),
        7 => product(m)?,
        _ => m.value(&value.shape.clone()),
    };
    m.either("add", value, &other)
}

fn activation(m: &mut Maker<'_>, x: &Val) -> Option<Val> {
    let kind = m.bytes.pick(&[
        "relu",
        "relu6",
        "clip",
        "gelu",
        "silu",
        "sigmoid",
        "sigmoid_hard",
        "swish",
        "tanh",
        "leaky_relu",
    ]);
    let shape = x.shape.clone();
    let mut inputs = vec![("x", x.argument())];
    match kind {
        "swish" => return swish_of(m, x),
        "clip" => {
            // Including inverted bounds.
            let bounds = m.bytes.pick(&[[-1.0, 1.0], [0.0, 6.0], [1.0, -1.0], [f32::NEG_INFINITY, f32::INFINITY]]);
            for (name, value) in ["alpha", "beta"].into_iter().zip(bounds) {
                let value = Value::tensor(m.dtype, &[], super::maker::packed(m.dtype, &[value]));
                inputs.push((name, m.parameter(value)));
            }
        }
        "gelu" if m.bytes.below(2) == 1 => {
            let mode = m.bytes.pick(&["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"]);
            inputs.push(("mode", m.text(mode)));
        }
        "sigmoid_hard" => inputs.extend(scalars(m, &[0.25, 0.5, 1.0, -0.25], ["alpha", "beta"])),
        _ => {}
    }
    Some(m.op(kind, &inputs, &shape))
}

/// Several products of one input.
pub fn shared_input(m: &mut Maker<'_>) -> Option<Val> {
    let count = 2 + m.bytes.below(3);
    let linear_layers = m.bytes.below(2) == 0;
    let filed = linear_layers && m.bytes.below(4) == 3;
    let mut shape = match (linear_layers, filed) {
        (true, true) => vec![m.bytes.pick(&[9, 1, 12]), 64],
        (true, false) => m.shape(1, 4),
        (false, _) => vec![m.bytes.pick(&[1, 2]), m.bytes.pick(&[2, 4, 3])],
    };
    if !linear_layers {
        let spatial = m.bytes.pick(&[2, 1, 3]);
        shape.extend((0..spatial).map(|_| m.bytes.pick(&[4, 3, 1, 2])));
    }
    let x = m.value(&shape);
    let mut last = None;
    for _ in 0..count {
        last = Some(if linear_layers {
            let outputs = m.extent();
            let weight = if filed { m.filed() } else { weights(m, &[outputs, *shape.last()?]) };
            linear(m, &x, &weight)?
        } else {
            let groups = if shape[1] % 2 == 0 && m.bytes.rare(12) { 2 } else { 1 };
            conv(m, &x, groups)?
        });
        if m.bytes.rare(4) {
            last = Some(activation(m, &last?)?);
        }
    }
    last
}
