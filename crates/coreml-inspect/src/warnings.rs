//! What files do to themselves: constants and conversions that end in NaN, infinity or wrapped indices on some hardware.

use std::collections::HashMap;

use coreml_format::dtype::DataType;
use coreml_format::program::{Binding, Block, Operation, Program, TensorData, TensorType, Value, ValueData, ValueType};
use coreml_format::weights::Weights;
use half::f16;
use serde::Serialize;

/// Largest finite number of 16 bits.
const LARGEST_HALF: f64 = 65504.0;
/// Constants with more elements are not searched.
const MOST_ELEMENTS: usize = 1 << 24;

/// A place of a program that can go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Function.
    pub function: String,
    /// Kind of the operation.
    pub operation: String,
    /// Name of the operation.
    pub name: String,
    /// What it does, and what becomes of it.
    pub text: String,
}

/// What is known of a constant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Extremes {
    /// It has an infinity, of this sign.
    infinite: Option<f64>,
    /// Its largest finite magnitude.
    largest: f64,
}

/// What is known of the values of a function, by name.
struct Names<'a> {
    types: HashMap<&'a str, &'a ValueType>,
    constants: HashMap<&'a str, Extremes>,
}

fn extremes(numbers: impl Iterator<Item = f64>) -> Extremes {
    numbers.fold(Extremes { infinite: None, largest: 0.0 }, |so_far, x| match x.is_infinite() {
        true => Extremes { infinite: Some(x), ..so_far },
        false => Extremes { largest: so_far.largest.max(x.abs()), ..so_far },
    })
}

/// Extremes of a float literal; `None` for others, and where a weight file can't be read.
fn of_literal(value: &Value, weights: &Weights) -> Option<Extremes> {
    let ValueType::Tensor(ty) = &value.ty else { return None };
    let ValueData::Tensor(data) = &value.data else { return None };
    let count = ty.fixed_shape()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    if count > MOST_ELEMENTS {
        return None;
    }
    let stored;
    let bytes: &[u8] = match data {
        TensorData::Bytes(bytes) => bytes,
        TensorData::Blob(at) => {
            stored = weights.resolve(at).ok()?;
            &stored
        }
        TensorData::Shared(blob) => blob,
        TensorData::Strings(_) => return None,
    };
    match ty.dtype {
        DataType::F16 => Some(extremes(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()))),
        DataType::F32 => Some(extremes(bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))))),
        _ => None,
    }
}

impl<'a> Names<'a> {
    fn collect(&mut self, block: &'a Block, weights: &Weights) {
        self.types.extend(block.inputs.iter().map(|input| (input.name.as_str(), &input.ty)));
        for op in &block.operations {
            for output in &op.outputs {
                self.types.insert(&output.name, &output.ty);
            }
            if op.kind == "const"
                && let (Some(output), Some(value)) = (op.outputs.first(), op.attributes.get("val"))
                && let Some(found) = of_literal(value, weights)
            {
                self.constants.insert(&output.name, found);
            }
            op.blocks.iter().for_each(|inner| self.collect(inner, weights));
        }
    }

    fn constant(&self, binding: &Binding, weights: &Weights) -> Option<Extremes> {
        match binding {
            Binding::Value(value) => of_literal(value, weights),
            Binding::Name(name) => self.constants.get(name.as_str()).copied(),
        }
    }

    fn tensor(&self, binding: &Binding) -> Option<&'a TensorType> {
        match binding {
            Binding::Name(name) => self.types.get(name.as_str())?.tensor(),
            Binding::Value(_) => None,
        }
    }
}

/// Operations that multiply their inputs.
const PRODUCTS: [&str; 7] = ["mul", "matmul", "linear", "conv", "conv_transpose", "einsum", "real_div"];

/// What an operation does to itself.
fn of_operation(op: &Operation, names: &Names<'_>, weights: &Weights) -> Option<String> {
    let bindings = || op.inputs.values().flat_map(|argument| argument.bindings());
    if PRODUCTS.contains(&op.kind.as_str())
        && let Some(x) = bindings().filter_map(|b| names.constant(b, weights)).find_map(|c| c.infinite)
    {
        return Some(format!("a constant of {x} is multiplied: wherever the other factor is 0, the result is NaN"));
    }
    let input = op.inputs.get("x").and_then(|argument| argument.bindings().first());
    let target = op.outputs.first().and_then(|output| output.ty.tensor()).map(|t| t.dtype);
    if op.kind == "cast"
        && target == Some(DataType::F16)
        && let Some(found) = input.and_then(|b| names.constant(b, weights))
        && found.largest > LARGEST_HALF
    {
        return Some(format!("a constant of magnitude {} is made fp16, where it is infinite", found.largest));
    }
    if op.kind.starts_with("gather")
        && let Some(indices) = op.inputs.get("indices").and_then(|argument| argument.bindings().first())
        && let Some(reach) = names.tensor(indices).and_then(|t| reach(t.dtype))
        && let Some(table) = input.and_then(|b| names.tensor(b))
    {
        // Without a fixed axis, the largest extent bounds what an index may be.
        let extents: Vec<Option<usize>> = table.shape.iter().map(|d| d.fixed()).collect();
        if let Some(rows) = extents.iter().flatten().max().filter(|n| **n > reach) {
            let dtype = names.tensor(indices).map(|t| t.dtype.name()).unwrap_or_default();
            return Some(format!("its indices are {dtype}, which wraps beyond {}, among {rows} entries", reach - 1));
        }
    }
    None
}

