//! Typed values: `type(literal)`, with elements packed according to the type.

use super::lexer::Token;
use super::number::{float, integer, write_float};
use super::parser::Parser;
use super::printer::write_text;
use super::types::write_type;
use super::{Dialect, TextError};
use crate::blob::BlobRef;
use crate::dtype::DataType;
use crate::program::{Dim, TensorData, TensorType, Value, ValueData, ValueType};
use half::{bf16, f16};

type Result<T, E = TextError> = std::result::Result<T, E>;

/// Elements of a literal being parsed.
enum Elements {
    /// Whole-byte elements, little-endian.
    Bytes(Vec<u8>),
    /// Sub-byte elements, one per byte, still to be packed.
    Small(Vec<u8>),
    Strings(Vec<String>),
}

impl Elements {
    fn new(dtype: DataType) -> Self {
        match dtype.bits() {
            None => Self::Strings(Vec::new()),
            Some(bits) if bits < 8 => Self::Small(Vec::new()),
            Some(_) => Self::Bytes(Vec::new()),
        }
    }

    fn count(&self, dtype: DataType) -> usize {
        match self {
            Self::Bytes(b) => b.len() * 8 / dtype.bits().unwrap_or(8),
            Self::Small(b) => b.len(),
            Self::Strings(s) => s.len(),
        }
    }

    fn repeat(&mut self, times: usize) {
        match self {
            Self::Bytes(b) | Self::Small(b) => *b = b.repeat(times),
            Self::Strings(s) => *s = (0..times).flat_map(|_| s.iter().cloned()).collect(),
        }
    }

    fn finish(self, dtype: DataType) -> TensorData {
        match self {
            Self::Bytes(b) => TensorData::Bytes(b),
            Self::Strings(s) => TensorData::Strings(s),
            Self::Small(values) => {
                let bits = dtype.bits().unwrap_or(8);
                let mut packed = vec![0u8; (values.len() * bits).div_ceil(8)];
                for (i, &value) in values.iter().enumerate() {
                    let (byte, shift) = (i * bits / 8, i * bits % 8);
                    let wide = u16::from(value) << shift;
                    packed[byte] |= wide as u8;
                    if wide > 0xff {
                        packed[byte + 1] |= (wide >> 8) as u8;
                    }
                }
                TensorData::Bytes(packed)
            }
        }
    }
}

