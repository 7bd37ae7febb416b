//! Functions, built operation by operation.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use coreml_format::description::{DimRange, FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Opset, TensorType, Value, ValueType,
};

use super::arg::Var;
use super::call::OpCall;
use super::error::BuildError;

/// Extents of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extents {
    /// One shape.
    Fixed(Vec<usize>),
    /// One of these shapes, all of one rank; the first is the default.
    Enumerated(Vec<Vec<usize>>),
    /// Ranges of extents, and the default shape.
    Ranges(Vec<DimRange>, Vec<usize>),
}

impl From<&[usize]> for Extents {
    fn from(shape: &[usize]) -> Self {
        Self::Fixed(shape.to_vec())
    }
}

impl<const N: usize> From<[usize; N]> for Extents {
    fn from(shape: [usize; N]) -> Self {
        Self::Fixed(shape.to_vec())
    }
}

impl From<Vec<usize>> for Extents {
    fn from(shape: Vec<usize>) -> Self {
        Self::Fixed(shape)
    }
}

impl Extents {
    /// Extents in the program, the default shape, and what the description says; `None` if they contradict each other.
    fn split(self) -> Option<(Vec<Dim>, Vec<usize>, ShapeConstraint)> {
        match self {
            Self::Fixed(shape) => Some((shape.iter().map(|&n| Dim::Fixed(n)).collect(), shape, ShapeConstraint::Fixed)),
            Self::Enumerated(all) => {
                let first = all.first()?.clone();
                if all.iter().any(|shape| shape.len() != first.len()) {
                    return None;
                }
                let one = |i: usize| all.iter().all(|shape| shape[i] == first[i]);
                let dims = (0..first.len()).map(|i| if one(i) { Dim::Fixed(first[i]) } else { Dim::Unknown }).collect();
                Some((dims, first, ShapeConstraint::Enumerated(all)))
            }
            Self::Ranges(ranges, shape) => {
                let inside = |(r, &n): (&DimRange, &usize)| r.min <= n && r.max.is_none_or(|m| n <= m);
                if ranges.len() != shape.len() || !ranges.iter().zip(&shape).all(inside) {
                    return None;
                }
                let dim = |r: &DimRange| if r.max == Some(r.min) { Dim::Fixed(r.min) } else { Dim::Unknown };
                Some((ranges.iter().map(dim).collect(), shape, ShapeConstraint::Ranges(ranges)))
            }
        }
    }
}

/// Element types of the inputs and outputs of models.
const FEATURES: [DataType; 5] = [DataType::F16, DataType::F32, DataType::F64, DataType::I32, DataType::I8];

/// A function that is being built. Names are unique within it; generated ones follow those given.
#[derive(Debug)]
pub struct FunctionBuilder {
    pub(super) id: u64,
    pub(super) opset: Opset,
    inputs: Vec<NamedType>,
    pub(super) operations: Vec<Operation>,
    outputs: Vec<String>,
    description: FunctionDescription,
    pub(super) names: HashSet<String>,
    /// Small constants by content.
    pub(super) literals: HashMap<String, Var>,
    /// Names of values in blocks that have ended.
    pub(super) hidden: HashSet<String>,
    keeps_inputs: bool,
}