/// Number of entries that indices of a narrow type reach; `None` for wide ones.
fn reach(dtype: DataType) -> Option<usize> {
    match dtype {
        DataType::I8 => Some(1 << 7),
        DataType::U8 => Some(1 << 8),
        DataType::I16 => Some(1 << 15),
        DataType::U16 => Some(1 << 16),
        _ => None,
    }
}

fn visit(function: &str, block: &Block, names: &Names<'_>, weights: &Weights, found: &mut Vec<Warning>) {
    for op in &block.operations {
        if let Some(text) = of_operation(op, names, weights) {
            let (function, operation, name) = (function.to_owned(), op.kind.clone(), op.name.clone());
            found.push(Warning { function, operation, name, text });
        }
        op.blocks.iter().for_each(|inner| visit(function, inner, names, weights, found));
    }
}

/// Inputs of 16 bits, or that are made such at once: values beyond ±65,504 become infinite there.
pub fn half_inputs(program: &Program, function: &str) -> Vec<String> {
    let Some(function) = program.functions.get(function) else { return Vec::new() };
    let dtype = |ty: &ValueType| ty.tensor().map(|t| t.dtype);
    let narrowed = |name: &str| {
        let uses = function.block.operations.iter().filter(|op| {
            let mut bindings = op.inputs.values().flat_map(|argument| argument.bindings());
            bindings.any(|b| matches!(b, Binding::Name(n) if n == name))
        });
        let half =
            |op: &Operation| op.kind == "cast" && op.outputs.first().and_then(|o| dtype(&o.ty)) == Some(DataType::F16);
        let mut uses = uses.peekable();
        uses.peek().is_some() && uses.all(half)
    };
    let inputs = function.inputs.iter().filter(|i| match dtype(&i.ty) {
        Some(DataType::F16) => true,
        Some(DataType::F32) => narrowed(&i.name),
        _ => false,
    });
    inputs.map(|i| i.name.clone()).collect()
}

/// What the functions of a program do to themselves, in their order.
pub fn warnings(program: &Program, weights: &Weights) -> Vec<Warning> {
    let mut found = Vec::new();
    for (name, function) in &program.functions {
        let mut names = Names { types: HashMap::new(), constants: HashMap::new() };
        names.types.extend(function.inputs.iter().map(|input| (input.name.as_str(), &input.ty)));
        names.collect(&function.block, weights);
        visit(name, &function.block, &names, weights, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use coreml_format::mil_text;

    use super::*;

    fn texts(body: &str) -> Vec<String> {
        let text = format!(
            "program(1.3)\n{{\n    func main<ios17>(tensor<fp16, [3]> x, tensor<fp32, [3]> w, tensor<int32, [2]> i) {{\n{body}    }} -> (y);\n}}\n"
        );
        let program = mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(half_inputs(&program, "main"), if body.contains("half_w") { vec!["x", "w"] } else { vec!["x"] });
        let none = Weights::memory(std::iter::empty());
        warnings(&program, &none).into_iter().map(|w| format!("{} {}: {}", w.operation, w.name, w.text)).collect()
    }

    #[test]
    fn what_ends_in_nan_or_infinity_or_wraps_is_told_and_nothing_else() {
        let infinite = "        fp16 mask = const()[name = string(\"mask\"), val = fp16(-inf)];\n";
        let product = format!("{infinite}        tensor<fp16, [3]> y = mul(x = x, y = mask)[name = string(\"y\")];\n");
        assert_eq!(
            texts(&product),
            ["mul y: a constant of -inf is multiplied: wherever the other factor is 0, the result is NaN"]
        );
        let sum = format!("{infinite}        tensor<fp16, [3]> y = add(x = x, y = mask)[name = string(\"y\")];\n");
        assert!(texts(&sum).is_empty(), "a mask that is added is usual");
        let cast = "        fp32 low = const()[name = string(\"low\"), val = fp32(-1e9)];
        fp16 half = cast(x = low, dtype = string(\"fp16\"))[name = string(\"half\")];
        tensor<fp16, [3]> half_w = cast(x = w, dtype = string(\"fp16\"))[name = string(\"half_w\")];
        tensor<fp16, [3]> y = add(x = half_w, y = half)[name = string(\"y\")];\n";
        assert_eq!(texts(cast), ["cast half: a constant of magnitude 1000000000 is made fp16, where it is infinite"]);
        let gather = |rows: usize| {
            format!(
                "        tensor<fp32, [{rows}]> table = fill(shape = tensor<int32, [1]>([{rows}]), value = fp32(1))[name = string(\"table\")];
        tensor<int16, [2]> short = cast(x = i, dtype = string(\"int16\"))[name = string(\"short\")];
        tensor<fp32, [2]> y = gather(x = table, indices = short, axis = int32(0))[name = string(\"y\")];\n"
            )
        };
        assert_eq!(
            texts(&gather(40000)),
            ["gather y: its indices are int16, which wraps beyond 32767, among 40000 entries"]
        );
        assert!(texts(&gather(32768)).is_empty());
    }
}