impl Parser<'_> {
    /// `type(literal)`
    pub(super) fn value(&mut self) -> Result<Value> {
        let ty = self.value_type()?;
        self.expect('(')?;
        let value = self.content(ty)?;
        self.expect(')')?;
        Ok(value)
    }

    /// A literal of a known type; it may repeat the type.
    fn content(&mut self, ty: ValueType) -> Result<Value> {
        self.nested(|p| {
            let data = match &ty {
                ValueType::Tensor(t) => return p.tensor(t.clone()),
                ValueType::State(_) => return Err(p.error("a type that has values", "a state")),
                ValueType::Tuple(types) => ValueData::Tuple(p.tuple(types)?),
                ValueType::List(element, _) => ValueData::List(p.bracketed(|p| p.element((**element).clone()))?),
                ValueType::Dictionary(key, value) => {
                    p.expect('{')?;
                    let entries = p.separated('}', |p| {
                        p.expect('{')?;
                        let k = p.element((**key).clone())?;
                        p.expect(',')?;
                        let v = p.element((**value).clone())?;
                        p.expect('}')?;
                        Ok((k, v))
                    })?;
                    p.expect('}')?;
                    ValueData::Dictionary(entries)
                }
            };
            Ok(Value { ty, data })
        })
    }

    /// An element of a list, tuple or dictionary: a literal, or a value with its own type.
    fn element(&mut self, ty: ValueType) -> Result<Value> {
        match self.peek() {
            Token::Ident(word) if !is_word(word) => self.value(),
            _ => self.content(ty),
        }
    }

    fn tuple(&mut self, types: &[ValueType]) -> Result<Vec<Value>> {
        let mut types = types.iter();
        let items = self.bracketed(|p| match types.next() {
            Some(ty) => p.element(ty.clone()),
            None => Err(p.error("no more elements than the tuple's type has", "another element")),
        })?;
        match types.next() {
            Some(_) => Err(self.error_before("as many elements as the tuple's type has", format!("{}", items.len()))),
            None => Ok(items),
        }
    }

    fn bracketed<T>(&mut self, element: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let close = if self.take('(')? {
            ')'
        } else {
            self.expect('[')?;
            ']'
        };
        let all = self.separated(close, element)?;
        self.expect(close)?;
        Ok(all)
    }

    fn tensor(&mut self, ty: TensorType) -> Result<Value> {
        if *self.peek() == Token::Ident("BLOBFILE") {
            let data = self.blob_file()?;
            return Ok(Value { ty: ValueType::Tensor(ty), data: ValueData::Tensor(TensorData::Blob(data)) });
        }
        let mut elements = Elements::new(ty.dtype);
        let mut found = Vec::new();
        let listed = *self.peek() == Token::Punct('[');
        if listed {
            self.elements(ty.dtype, &mut elements, &mut found, 0)?;
        } else {
            self.scalar(ty.dtype, &mut elements)?;
        }
        let count = elements.count(ty.dtype);
        let shape = self.literal_shape(&ty, listed, &found, count)?;
        let wanted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        if wanted != count {
            // A splat: one element for all.
            self.splats = self
                .splats
                .checked_sub(wanted)
                .ok_or_else(|| self.error_before(format!("{wanted} elements"), "one, for more than can be repeated"))?;
            elements.repeat(wanted);
        }
        let data = ValueData::Tensor(elements.finish(ty.dtype));
        Ok(Value { ty: ValueType::Tensor(TensorType::fixed(ty.dtype, &shape)), data })
    }

    /// Shape of a literal: the type's shape, with unknown extents as found. Any shape accepts a flat list or a single
    /// element.
    fn literal_shape(&self, ty: &TensorType, listed: bool, found: &[usize], count: usize) -> Result<Vec<usize>> {
        let fits = |declared: &[Dim], found: &[usize]| {
            declared.len() == found.len()
                && declared.iter().zip(found).all(|(d, &n)| d.fixed().is_none_or(|fixed| fixed == n))
        };
        if fits(&ty.shape, found) || (ty.shape.contains(&Dim::Variadic) && listed) {
            return Ok(found.to_vec());
        }
        if let Some(shape) = ty.fixed_shape() {
            let wanted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            let flat = found.len() <= 1 && wanted == Some(count);
            let empty = wanted == Some(0) && count == 0 && listed;
            let splat = !listed && wanted.is_some_and(|w| w > 0);
            if flat || empty || splat {
                return Ok(shape);
            }
        }
        let declared: Vec<_> = ty.shape.iter().map(Dim::to_string).collect();
        let shape = if listed { format!("{found:?}") } else { "a scalar".to_owned() };
        Err(self.error_before(format!("a literal of shape [{}]", declared.join(", ")), shape))
    }

    /// Parses nested brackets; `shape` receives the extents, which must be consistent.
    fn elements(&mut self, dtype: DataType, out: &mut Elements, shape: &mut Vec<usize>, level: usize) -> Result<()> {
        self.nested(|p| {
            let start = p.position();
            p.expect('[')?;
            if shape.len() <= level && out.count(dtype) > 0 {
                return Err(p.error_at(start, "lists of one depth", "a list beside elements"));
            }
            let items = p.separated(']', |p| match p.peek() {
                Token::Punct('[') => {
                    p.elements(dtype, out, shape, level + 1)?;
                    Ok(true)
                }
                _ => p.scalar(dtype, out).map(|()| false),
            })?;
            p.expect(']')?;
            if items.iter().any(|&nested| nested != items[0]) {
                return Err(p.error_at(start, "elements or lists, not both", "a mixture"));
            }
            // Inner lists were parsed first: extents are filled from the innermost level outwards.
            let nested = items.first() == Some(&true);
            if shape.len() <= level {
                shape.resize(level + 1, usize::MAX);
            }
            if !nested && shape.len() > level + 1 && !items.is_empty() {
                return Err(p.error_at(start, "lists of one depth", "elements beside lists"));
            }
            match shape[level] {
                usize::MAX => shape[level] = items.len(),
                extent if extent == items.len() => {}
                extent => return Err(p.error_at(start, format!("{extent} elements"), items.len())),
            }
            Ok(())
        })
    }

    fn scalar(&mut self, dtype: DataType, out: &mut Elements) -> Result<()> {
        let token = self.peek().clone();
        let wrong = |p: &Self| p.error(format!("an element of type {dtype}"), &token);
        match (out, &token) {
            (Elements::Strings(all), Token::Text(text)) => all.push(text.clone().into_owned()),
            (Elements::Bytes(all), Token::Ident("true" | "false")) if dtype == DataType::Bool => {
                all.push(u8::from(token == Token::Ident("true")));
            }
            (Elements::Bytes(all), Token::Number(text) | Token::Ident(text)) => {
                if !push_number(all, dtype, text) {
                    return Err(wrong(self));
                }
            }
            (Elements::Small(all), Token::Number(text)) => {
                let bits = dtype.bits().unwrap_or(8);
                let (low, high) = if dtype == DataType::I4 { (-8, 7) } else { (0, (1i128 << bits) - 1) };
                let value = integer(text).filter(|v| (low..=high).contains(v)).ok_or_else(|| wrong(self))?;
                all.push(value as u8 & ((1u16 << bits) - 1) as u8);
            }
            _ => return Err(wrong(self)),
        }
        self.advance().map(drop)
    }

    /// `BLOBFILE(path = value, offset = value)`
    fn blob_file(&mut self) -> Result<BlobRef> {
        self.advance()?;
        self.expect('(')?;
        let (mut file, mut offset) = (None, None);
        self.separated(')', |p| {
            let name = p.ident("`path` or `offset`")?;
            p.expect('=')?;
            match (name, p.peek().clone()) {
                ("path", Token::Text(text)) => file = Some(text.into_owned()),
                ("offset", Token::Number(text)) => offset = integer(text),
                (_, Token::Ident(_)) => {
                    let value = p.value()?;
                    match (name, value.data) {
                        ("path", ValueData::Tensor(TensorData::Strings(s))) => file = s.into_iter().next(),
                        ("offset", ValueData::Tensor(TensorData::Bytes(b))) if b.len() <= 8 => {
                            let bytes = b.iter().rev().fold(0i128, |n, &byte| n << 8 | i128::from(byte));
                            offset = Some(bytes);
                        }
                        _ => return Err(p.error_before("a path (string) or an offset (uint64)", "another value")),
                    }
                    return Ok(());
                }
                (_, other) => return Err(p.error("a path (string) or an offset (uint64)", other)),
            }
            p.advance().map(drop)
        })?;
        self.expect(')')?;
        match (file, offset.map(u64::try_from)) {
            (Some(file), Some(Ok(offset))) => Ok(BlobRef { file: file.into(), offset }),
            _ => Err(self.error_before("BLOBFILE(path = …, offset = …)", "one without the other")),
        }
    }
}

