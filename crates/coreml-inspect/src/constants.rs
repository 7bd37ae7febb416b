//! Descriptions of a function's constants: values of small ones, storage form and size of weights.

use std::collections::HashMap;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Block, Operation, Opset, TensorData, TensorType, Value, ValueData};
use half::f16;

/// Maximum number of elements whose values are shown.
const SHOWN: usize = 8;
/// Maximum nesting of compressed forms: a sparse table of quantized values is three deep.
const DEPTH: usize = 4;

/// A named constant.
#[derive(Clone, Copy)]
pub(crate) enum Constant<'a> {
    /// A `const`.
    Literal(&'a Value),
    /// A `constexpr_*` operation.
    Made(&'a Operation),
}

/// Constants of a function by name, including nested blocks.
#[derive(Default)]
pub(crate) struct Constants<'a> {
    by_name: HashMap<&'a str, Constant<'a>>,
}

/// A weight: its storage form and its decoded type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Name of the operation's parameter.
    pub(crate) parameter: String,
    /// Storage form, such as `dense` or `6-bit table × 24`.
    pub(crate) form: String,
    /// Element type seen by the operation.
    pub(crate) dtype: DataType,
    /// Shape seen by the operation.
    pub(crate) shape: Vec<usize>,
    /// Size of its parts in the file, in bytes.
    pub(crate) bytes: u64,
    /// First opset with this form.
    pub(crate) since: Opset,
    /// Name of the constant.
    pub(crate) name: String,
}

impl<'a> Constants<'a> {
    /// Collects the constants of a block, including nested blocks.
    pub(crate) fn collect(&mut self, block: &'a Block) {
        for op in &block.operations {
            if op.kind == "const" {
                if let (Some(output), Some(value)) = (op.outputs.first(), op.attributes.get("val")) {
                    self.by_name.insert(&output.name, Constant::Literal(value));
                }
            } else if op.kind.starts_with("constexpr_")
                && let Some(output) = op.outputs.first()
            {
                self.by_name.insert(&output.name, Constant::Made(op));
            }
            op.blocks.iter().for_each(|b| self.collect(b));
        }
    }

    /// The constant with this name, if any.
    pub(crate) fn get(&self, name: &str) -> Option<Constant<'a>> {
        self.by_name.get(name).copied()
    }

    /// The literal of a binding, direct or by name.
    pub(crate) fn literal<'b>(&self, binding: &'b Binding) -> Option<&'b Value>
    where
        'a: 'b,
    {
        match binding {
            Binding::Value(v) => Some(v),
            Binding::Name(n) => match self.get(n)? {
                Constant::Literal(v) => Some(v),
                Constant::Made(_) => None,
            },
        }
    }

    /// Literal parameter of an operation, from its inputs or attributes.
    pub(crate) fn parameter(&self, op: &'a Operation, name: &str) -> Option<&'a Value> {
        match op.inputs.get(name) {
            Some(Argument::One(binding)) => self.literal(binding),
            _ => op.attributes.get(name),
        }
    }

    /// The weight of a binding: a constant too large to show, or a compressed one.
    pub(crate) fn weight(&self, parameter: &str, binding: &'a Binding) -> Option<Weight> {
        let (name, constant) = match binding {
            Binding::Value(v) => ("", Constant::Literal(v)),
            Binding::Name(n) => (n.as_str(), self.get(n)?),
        };
        let shown = |v: &Value| text(v).is_some();
        match constant {
            Constant::Literal(v) if shown(v) => None,
            _ => self.form(constant, DEPTH).map(|(form, ty, bytes, since)| Weight {
                parameter: parameter.to_owned(),
                form,
                dtype: ty.dtype,
                shape: ty.fixed_shape().unwrap_or_default(),
                bytes,
                since,
                name: name.to_owned(),
            }),
        }
    }

    fn form(&self, constant: Constant<'a>, depth: usize) -> Option<(String, TensorType, u64, Opset)> {
        match constant {
            Constant::Literal(v) => {
                let ty = v.ty.tensor()?.clone();
                let elements = ty.fixed_shape()?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
                let bytes = ty.dtype.packed_len(elements).unwrap_or(0) as u64;
                Some(("dense".to_owned(), ty, bytes, Opset::Ios15))
            }
            Constant::Made(op) => {
                let ty = op.outputs.first()?.ty.tensor()?.clone();
                let part = |name: &str| self.part(op, name, depth.checked_sub(1)?);
                let (form, since) = form(op, &part);
                // Every parameter is in the file: data, tables, scales, masks.
                let names = op.inputs.keys().chain(op.attributes.keys());
                let parts: Vec<_> = names.filter_map(|n| part(n)).collect();
                let bytes = parts.iter().map(|p| p.2).fold(0u64, u64::saturating_add);
                let since = parts.iter().map(|p| p.3).chain([since]).max()?;
                Some((form, ty, bytes, since))
            }
        }
    }

    fn part(&self, op: &'a Operation, name: &str, depth: usize) -> Option<(String, TensorType, u64, Opset)> {
        let constant = match op.inputs.get(name) {
            Some(Argument::One(Binding::Value(v))) => Constant::Literal(v),
            Some(Argument::One(Binding::Name(n))) => self.get(n)?,
            Some(Argument::Many(_)) => return None,
            None => Constant::Literal(op.attributes.get(name)?),
        };
        self.form(constant, depth)
    }
}

