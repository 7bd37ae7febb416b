//! NumPy's `.npy`: magic, version, header length, header as a Python literal, elements. See
//! [`numpy.lib.format`](https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).

use std::io::{Read, Write};

use candle_core::{DType, Tensor, WithDType};
use half::f16;

use super::element::{Element, Order};
use super::{Budget, Limits, TensorsCause};

/// Magic bytes.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Element types by kind and size in bytes, as in NumPy's type descriptions.
const TYPES: [(&str, Element); 12] = [
    ("b1", Element::Bool),
    ("u1", Element::U8),
    ("u2", Element::U16),
    ("u4", Element::U32),
    ("u8", Element::U64),
    ("i1", Element::I8),
    ("i2", Element::I16),
    ("i4", Element::I32),
    ("i8", Element::I64),
    ("f2", Element::F16),
    ("f4", Element::F32),
    ("f8", Element::F64),
];

/// Parsed header.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    element: Element,
    order: Order,
    shape: Vec<usize>,
}

/// Reads an array from a source that claims `size` bytes.
pub(super) fn read(
    source: &mut impl Read,
    size: u64,
    limits: &Limits,
    budget: &mut Budget,
) -> Result<Tensor, TensorsCause> {
    let mut start = [0; 8];
    source.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(TensorsCause::content("an array of NumPy (.npy)", "other bytes"));
    }
    // Lengths have 16 bits in version 1, 32 in 2 and 3; 3 allows UTF-8, needed only for field names of records.
    let (length, before) = match start[6] {
        1 => {
            let mut length = [0; 2];
            source.read_exact(&mut length)?;
            (u64::from(u16::from_le_bytes(length)), 10)
        }
        2 | 3 => {
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            (u64::from(u32::from_le_bytes(length)), 12)
        }
        other => return Err(TensorsCause::content("version 1, 2 or 3 of .npy", format!("version {other}"))),
    };
    if length > limits.header {
        let expected = format!("a header of at most {} bytes", limits.header);
        return Err(TensorsCause::content(expected, format!("{length} bytes")));
    }
    let mut text = Vec::new();
    source.take(length).read_to_end(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| TensorsCause::content("a header of text", "other bytes"))?;
    let Header { element, order, shape } = header(&text)?;
    let (needed, left) = (element.size(&shape)?, size.saturating_sub(before + length));
    if needed != left {
        return Err(TensorsCause::content(
            format!("{needed} bytes of elements for {shape:?}"),
            format!("{left} bytes"),
        ));
    }
    element.read(source, &shape, order, budget)
}

/// The description and the bytes of a tensor; bfloat16, which NumPy lacks, as floats of 32 bits.
///
/// # Errors
/// If NumPy has no such elements.
fn elements(tensor: &Tensor) -> Result<(&'static str, Vec<u8>), TensorsCause> {
    fn bytes<T: WithDType + bytemuck::Pod>(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
        let all: Vec<T> = tensor.flatten_all()?.to_vec1()?;
        let mut bytes: Vec<u8> = bytemuck::cast_slice(&all).to_vec();
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }
    let (descr, made) = match tensor.dtype() {
        DType::U8 => ("|u1", bytes::<u8>(tensor)),
        DType::U32 => ("<u4", bytes::<u32>(tensor)),
        DType::I16 => ("<i2", bytes::<i16>(tensor)),
        DType::I32 => ("<i4", bytes::<i32>(tensor)),
        DType::I64 => ("<i8", bytes::<i64>(tensor)),
        DType::F16 => ("<f2", bytes::<f16>(tensor)),
        DType::BF16 => ("<f4", tensor.to_dtype(DType::F32).and_then(|t| bytes::<f32>(&t))),
        DType::F32 => ("<f4", bytes::<f32>(tensor)),
        DType::F64 => ("<f8", bytes::<f64>(tensor)),
        other => return Err(TensorsCause::content("elements that NumPy has", format!("{other:?}"))),
    };
    made.map(|bytes| (descr, bytes)).map_err(|e| TensorsCause::content("elements in memory", e))
}