/// Identifiers that are literal elements, not the start of a type.
fn is_word(word: &str) -> bool {
    matches!(word, "true" | "false" | "inf" | "nan" | "infinity" | "INFINITY" | "NAN" | "BLOBFILE")
}

/// Appends a number of a whole-byte type; returns false if the text is not a number or is out of range.
fn push_number(out: &mut Vec<u8>, dtype: DataType, text: &str) -> bool {
    if dtype.is_float() {
        let Some(value) = float(text) else { return false };
        match dtype {
            DataType::F16 => out.extend(f16::from_f64(value).to_le_bytes()),
            DataType::BF16 => out.extend(bf16::from_f64(value).to_le_bytes()),
            // A decimal is rounded once, directly from the text.
            DataType::F32 => out.extend(text.parse().unwrap_or(value as f32).to_le_bytes()),
            DataType::F64 => out.extend(value.to_le_bytes()),
            // The nearest of the 256 values; printed values read back exactly.
            _ => match nearest_f8(value, dtype) {
                Some(byte) => out.push(byte),
                None => return false,
            },
        }
        return true;
    }
    let Some(value) = integer(text) else { return false };
    let bits = dtype.bits().unwrap_or(8);
    let signed = matches!(dtype, DataType::I8 | DataType::I16 | DataType::I32 | DataType::I64);
    let (low, high) = match (dtype, signed) {
        (DataType::Bool, _) => (0, 1),
        (_, true) => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        (_, false) => (0, (1i128 << bits) - 1),
    };
    if !(low..=high).contains(&value) {
        return false;
    }
    out.extend(value.to_le_bytes().into_iter().take(bits / 8));
    true
}

fn nearest_f8(value: f64, dtype: DataType) -> Option<u8> {
    let candidates = (0..=255u8).map(|b| (b, f8(b, dtype)));
    if value.is_nan() {
        return candidates.filter(|c| c.1.is_nan()).map(|c| c.0).next();
    }
    if value.is_infinite() {
        return candidates.filter(|c| c.1 == value).map(|c| c.0).next();
    }
    let sign = value.is_sign_negative();
    candidates
        .filter(|c| c.1.is_finite() && c.1.is_sign_negative() == sign)
        .min_by(|a, b| (a.1 - value).abs().total_cmp(&(b.1 - value).abs()))
        .map(|c| c.0)
}