impl FunctionBuilder {
    /// An empty function.
    pub fn new(opset: Opset) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            opset,
            inputs: Vec::new(),
            operations: Vec::new(),
            outputs: Vec::new(),
            description: FunctionDescription::default(),
            names: HashSet::new(),
            literals: HashMap::new(),
            hidden: HashSet::new(),
            keeps_inputs: false,
        }
    }

    /// Lets inputs that nothing uses have an `identity`, `NAME_tmp`, as in programs that coremltools converts.
    pub fn keep_inputs(&mut self) {
        self.keeps_inputs = true;
    }

    /// Opset of the function.
    pub fn opset(&self) -> Opset {
        self.opset
    }

    /// Says what is wrong with a value that an operation here is to use.
    pub(super) fn visible(&self, var: &Var) -> Result<(), String> {
        if var.owner != self.id {
            return Err(format!("expected a value of this function, found `{}` of another", var.name));
        }
        if self.hidden.contains(&var.name) {
            return Err(format!("expected a value of this block, found `{}` of one that has ended", var.name));
        }
        Ok(())
    }

    /// Takes a name that is written in the program.
    pub(super) fn claim(&mut self, place: &'static str, name: &str) -> Result<(), BuildError> {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let wrong = |expected| Err(BuildError::Name { place, expected, found: name.to_owned() });
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return wrong("a letter or `_`, then letters, digits and `_`");
        }
        if !self.names.insert(name.to_owned()) {
            return wrong("a name that is not used yet");
        }
        Ok(())
    }

    /// An unused name that begins with this one.
    pub(super) fn fresh(&self, stem: &str) -> String {
        let clean: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        (0..).map(|n| format!("{clean}_{n}")).find(|name| !self.names.contains(name)).unwrap_or(clean)
    }

    pub(super) fn var(&self, name: &str, ty: ValueType) -> Var {
        Var { name: name.to_owned(), ty, owner: self.id, literal: None, constant: false }
    }

    /// Adds an input.
    ///
    /// # Errors
    /// [`BuildError::Name`] if the name is taken or not one, [`BuildError::Op`] if models can't take this type.
    pub fn input(&mut self, name: &str, dtype: DataType, shape: impl Into<Extents>) -> Result<Var, BuildError> {
        let wrong = |what: String| BuildError::Op { kind: "input".to_owned(), name: name.to_owned(), what };
        if !FEATURES.contains(&dtype) {
            return Err(wrong(format!("expected {}, found {dtype}", super::arg::words(&FEATURES))));
        }
        let shape = shape.into().split();
        let (dims, shape, constraint) =
            shape.ok_or_else(|| wrong("expected shapes of one rank with the default among them".to_owned()))?;
        self.claim("input", name)?;
        let ty = ValueType::Tensor(TensorType { dtype, shape: dims });
        let feature = FeatureType::MultiArray { dtype, shape, constraint, default: None };
        self.description.inputs.push(described(name, feature));
        self.inputs.push(NamedType { name: name.to_owned(), ty: ty.clone() });
        Ok(self.var(name, ty))
    }

    /// Adds a state: an fp16 buffer that persists between predictions.
    ///
    /// # Errors
    /// As [`FunctionBuilder::input`], and [`BuildError::Newer`] before iOS 18.
    pub fn state(&mut self, name: &str, dtype: DataType, shape: &[usize]) -> Result<Var, BuildError> {
        if self.opset < Opset::Ios18 {
            let (kind, name) = ("state".to_owned(), name.to_owned());
            return Err(BuildError::Newer { kind, name, opset: self.opset, since: Opset::Ios18 });
        }
        if dtype != DataType::F16 {
            let what = format!("expected fp16, found {dtype}");
            return Err(BuildError::Op { kind: "state".to_owned(), name: name.to_owned(), what });
        }
        self.claim("state", name)?;
        let ty = ValueType::State(Box::new(ValueType::Tensor(TensorType::fixed(dtype, shape))));
        let feature = FeatureType::State { dtype, shape: shape.to_vec() };
        self.description.states.push(described(name, feature));
        self.inputs.push(NamedType { name: name.to_owned(), ty: ty.clone() });
        Ok(self.var(name, ty))
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// [`BuildError::Name`] if the name is taken or not one.
    pub fn constant(&mut self, name: &str, value: Value) -> Result<Var, BuildError> {
        self.claim("constant", name)?;
        Ok(self.push_constant(name, value))
    }

    fn push_constant(&mut self, name: &str, value: Value) -> Var {
        let ty = value.ty.clone();
        self.operations.push(Operation {
            kind: "const".to_owned(),
            name: name.to_owned(),
            inputs: Default::default(),
            outputs: vec![NamedType { name: name.to_owned(), ty: ty.clone() }],
            blocks: Vec::new(),
            attributes: [("val".to_owned(), value.clone())].into_iter().collect(),
        });
        Var { literal: Some(value), constant: true, ..self.var(name, ty) }
    }

    /// The constant with this value, made once under a name that begins with `stem`; for those that several operations
    /// share.
    pub fn shared(&mut self, stem: &str, value: Value) -> Var {
        self.literal(stem, value)
    }

    /// The constant with this value, made once.
    pub(super) fn literal(&mut self, stem: &str, value: Value) -> Var {
        let key = format!("{value:?}");
        if let Some(var) = self.literals.get(&key) {
            return var.clone();
        }
        let name = self.fresh(stem);
        self.names.insert(name.clone());
        let var = self.push_constant(&name, value);
        self.literals.insert(key, var.clone());
        var
    }

    /// Begins an operation of this type.
    pub fn op(&mut self, kind: &str) -> OpCall<'_> {
        OpCall::new(self, kind)
    }

    /// The content of a state.
    ///
    /// # Errors
    /// [`BuildError::Op`] if it is no state.
    pub fn read_state(&mut self, state: &Var) -> Result<Var, BuildError> {
        self.op("read_state").arg("input", state).done()
    }

    /// Replaces the content of a state.
    ///
    /// # Errors
    /// [`BuildError::Op`] if it is no state, or the value has another type.
    pub fn write_state(&mut self, state: &Var, value: &Var) -> Result<(), BuildError> {
        let name = self.fresh("write_state");
        let wrong = |what: String| Err(BuildError::Op { kind: "write_state".to_owned(), name: name.clone(), what });
        if let Err(what) = self.visible(state).and_then(|()| self.visible(value)) {
            return wrong(what);
        }
        match &state.ty {
            ValueType::State(inner) if **inner == value.ty => {}
            ValueType::State(inner) => return wrong(format!("expected {}, found {}", show(inner), show(&value.ty))),
            other => return wrong(format!("expected a state, found {}", show(other))),
        }
        self.names.insert(name.clone());
        let bind = |v: &Var| super::arg::argument(std::slice::from_ref(v), false);
        self.operations.push(Operation {
            kind: "write_state".to_owned(),
            name,
            inputs: [("input".to_owned(), bind(state)), ("data".to_owned(), bind(value))].into_iter().collect(),
            outputs: Vec::new(),
            blocks: Vec::new(),
            attributes: Default::default(),
        });
        Ok(())
    }

    /// Returns a value under this name.
    ///
    /// # Errors
    /// [`BuildError::Name`] if the name is taken by another value or not one, [`BuildError::Op`] if models can't return
    /// this type.
    pub fn output(&mut self, name: &str, value: &Var) -> Result<(), BuildError> {
        let wrong = |what: String| Err(BuildError::Op { kind: "output".to_owned(), name: name.to_owned(), what });
        if let Err(what) = self.visible(value) {
            return wrong(what);
        }
        let ValueType::Tensor(ty) = &value.ty else {
            return wrong(format!("expected a tensor, found {}", show(&value.ty)));
        };
        if !FEATURES.contains(&ty.dtype) {
            return wrong(format!("expected {}, found {}", super::arg::words(&FEATURES), ty.dtype));
        }
        let (dtype, shape) = (ty.dtype, ty.fixed_shape());
        if value.name != name {
            self.op("identity").named(name).arg("x", value).done()?;
        }
        if self.outputs.iter().any(|o| o == name) {
            let (place, expected) = ("output", "a name that is not returned yet");
            return Err(BuildError::Name { place, expected, found: name.to_owned() });
        }
        self.outputs.push(name.to_owned());
        let constraint = if shape.is_some() { ShapeConstraint::Fixed } else { ShapeConstraint::Unspecified };
        let shape = shape.unwrap_or_default();
        self.description
            .outputs
            .push(described(name, FeatureType::MultiArray { dtype, shape, constraint, default: None }));
        Ok(())
    }

    /// Finishes the function: operations that no result or state needs are dropped, values that are returned take the names
    /// of the outputs.
    ///
    /// # Errors
    /// [`BuildError::Name`] if nothing is returned.
    pub fn finish(self) -> Result<(Function, FunctionDescription), BuildError> {
        if self.outputs.is_empty() {
            let (place, expected) = ("function", "at least one output");
            return Err(BuildError::Name { place, expected, found: String::new() });
        }
        let mut block = Block { inputs: Vec::new(), operations: self.operations, outputs: self.outputs };
        sweep(&mut block);
        let mut function = Function { opset: self.opset, inputs: self.inputs, block, attributes: Default::default() };
        crate::passes::drop_identities(&mut function);
        if self.keeps_inputs {
            use_inputs(&mut function, &self.names);
        }
        Ok((function, self.description))
    }
}

