//! Checks of operation results against the declared types.
//!
//! Element type, rank and every fixed extent must agree. An unknown extent (`?`) matches any; a variadic shape (`*?`)
//! matches any rank. For lists and dictionaries only the kind is compared: unwritten list elements have no shape.

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, NamedType, TensorType, ValueType};

use crate::error::OpError;
use crate::value::Value;

/// Marks an unknown extent. No tensor has this many elements.
const OPEN: usize = usize::MAX;

/// Declared type of one value.
#[derive(Debug)]
pub(crate) struct Declared {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tensor {
        dtype: DataType,
        /// `None` for a variadic shape.
        shape: Option<Box<[usize]>>,
    },
    List,
    Dictionary,
    State,
}

impl Declared {
    pub(crate) fn new(value: &NamedType) -> Self {
        let kind = match &value.ty {
            ValueType::Tensor(ty) => Kind::Tensor { dtype: ty.dtype, shape: extents(ty) },
            ValueType::List(..) | ValueType::Tuple(_) => Kind::List,
            ValueType::Dictionary(..) => Kind::Dictionary,
            ValueType::State(_) => Kind::State,
        };
        Self { name: value.name.clone(), kind }
    }

    /// # Errors
    /// [`OpError::Declared`] if the value contradicts the declaration.
    pub(crate) fn check(&self, value: &Value) -> Result<(), OpError> {
        let agrees = match (&self.kind, value) {
            (Kind::Tensor { dtype, shape }, Value::Array(a)) => fits(*dtype, shape.as_deref(), a.dtype(), a.shape()),
            (Kind::Tensor { dtype, shape }, Value::Weight(w)) => fits(*dtype, shape.as_deref(), w.dtype(), w.shape()),
            (Kind::Tensor { dtype, shape }, Value::Doubles(d)) => {
                fits(*dtype, shape.as_deref(), DataType::F64, &d.shape)
            }
            (Kind::Tensor { dtype, shape }, Value::Strings(s)) => {
                fits(*dtype, shape.as_deref(), DataType::String, &s.shape)
            }
            (Kind::List, Value::List(_))
            | (Kind::Dictionary, Value::Dictionary(_))
            | (Kind::State, Value::State(_)) => true,
            _ => false,
        };
        if agrees { Ok(()) } else { Err(self.contradiction(value)) }
    }

    #[cold]
    fn contradiction(&self, value: &Value) -> OpError {
        let expected = match &self.kind {
            Kind::Tensor { dtype, shape: None } => format!("{dtype} tensor of any shape"),
            Kind::Tensor { dtype, shape: Some(shape) } => {
                let extent = |&n: &usize| if n == OPEN { "?".to_owned() } else { n.to_string() };
                format!("{dtype} tensor [{}]", shape.iter().map(extent).collect::<Vec<_>>().join(", "))
            }
            Kind::List => "list".to_owned(),
            Kind::Dictionary => "dictionary".to_owned(),
            Kind::State => "state".to_owned(),
        };
        OpError::Declared { name: self.name.clone(), expected, found: value.kind() }
    }
}

fn extents(ty: &TensorType) -> Option<Box<[usize]>> {
    let extent = |dim: &Dim| match dim {
        Dim::Fixed(n) => Some(*n),
        Dim::Unknown => Some(OPEN),
        Dim::Variadic => None,
    };
    ty.shape.iter().map(extent).collect()
}

fn fits(dtype: DataType, declared: Option<&[usize]>, found: DataType, shape: &[usize]) -> bool {
    let agree = |declared: &[usize]| {
        declared.len() == shape.len() && declared.iter().zip(shape).all(|(&d, &n)| d == n || d == OPEN)
    };
    dtype == found && declared.is_none_or(agree)
}

/// Checks the results of an operation against their declarations.
///
/// # Errors
/// If their number differs from the declarations, or one contradicts its declaration.
pub(crate) fn check(declared: &[Declared], values: &[Value]) -> Result<(), OpError> {
    if values.len() != declared.len() {
        return Err(OpError::shape(format!("declares {} outputs but has {}", declared.len(), values.len())));
    }
    declared.iter().zip(values).try_for_each(|(declared, value)| declared.check(value))
}