/// The value of an 8-bit float (OCP 8-bit floating point specification, revision 1.0).
fn f8(byte: u8, dtype: DataType) -> f64 {
    let (mantissa_bits, bias, finite) = if dtype == DataType::F8E4M3FN { (3, 7, true) } else { (2, 15, false) };
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((byte & 0x7f) >> mantissa_bits);
    let mantissa = f64::from(byte & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let top = exponent == (0x7f >> mantissa_bits);
    sign * match (finite, top) {
        (true, _) if byte & 0x7f == 0x7f => f64::NAN,
        (false, true) if mantissa == 0.0 => f64::INFINITY,
        (false, true) => f64::NAN,
        _ if exponent == 0 => mantissa * 2f64.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
    }
}

/// Writes `type(literal)`.
pub(super) fn write_value(out: &mut String, value: &Value, dialect: Dialect) {
    write_type(out, &value.ty, dialect);
    out.push('(');
    write_content(out, value, dialect);
    out.push(')');
}

/// Writes an element of a list, tuple or dictionary, with its type if it differs from the expected one.
fn write_item(out: &mut String, item: &Value, wanted: &ValueType, dialect: Dialect) {
    if of_type(item, wanted) { write_content(out, item, dialect) } else { write_value(out, item, dialect) }
}

/// Returns true if a literal of this type reads back as the value.
fn of_type(item: &Value, wanted: &ValueType) -> bool {
    match (&item.ty, wanted) {
        (ValueType::Tensor(own), ValueType::Tensor(wanted)) => {
            own.dtype == wanted.dtype
                && own.shape.len() == wanted.shape.len()
                && own.shape.iter().zip(&wanted.shape).all(|(o, w)| o == w || *w == Dim::Unknown)
                // Empty brackets do not determine every extent.
                && (own.shape == wanted.shape || !own.shape.contains(&Dim::Fixed(0)))
        }
        (own, wanted) => own == wanted,
    }
}

fn write_content(out: &mut String, value: &Value, dialect: Dialect) {
    match (&value.data, &value.ty) {
        (ValueData::Tuple(items), ValueType::Tuple(types)) => {
            out.push('(');
            for (i, (item, ty)) in items.iter().zip(types).enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_item(out, item, ty, dialect);
            }
            out.push(')');
        }
        (ValueData::List(items), ValueType::List(ty, _)) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_item(out, item, ty, dialect);
            }
            out.push(']');
        }
        (ValueData::Dictionary(entries), ValueType::Dictionary(keys, values)) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                out.push_str(if i > 0 { ", {" } else { "{" });
                write_item(out, key, keys, dialect);
                out.push_str(", ");
                write_item(out, value, values, dialect);
                out.push('}');
            }
            out.push('}');
        }
        (ValueData::Tensor(TensorData::Blob(at)), _) => {
            out.push_str("BLOBFILE(path = ");
            write_value(out, &Value::string(&at.file), dialect);
            out.push_str(", offset = ");
            write_value(out, &Value::tensor(DataType::U64, &[], at.offset.to_le_bytes().to_vec()), dialect);
            out.push(')');
        }
        (ValueData::Tensor(data), ValueType::Tensor(ty)) => {
            let shape = ty.fixed_shape().unwrap_or_default();
            write_elements(out, data, ty.dtype, &shape, &mut 0);
        }
        // A value that contradicts its type has no text form; [`crate::verify`] rejects it.
        _ => {}
    }
}

fn write_elements(out: &mut String, data: &TensorData, dtype: DataType, shape: &[usize], next: &mut usize) {
    let Some((&extent, inner)) = shape.split_first() else {
        write_element(out, data, dtype, *next);
        *next += 1;
        return;
    };
    out.push('[');
    for i in 0..extent {
        out.push_str(if i > 0 { ", " } else { "" });
        write_elements(out, data, dtype, inner, next);
    }
    out.push(']');
}

fn write_element(out: &mut String, data: &TensorData, dtype: DataType, index: usize) {
    use std::fmt::Write;
    let bytes = match data {
        TensorData::Strings(s) => return write_text(out, s.get(index).map_or("", String::as_str)),
        TensorData::Bytes(b) => &b[..],
        TensorData::Shared(b) => &b[..],
        TensorData::Blob(_) => return,
    };
    let bits = dtype.bits().unwrap_or(8);
    // The element's bits, low first; elements of up to 64 bits span at most nine bytes.
    let start = index * bits;
    let window = (start / 8..(start + bits).div_ceil(8)).rev();
    let raw = window.fold(0u128, |n, i| n << 8 | u128::from(bytes.get(i).copied().unwrap_or(0)));
    let raw = (raw >> (start % 8)) as u64 & (u64::MAX >> (64 - bits));
    let _ = match dtype {
        DataType::Bool => write!(out, "{}", raw != 0),
        DataType::F16 => return write_float(out, f16::from_bits(raw as u16).to_f64()),
        DataType::BF16 => return write_float(out, bf16::from_bits(raw as u16).to_f64()),
        DataType::F32 => return write_float(out, f64::from(f32::from_bits(raw as u32))),
        DataType::F64 => return write_float(out, f64::from_bits(raw)),
        DataType::F8E4M3FN | DataType::F8E5M2 => return write_float(out, f8(raw as u8, dtype)),
        DataType::I4 | DataType::I8 | DataType::I16 | DataType::I32 | DataType::I64 => {
            write!(out, "{}", (raw << (64 - bits)) as i64 >> (64 - bits))
        }
        _ => write!(out, "{raw}"),
    };
}