/// Gives inputs that nothing uses an operation.
fn use_inputs(function: &mut Function, taken: &HashSet<String>) {
    let mut used: HashSet<String> = function.block.outputs.iter().cloned().collect();
    function.block.operations.iter().for_each(|op| uses(op, &mut used));
    for input in function.inputs.iter().filter(|i| matches!(i.ty, ValueType::Tensor(_)) && !used.contains(&i.name)) {
        let name = format!("{}_tmp", input.name);
        if taken.contains(&name) {
            continue;
        }
        let x = Argument::One(Binding::Name(input.name.clone()));
        function.block.operations.push(Operation {
            kind: "identity".to_owned(),
            name: name.clone(),
            inputs: [("x".to_owned(), x)].into_iter().collect(),
            outputs: vec![NamedType { name, ty: input.ty.clone() }],
            blocks: Vec::new(),
            attributes: Default::default(),
        });
    }
}

/// Drops operations whose results nothing uses, in nested blocks, too. Those without results, such as `write_state`, stay.
pub fn sweep(block: &mut Block) {
    let mut needed: HashSet<String> = block.outputs.iter().cloned().collect();
    let mut kept = Vec::with_capacity(block.operations.len());
    for mut op in std::mem::take(&mut block.operations).into_iter().rev() {
        if acts(&op) || op.outputs.iter().any(|o| needed.contains(&o.name)) {
            op.blocks.iter_mut().for_each(sweep);
            uses(&op, &mut needed);
            kept.push(op);
        }
    }
    kept.reverse();
    block.operations = kept;
}