/// A part of a compressed weight: form, type, bytes, opset.
type Part = (String, TensorType, u64, Opset);

/// Name of a compressed form, and the first opset with it.
fn form(op: &Operation, part: &dyn Fn(&str) -> Option<Part>) -> (String, Opset) {
    let ty = |name: &str| part(name).map(|p| p.1);
    let shape = |name: &str| ty(name).and_then(|t| t.fixed_shape()).unwrap_or_default();
    let bits = |name: &str| ty(name).and_then(|t| t.dtype.bits()).unwrap_or(0);
    let product = |s: &[usize]| s.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let old_table = op.attributes.contains_key("lut");
    match op.kind.as_str() {
        // iOS16: one table of 2^n entries. iOS18: [groups …, 2^n, vector].
        "constexpr_lut_to_dense" if old_table || shape("lut").len() == 1 => {
            let entries = product(&shape("lut")).max(1);
            (format!("{}-bit table", entries.ilog2()), Opset::Ios16)
        }
        "constexpr_lut_to_dense" | "constexpr_lut_to_sparse" => {
            let lut = shape("lut");
            let n = lut.len();
            let (groups, entries) = (product(&lut[..n.saturating_sub(2)]), lut.get(n.wrapping_sub(2)).copied());
            let vector = lut.last().copied().unwrap_or(1);
            let mut form = format!("{}-bit table", entries.unwrap_or(1).max(1).ilog2());
            if groups > 1 {
                form += &format!(" × {groups}");
            }
            if vector > 1 {
                form += &format!(" of vectors of {vector}");
            }
            if op.kind.ends_with("sparse") {
                form += ", sparse";
            }
            (form, Opset::Ios18)
        }
        "constexpr_affine_dequantize" => (format!("{}-bit affine", bits("quantized_data")), Opset::Ios16),
        "constexpr_blockwise_shift_scale" => {
            (format!("{}-bit, {}", bits("data"), blocks(&shape("data"), &shape("scale"))), Opset::Ios18)
        }
        "constexpr_sparse_blockwise_shift_scale" => (format!("{}-bit, sparse", bits("nonzero_data")), Opset::Ios18),
        "constexpr_sparse_to_dense" => {
            let inner = part("nonzero_data").map_or_else(String::new, |p| p.0);
            let since = if op.attributes.contains_key("nonzero_data") { Opset::Ios16 } else { Opset::Ios18 };
            (if inner == "dense" { "sparse".to_owned() } else { inner }, since)
        }
        "constexpr_cast" => (format!("stored as {}", ty("source_val").map_or("?", |t| t.dtype.name())), Opset::Ios16),
        other => (other.trim_start_matches("constexpr_").to_owned(), Opset::Ios16),
    }
}

