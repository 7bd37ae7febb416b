//! Types in MIL text: `tensor<fp16, [1, ?]>`, `fp16`, `state<…>`, `list<…, n>`, `tuple<…>`, `dict<…, …>`.

use std::fmt::Write;

use super::lexer::Token;
use super::parser::Parser;
use super::{Dialect, TextError};
use crate::dtype::DataType;
use crate::program::{Dim, TensorType, ValueType};

impl Parser<'_> {
    /// A type.
    pub(super) fn value_type(&mut self) -> Result<ValueType, TextError> {
        self.nested(|p| {
            let name = p.ident("a type")?;
            match name {
                "tensor" => p.tensor_type(),
                "state" => p.angled(|p| p.value_type().map(Box::new)).map(ValueType::State),
                "list" => p.angled(|p| {
                    let element = p.value_type()?;
                    let length = if p.take(',')? { p.dim()? } else { Dim::Unknown };
                    Ok(ValueType::List(Box::new(element), length))
                }),
                "tuple" => p.angled(|p| p.separated('>', Parser::value_type)).map(ValueType::Tuple),
                "dict" | "dictionary" => p.angled(|p| {
                    let key = p.value_type()?;
                    p.expect(',')?;
                    Ok(ValueType::Dictionary(Box::new(key), Box::new(p.value_type()?)))
                }),
                scalar => match DataType::from_name(scalar) {
                    Some(dtype) => Ok(ValueType::Tensor(TensorType { dtype, shape: Vec::new() })),
                    None => Err(p.error_before("a type", format!("`{scalar}`"))),
                },
            }
        })
    }

    fn tensor_type(&mut self) -> Result<ValueType, TextError> {
        self.angled(|p| {
            let name = p.ident("an element type")?;
            let dtype = DataType::from_name(name)
                .ok_or_else(|| p.error_before("an element type such as fp16 or int32", format!("`{name}`")))?;
            let shape = if p.take(',')? {
                p.expect('[')?;
                let shape = p.separated(']', Parser::dim)?;
                p.expect(']')?;
                shape
            } else {
                Vec::new()
            };
            Ok(ValueType::Tensor(TensorType { dtype, shape }))
        })
    }

    fn angled<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, TextError>) -> Result<T, TextError> {
        self.expect('<')?;
        let value = inner(self)?;
        self.expect('>')?;
        Ok(value)
    }

    fn dim(&mut self) -> Result<Dim, TextError> {
        if self.take('*')? {
            self.take('?')?;
            return Ok(Dim::Variadic);
        }
        if self.take('?')? {
            return Ok(Dim::Unknown);
        }
        match self.peek().clone() {
            Token::Number(text) => {
                let extent = text.parse().map_err(|_| self.error("an extent, `?` or `*?`", format!("`{text}`")))?;
                self.advance()?;
                Ok(Dim::Fixed(extent))
            }
            other => Err(self.error("an extent, `?` or `*?`", other)),
        }
    }
}

/// Writes a type.
pub(super) fn write_type(out: &mut String, ty: &ValueType, dialect: Dialect) {
    let mut wrapped = |name: &str, types: &[&ValueType], tail: Option<&Dim>| {
        let _ = write!(out, "{name}<");
        for (i, ty) in types.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            write_type(out, ty, dialect);
        }
        if let Some(length) = tail {
            let _ = write!(out, ", {length}");
        }
        out.push('>');
    };
    match ty {
        ValueType::Tensor(t) if t.shape.is_empty() && dialect == Dialect::V1_3 => out.push_str(t.dtype.name()),
        ValueType::Tensor(t) => {
            let _ = write!(out, "tensor<{}, [", t.dtype);
            for (i, dim) in t.shape.iter().enumerate() {
                let _ = write!(out, "{}{dim}", if i > 0 { ", " } else { "" });
            }
            out.push_str("]>");
        }
        ValueType::State(inner) => wrapped("state", &[inner], None),
        ValueType::List(element, length) => wrapped("list", &[element], Some(length)),
        ValueType::Tuple(types) => wrapped("tuple", &types.iter().collect::<Vec<_>>(), None),
        ValueType::Dictionary(key, value) => wrapped("dict", &[key, value], None),
    }
}