/// True if an operation, or one in its blocks, does something besides its results, as `write_state` does.
fn acts(op: &Operation) -> bool {
    op.outputs.is_empty() || op.blocks.iter().flat_map(|b| &b.operations).any(acts)
}

/// Adds the names that an operation and its blocks use.
fn uses(op: &Operation, needed: &mut HashSet<String>) {
    for binding in op.inputs.values().flat_map(|a| a.bindings()) {
        if let coreml_format::program::Binding::Name(name) = binding {
            needed.insert(name.clone());
        }
    }
    for block in &op.blocks {
        needed.extend(block.outputs.iter().cloned());
        block.operations.iter().for_each(|op| uses(op, needed));
    }
}

fn described(name: &str, ty: FeatureType) -> FeatureDescription {
    FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
}

/// A type in words.
pub(crate) fn show(ty: &ValueType) -> String {
    match ty {
        ValueType::Tensor(t) => {
            let dims: Vec<String> = t.shape.iter().map(ToString::to_string).collect();
            format!("{} [{}]", t.dtype, dims.join(", "))
        }
        ValueType::State(inner) => format!("a state of {}", show(inner)),
        ValueType::List(..) => "a list".to_owned(),
        ValueType::Tuple(_) => "a tuple".to_owned(),
        ValueType::Dictionary(..) => "a dictionary".to_owned(),
    }
}
