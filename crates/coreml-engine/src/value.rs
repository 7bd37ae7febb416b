//! Runtime values passed between operations.

use std::sync::Arc;

use candle_core::Device;
use coreml_format::dtype::DataType;

use crate::array::Array;
use crate::budget;
use crate::error::OpError;
use crate::weight::Weight;

/// A value during execution.
#[derive(Debug, Clone)]
pub enum Value {
    /// A tensor.
    Array(Array),
    /// A constant in stored form.
    Weight(Arc<Weight>),
    /// A tensor of doubles that keep their precision.
    Doubles(Arc<Doubles>),
    /// A tensor of strings.
    Strings(Arc<Strings>),
    /// A list of values.
    List(Arc<Vec<Value>>),
    /// A dictionary, in insertion order.
    Dictionary(Arc<Vec<(Value, Value)>>),
    /// Index into the function's list of states.
    State(usize),
}

/// A tensor of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings {
    /// Elements in row-major order.
    pub data: Vec<String>,
    /// Shape; empty for one string.
    pub shape: Vec<usize>,
}

/// A tensor of fp64, for classic models, which compute in it. Operations on tensors take it rounded to fp32.
#[derive(Debug, Clone, PartialEq)]
pub struct Doubles {
    /// Elements in row-major order.
    pub data: Vec<f64>,
    /// Shape; empty for one number.
    pub shape: Vec<usize>,
}

impl Value {
    /// A tensor of doubles. The shape has as many elements.
    pub(crate) fn doubles(data: Vec<f64>, shape: Vec<usize>) -> Self {
        Value::Doubles(Arc::new(Doubles { data, shape }))
    }

    /// One string.
    pub(crate) fn string(text: String) -> Self {
        Value::Strings(Arc::new(Strings { data: vec![text], shape: Vec::new() }))
    }

    /// Description of the value's kind, for messages.
    pub fn kind(&self) -> String {
        match self {
            Value::Array(a) => format!("{} tensor {:?}", a.dtype(), a.shape()),
            Value::Weight(w) => format!("{} weight {:?}", w.dtype(), w.shape()),
            Value::Doubles(d) => format!("fp64 tensor {:?}", d.shape),
            Value::Strings(s) => format!("string tensor {:?}", s.shape),
            Value::List(l) => format!("list of {}", l.len()),
            Value::Dictionary(d) => format!("dictionary of {}", d.len()),
            Value::State(_) => "state".to_owned(),
        }
    }

    /// Returns the array; weights are expanded on `device`.
    pub fn array(&self, name: &str, device: &Device) -> Result<Array, OpError> {
        match self {
            Value::Array(a) => Ok(a.clone()),
            Value::Weight(w) => w.expand(device),
            Value::Doubles(d) => {
                budget::claim_of::<f32>(d.data.len())?;
                Array::from_f32(d.data.iter().map(|&x| x as f32).collect(), &d.shape, DataType::F64, device)
            }
            other => Err(OpError::Kind { name: name.to_owned(), expected: "a tensor", found: other.kind() }),
        }
    }
}

impl From<Array> for Value {
    fn from(a: Array) -> Self {
        Value::Array(a)
    }
}

/// A Rust type that attributes and small arguments can be read as.
pub trait FromValue: Sized + Clone {
    /// Reads the value of parameter `name`.
    ///
    /// # Errors
    /// If the value is of another kind.
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError>;
}

fn small(name: &str, value: &Value, expected: &'static str) -> Result<Array, OpError> {
    value.array(name, &Device::Cpu).map_err(|_| OpError::Kind { name: name.to_owned(), expected, found: value.kind() })
}

fn one<T: Clone>(name: &str, data: Vec<T>, expected: &'static str) -> Result<T, OpError> {
    match data.as_slice() {
        [x] => Ok(x.clone()),
        _ => Err(OpError::Kind { name: name.to_owned(), expected, found: format!("{} values", data.len()) }),
    }
}

impl FromValue for Vec<i64> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        small(name, value, "integers")?.to_i64s()
    }
}

impl FromValue for i64 {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one integer")
    }
}

impl FromValue for Vec<f32> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        small(name, value, "numbers")?.to_f32s()
    }
}

impl FromValue for f32 {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one number")
    }
}

impl FromValue for Vec<f64> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        if let Value::Doubles(d) = value {
            budget::claim_of::<f64>(d.data.len())?;
            return Ok(d.data.clone());
        }
        let array = small(name, value, "numbers")?;
        budget::claim_of::<f64>(array.tensor().elem_count())?;
        if array.dtype().is_float() {
            return Ok(array.to_f32s()?.into_iter().map(f64::from).collect());
        }
        Ok(array.to_i64s()?.into_iter().map(|n| n as f64).collect())
    }
}

impl FromValue for f64 {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one number")
    }
}

impl FromValue for Vec<String> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        match value {
            Value::Strings(s) => Ok(s.data.clone()),
            other => Err(OpError::Kind { name: name.to_owned(), expected: "strings", found: other.kind() }),
        }
    }
}

impl FromValue for Vec<bool> {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        Ok(small(name, value, "booleans")?.to_bools()?.into_iter().map(|b| b != 0).collect())
    }
}

impl FromValue for bool {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        one(name, Vec::from_value(name, value)?, "one boolean")
    }
}

impl FromValue for String {
    fn from_value(name: &str, value: &Value) -> Result<Self, OpError> {
        match value {
            Value::Strings(s) => one(name, s.data.clone(), "one string"),
            other => Err(OpError::Kind { name: name.to_owned(), expected: "one string", found: other.kind() }),
        }
    }
}
