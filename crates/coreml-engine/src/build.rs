//! The view of an operation at build time: parameters by name, constants resolved.
//!
//! An operation's build function reads and validates its attributes once and returns a closure ([`Run`]) that the
//! executor calls in every prediction:
//!
//! ```text
//! fn softmax(b: &OpBuilder<'_>) -> Result<Run, OpError> {
//!     let x = b.slot("x")?;
//!     let axis = b.param_or("axis", -1i64)?;
//!     b.run(move |f| {
//!         let x = f.array(x)?;
//!         let axis = resolve_axis(*axis.get(f)?, x.rank())?;
//!         …
//!         one(y)
//!     })
//! }
//! ```

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::Device;
use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Operation, Opset, ValueType};

use crate::custom::Custom;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::planned::{BlockPlan, RowResults, Run, RunRows};
use crate::value::{FromValue, Value};

/// An argument that is constant or read from a slot at run time.
#[derive(Debug, Clone)]
pub enum Param<T> {
    /// Known at build time.
    Const(T),
    /// Computed by the program.
    Slot(Slot, String),
}

impl<T: FromValue> Param<T> {
    /// Returns the value in this prediction.
    pub fn get<'p>(&'p self, frame: &Frame<'_>) -> Result<Cow<'p, T>, OpError> {
        match self {
            Param::Const(v) => Ok(Cow::Borrowed(v)),
            Param::Slot(slot, name) => T::from_value(name, frame.value(*slot)?).map(Cow::Owned),
        }
    }

    /// Returns the value if it is known at load time.
    pub fn constant(&self) -> Option<&T> {
        match self {
            Param::Const(v) => Some(v),
            Param::Slot(..) => None,
        }
    }
}

/// An operation being built.
pub struct OpBuilder<'a> {
    pub(crate) op: &'a Operation,
    pub(crate) opset: Opset,
    pub(crate) device: &'a Device,
    pub(crate) names: &'a HashMap<String, Slot>,
    pub(crate) literals: &'a HashMap<String, Vec<Slot>>,
    pub(crate) consts: &'a [Value],
    pub(crate) blocks: Vec<Arc<BlockPlan>>,
    /// Layers and models of the caller.
    pub(crate) custom: &'a [Custom],
    /// Names of the parameters read so far.
    pub(crate) read: RefCell<HashSet<String>>,
    /// See [`rows`](Self::rows).
    pub(crate) rows: RefCell<Option<RunRows>>,
}