/// Granularity of scales: per tensor, per channel, or per block.
fn blocks(data: &[usize], scale: &[usize]) -> String {
    let spread: Vec<usize> = data.iter().zip(scale).filter(|(_, s)| **s > 1).map(|(d, s)| d / s).collect();
    match spread.iter().filter(|b| **b > 1).min() {
        _ if spread.is_empty() => "one scale".to_owned(),
        None => "scales per channel".to_owned(),
        Some(block) => format!("scales per block of {block}"),
    }
}

/// A small constant as text; `None` for large ones and those in weight files.
pub(crate) fn text(value: &Value) -> Option<String> {
    let ty = value.ty.tensor()?;
    let elements = ty.fixed_shape()?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let ValueData::Tensor(data) = &value.data else { return None };
    if elements > SHOWN {
        return None;
    }
    let items: Vec<String> = match data {
        TensorData::Strings(s) => s.clone(),
        TensorData::Bytes(b) => numbers(ty.dtype, b)?.into_iter().take(elements).collect(),
        TensorData::Shared(b) => numbers(ty.dtype, b)?.into_iter().take(elements).collect(),
        TensorData::Blob(_) => return None,
    };
    Some(if ty.shape.is_empty() { items.into_iter().next()? } else { format!("[{}]", items.join(", ")) })
}

/// Elements of a whole-byte type.
fn numbers(dtype: DataType, bytes: &[u8]) -> Option<Vec<String>> {
    fn each<const N: usize>(bytes: &[u8], show: impl Fn([u8; N]) -> String) -> Vec<String> {
        bytes.as_chunks::<N>().0.iter().map(|c| show(*c)).collect()
    }
    Some(match dtype {
        DataType::Bool => each::<1>(bytes, |b| (b[0] != 0).to_string()),
        DataType::I8 => each::<1>(bytes, |b| i8::from_le_bytes(b).to_string()),
        DataType::U8 => each::<1>(bytes, |b| b[0].to_string()),
        DataType::I16 => each::<2>(bytes, |b| i16::from_le_bytes(b).to_string()),
        DataType::U16 => each::<2>(bytes, |b| u16::from_le_bytes(b).to_string()),
        DataType::F16 => each::<2>(bytes, |b| short(f16::from_le_bytes(b).to_f32())),
        DataType::F32 => each::<4>(bytes, |b| short(f32::from_le_bytes(b))),
        DataType::I32 => each::<4>(bytes, |b| i32::from_le_bytes(b).to_string()),
        DataType::U32 => each::<4>(bytes, |b| u32::from_le_bytes(b).to_string()),
        DataType::I64 => each::<8>(bytes, |b| i64::from_le_bytes(b).to_string()),
        _ => return None,
    })
}

fn short(v: f32) -> String {
    if v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e5) {
        return format!("{v:.2e}");
    }
    let text = format!("{v:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_are_shown_and_large_ones_are_not() {
        assert_eq!(text(&Value::int(-1)).as_deref(), Some("-1"));
        assert_eq!(text(&Value::ints(&[1, 2])).as_deref(), Some("[1, 2]"));
        assert_eq!(text(&Value::ints(&[])).as_deref(), Some("[]"));
        assert_eq!(text(&Value::bool(true)).as_deref(), Some("true"));
        assert_eq!(text(&Value::string("valid")).as_deref(), Some("valid"));
        assert_eq!(text(&Value::f16(0.25)).as_deref(), Some("0.25"));
        assert_eq!(text(&Value::f16(1e-6)).as_deref(), Some("1.01e-6"), "the nearest fp16");
        assert_eq!(text(&Value::ints(&[0; 9])), None);
    }

    #[test]
    fn scales_are_told_apart_by_how_far_they_reach() {
        assert_eq!(blocks(&[64, 128], &[1, 1]), "one scale");
        assert_eq!(blocks(&[64, 128], &[64, 1]), "scales per channel");
        assert_eq!(blocks(&[64, 128], &[64, 4]), "scales per block of 32");
    }
}