/// Writes an array: version 1.0, little-endian, row by row, elements at a multiple of 64 bytes.
///
/// # Errors
/// If NumPy has no such elements, or the target can't be written.
pub(super) fn write(target: &mut impl Write, tensor: &Tensor) -> Result<(), TensorsCause> {
    let (descr, bytes) = elements(tensor)?;
    let dims: Vec<String> = tensor.dims().iter().map(usize::to_string).collect();
    // A tuple of one has a comma.
    let shape = if dims.len() == 1 { format!("{},", dims[0]) } else { dims.join(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let before = MAGIC.len() + 4;
    let padding = (before + header.len() + 1).next_multiple_of(64) - before - header.len() - 1;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| TensorsCause::content("a short shape", shape))?;
    target.write_all(MAGIC)?;
    target.write_all(&[1, 0])?;
    target.write_all(&length.to_le_bytes())?;
    target.write_all(header.as_bytes())?;
    Ok(target.write_all(&bytes)?)
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn header(text: &str) -> Result<Header, TensorsCause> {
    let shown: String = text.chars().take(200).collect();
    let malformed = || {
        let expected = "a header with 'descr' of one type, 'fortran_order' and 'shape'";
        TensorsCause::content(expected, shown.trim_end())
    };
    let mut rest = Rest(text);
    let (mut element, mut fortran, mut shape) = (None, None, None);
    rest.token("{").ok_or_else(malformed)?;
    while rest.token("}").is_none() {
        let key = rest.string().ok_or_else(malformed)?;
        rest.token(":").ok_or_else(malformed)?;
        // NumPy never writes duplicate or unknown keys.
        match key {
            "descr" if element.is_none() => element = Some(describe(rest.string().ok_or_else(malformed)?)?),
            "fortran_order" if fortran.is_none() => fortran = Some(rest.boolean().ok_or_else(malformed)?),
            "shape" if shape.is_none() => shape = Some(rest.shape().ok_or_else(malformed)?),
            _ => return Err(malformed()),
        }
        if rest.token(",").is_none() {
            rest.token("}").ok_or_else(malformed)?;
            break;
        }
    }
    let ((element, big_endian), fortran) = (element.ok_or_else(malformed)?, fortran.ok_or_else(malformed)?);
    let shape = shape.filter(|_| rest.0.trim().is_empty()).ok_or_else(malformed)?;
    Ok(Header { element, order: Order { big_endian, fortran }, shape })
}

/// Element type of a description such as `<f4`, and true if it is big-endian.
fn describe(text: &str) -> Result<(Element, bool), TensorsCause> {
    let (order, name) = text.split_at_checked(1).unwrap_or_default();
    let element = TYPES.iter().find(|t| t.0 == name).map(|t| t.1);
    let big = match order {
        "<" | "|" => Some(false),
        "=" => Some(cfg!(target_endian = "big")),
        ">" => Some(true),
        _ => None,
    };
    element.zip(big).ok_or_else(|| {
        let names: Vec<&str> = TYPES.iter().map(|t| t.0).collect();
        let expected = format!("elements of one of the types {}, with their byte order", names.join(", "));
        TensorsCause::content(expected, format!("`{}`", text.chars().take(100).collect::<String>()))
    })
}

/// Unparsed rest of a header.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn token(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    /// A string without escapes: no key or type description has any.
    fn string(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (string, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        (!string.contains('\\')).then_some(string)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.token("True").map(|()| true).or_else(|| self.token("False").map(|()| false))
    }

    fn shape(&mut self) -> Option<Vec<usize>> {
        self.token("(")?;
        let mut shape = Vec::new();
        while self.token(")").is_none() {
            let text = self.0.trim_start();
            let digits = text.find(|c: char| !c.is_ascii_digit())?;
            shape.push(text[..digits].parse().ok()?);
            // Python 2 writes long integers with an `L`.
            self.0 = text[digits..].trim_start_matches('L');
            // In Python `(3)` is a number, not a tuple.
            if self.token(",").is_none() {
                self.token(")").filter(|()| shape.len() > 1)?;
                break;
            }
        }
        Some(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_numpy_writes_them() {
        let shape = |text: &str| header(text).map(|h| h.shape).map_err(|e| e.to_string());
        let with = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}   \n");
        assert_eq!(shape(&with("(3, 4)")), Ok(vec![3, 4]));
        assert_eq!(shape(&with("(3,)")), Ok(vec![3]));
        assert_eq!(shape(&with("()")), Ok(vec![]));
        assert_eq!(shape(&with("(3L, 4L)")), Ok(vec![3, 4]));
        for wrong in ["(3)", "(-1,)", "(3,", "3", "(3 4)", "(99999999999999999999,)", "(,)", "('3',)"] {
            assert!(shape(&with(wrong)).is_err(), "{wrong}");
        }
        let all = header("{\"shape\":(2,3),\"fortran_order\":True,\"descr\":\">i8\"}").expect("in any order");
        let order = Order { big_endian: true, fortran: true };
        assert_eq!(all, Header { element: Element::I64, order, shape: vec![2, 3] });
    }

    #[test]
    fn headers_that_are_none_are_refused() {
        let whole = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }";
        for end in 0..whole.len() {
            assert!(header(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        for wrong in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } x",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), 'more': True }",
            "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (3, 4), }",
            "{'descr': '<f4', 'fortran_order': None, 'shape': (3, 4), }",
            "{'descr': '<f\\x34', 'fortran_order': False, 'shape': (3, 4), }",
        ] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
        for unknown in ["|O", "<c8", "<U3", "|S2", "<M8[s]", "<f16", "f4", "", "<", "é4", "|V2"] {
            let text = format!("{{'descr': '{unknown}', 'fortran_order': False, 'shape': (), }}");
            let error = header(&text).expect_err(unknown).to_string();
            assert!(error.contains(&format!("`{unknown}`")) && error.contains("f2, f4, f8"), "{error}");
        }
    }
}