impl OpBuilder<'_> {
    /// The operation in the program.
    pub fn op(&self) -> &Operation {
        self.op
    }

    /// The opset of the function.
    pub fn opset(&self) -> Opset {
        self.opset
    }

    /// The device of all tensors.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// The planned nested blocks.
    pub fn blocks(&self) -> &[Arc<BlockPlan>] {
        &self.blocks
    }

    /// True if the function's opset is this one or later.
    pub fn since(&self, opset: Opset) -> bool {
        self.opset >= opset
    }

    /// Returns a bound parameter that was not read: one that the operation does not have, or that is meaningless in
    /// combination with its other parameters.
    pub(crate) fn unread(&self) -> Option<&str> {
        let read = self.read.borrow();
        let bound = self.op.inputs.keys().chain(self.op.attributes.keys());
        bound.map(String::as_str).find(|name| *name != Operation::OPSET && !read.contains(*name))
    }

    /// Marks parameters as read that have no effect given the other parameters, by definition of the operation.
    pub(crate) fn without_effect(&self, names: &[&str]) {
        self.read.borrow_mut().extend(names.iter().map(|&name| name.to_owned()));
    }

    /// True if parameter `name` is bound. Does not mark it as read.
    pub fn has(&self, name: &str) -> bool {
        self.op.inputs.contains_key(name) || self.op.attributes.contains_key(name)
    }

    /// Declared type of output `index`.
    pub fn output_type(&self, index: usize) -> Option<&ValueType> {
        self.op.outputs.get(index).map(|o| &o.ty)
    }

    /// Declared element type of output `index`.
    ///
    /// # Errors
    /// If there is no such tensor output.
    pub fn output_dtype(&self, index: usize) -> Result<DataType, OpError> {
        self.output_type(index)
            .and_then(|t| t.tensor())
            .map(|t| t.dtype)
            .ok_or_else(|| OpError::shape(format!("output {index} is not declared as a tensor")))
    }

    /// The slots of a variadic parameter; empty if unbound.
    pub fn slots(&self, name: &str) -> Result<Vec<Slot>, OpError> {
        self.read.borrow_mut().insert(name.to_owned());
        if let Some(slots) = self.literals.get(name) {
            return Ok(slots.clone());
        }
        let bindings = self.op.inputs.get(name).map(Argument::bindings).unwrap_or_default();
        bindings
            .iter()
            .map(|b| match b {
                Binding::Name(n) => self.names.get(n).copied().ok_or_else(|| OpError::Missing(n.clone())),
                Binding::Value(_) => Err(OpError::Missing(name.to_owned())),
            })
            .collect()
    }

    /// The slot of an optional parameter.
    pub fn slot_opt(&self, name: &str) -> Result<Option<Slot>, OpError> {
        match self.slots(name)?.as_slice() {
            [] => Ok(None),
            [s] => Ok(Some(*s)),
            many => Err(OpError::Kind {
                name: name.to_owned(),
                expected: "one value",
                found: format!("{} values", many.len()),
            }),
        }
    }

    /// The slot of a required parameter.
    pub fn slot(&self, name: &str) -> Result<Slot, OpError> {
        self.slot_opt(name)?.ok_or_else(|| OpError::Missing(name.to_owned()))
    }

    /// The value in a slot if it is constant.
    pub fn constant(&self, slot: Slot) -> Option<&Value> {
        match slot {
            Slot::Const(i) => self.consts.get(i as usize),
            Slot::Var(_) => None,
        }
    }

    /// An optional parameter that may be constant or computed.
    pub fn param_opt<T: FromValue>(&self, name: &str) -> Result<Option<Param<T>>, OpError> {
        let Some(slot) = self.slot_opt(name)? else { return Ok(None) };
        Ok(Some(match self.constant(slot) {
            Some(v) => Param::Const(T::from_value(name, v)?),
            None => Param::Slot(slot, name.to_owned()),
        }))
    }

    /// A parameter with a default.
    pub fn param_or<T: FromValue>(&self, name: &str, default: T) -> Result<Param<T>, OpError> {
        Ok(self.param_opt(name)?.unwrap_or(Param::Const(default)))
    }

    /// A required parameter.
    pub fn param<T: FromValue>(&self, name: &str) -> Result<Param<T>, OpError> {
        self.param_opt(name)?.ok_or_else(|| OpError::Missing(name.to_owned()))
    }

    /// An optional attribute required at load time.
    pub fn attr_opt<T: FromValue>(&self, name: &str) -> Result<Option<T>, OpError> {
        match self.param_opt::<T>(name)? {
            None => Ok(None),
            Some(Param::Const(v)) => Ok(Some(v)),
            Some(Param::Slot(..)) => Err(OpError::Kind {
                name: name.to_owned(),
                expected: "a constant",
                found: "a computed value".to_owned(),
            }),
        }
    }

    /// An attribute with a default.
    pub fn attr_or<T: FromValue>(&self, name: &str, default: T) -> Result<T, OpError> {
        Ok(self.attr_opt(name)?.unwrap_or(default))
    }

    /// A required attribute.
    pub fn attr<T: FromValue>(&self, name: &str) -> Result<T, OpError> {
        self.attr_opt(name)?.ok_or_else(|| OpError::Missing(name.to_owned()))
    }

    /// An attribute introduced by opset `since`; its default in earlier opsets.
    pub fn attr_since<T: FromValue>(&self, since: Opset, name: &str, default: T) -> Result<T, OpError> {
        if self.since(since) { self.attr_or(name, default) } else { Ok(default) }
    }

    /// Maps a string attribute to a value; the first of `values` if it is unbound. Case-insensitive, as in coremltools.
    ///
    /// # Errors
    /// If it is not one of `values`.
    pub fn choice<T: Copy>(&self, name: &str, values: &[(&str, T)]) -> Result<T, OpError> {
        let first = values.first().map(|(_, choice)| *choice);
        self.choice_or(name, first.ok_or_else(|| OpError::Missing(name.to_owned()))?, values)
    }

    /// [`choice`](Self::choice) with an explicit default.
    ///
    /// # Errors
    /// Same as `choice`.
    pub fn choice_or<T: Copy>(&self, name: &str, default: T, values: &[(&str, T)]) -> Result<T, OpError> {
        self.attr_opt::<String>(name)?.map_or(Ok(default), |value| chosen(name, &value, values))
    }

    /// [`choice`](Self::choice) for a required attribute.
    ///
    /// # Errors
    /// If it is unbound, and same as `choice`.
    pub fn required_choice<T: Copy>(&self, name: &str, values: &[(&str, T)]) -> Result<T, OpError> {
        chosen(name, &self.attr::<String>(name)?, values)
    }

    /// Sets a closure that computes several predictions at once, with the results of the one that [`run`](Self::run) boxes,
    /// to the bit.
    pub(crate) fn rows<F>(&self, f: F)
    where
        F: Fn(&[Frame<'_>]) -> Result<RowResults, OpError> + Send + Sync + 'static,
    {
        *self.rows.borrow_mut() = Some(Box::new(f));
    }

    /// Boxes the closure of an operation.
    pub fn run<F>(&self, f: F) -> Result<Run, OpError>
    where
        F: Fn(&mut Frame<'_>) -> Result<Vec<Value>, OpError> + Send + Sync + 'static,
    {
        Ok(Box::new(f))
    }
}

fn chosen<T: Copy>(name: &str, value: &str, values: &[(&str, T)]) -> Result<T, OpError> {
    let found = values.iter().find(|(known, _)| known.eq_ignore_ascii_case(value));
    found.map(|(_, choice)| *choice).ok_or_else(|| OpError::Attribute {
        name: name.to_owned(),
        value: value.to_owned(),
        expected: values.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
    })
}

/// Outputs of an operation with a single tensor result.
pub fn one(value: impl Into<Value>) -> Result<Vec<Value>, OpError> {
    Ok(vec![value.into()])
}
