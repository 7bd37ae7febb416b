//! What takes fp16: features, and parameters of operations.

use coreml_format::description::{FeatureType, FunctionDescription};
use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, Opset, TensorType, Value, ValueType};

use super::{RANGE, Work, halved, is_single};
use crate::builder::table::{self, Definition};

/// Operations that are not converted (coremltools' `_UNSUPPORTED_FP16_OPS`).
const LEFT: [&str; 11] = [
    "cast",
    "while_loop",
    "cond",
    "make_list",
    "list_gather",
    "list_scatter",
    "list_read",
    "list_write",
    "list_length",
    "read_state",
    "coreml_update_state",
];

/// A parameter that keeps fp32 since iOS 17, where operations take it beside fp16.
fn stays(kind: &str, parameter: &str, opset: Opset) -> bool {
    let alpha = ["elu", "leaky_relu", "prelu", "thresholded_relu"];
    let both = ["clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard", "softplus_parametric"];
    let epsilon = ["inverse", "log", "rsqrt"];
    opset >= Opset::Ios17
        && match parameter {
            "alpha" => alpha.contains(&kind) || both.contains(&kind),
            "beta" => both.contains(&kind),
            "epsilon" => epsilon.contains(&kind),
            _ => false,
        }
}

impl Work<'_, '_> {
    /// Gives inputs and outputs of fp32 the type fp16.
    pub(super) fn features(&mut self, function: &mut Function, description: &mut FunctionDescription) {
        let array = |ty: &FeatureType| matches!(ty, FeatureType::MultiArray { dtype: DataType::F32, .. });
        let set = |ty: &mut FeatureType| {
            if let FeatureType::MultiArray { dtype, .. } = ty {
                *dtype = DataType::F16;
            }
        };
        for described in description.inputs.iter_mut().filter(|d| array(&d.ty)) {
            let Some(input) = function.inputs.iter_mut().find(|i| i.name == described.name && is_single(&i.ty)) else {
                continue;
            };
            set(&mut described.ty);
            let name = &input.name;
            input.ty = halved(&input.ty);
            self.types.insert(name.clone(), input.ty.clone());
            self.single_names.insert(name.clone(), self.known.fresh(&format!("{name}_to_fp32")));
            self.half_names.insert(name.clone(), name.clone());
            self.scope().half.insert(name.clone(), name.clone());
            self.scope().only.insert(name.clone());
        }
        for described in description.outputs.iter_mut().filter(|d| array(&d.ty)) {
            let name = &described.name;
            let single = self.known.types.get(name).is_some_and(is_single);
            if single {
                self.single_names.insert(name.clone(), self.known.fresh(&format!("{name}_to_fp32")));
                self.half_names.insert(name.clone(), name.clone());
            }
            if self.half_names.contains_key(name) {
                set(&mut described.ty);
            }
        }
    }

    /// Values in fp32 of an operation that take fp16, by parameter; `Err` is the reason to keep fp32, empty if there is
    /// nothing to do.
    pub(super) fn parameters(&self, op: &Operation) -> Result<Vec<String>, String> {
        let Some(definition) = table::definition(&op.kind, self.opset).filter(|_| !LEFT.contains(&op.kind.as_str()))
        else {
            return Err(String::new());
        };
        let takes = |definition: &Definition, name: &str| {
            let row = definition.parameters.get(name);
            let types = row.is_some_and(|row| row.types().any(|t| t == DataType::F16));
            types && !stays(&op.kind, name, self.opset)
        };
        let single = |binding: &Binding| match binding {
            Binding::Name(name) => self.source(name).is_some_and(is_single),
            Binding::Value(value) => is_single(&value.ty),
        };
        let mut found = Vec::new();
        for (name, argument) in &op.inputs {
            if argument.bindings().iter().any(single) && takes(definition, name) {
                found.push(name.clone());
            }
        }
        let attributes = op.attributes.iter().filter(|(name, v)| is_single(&v.ty) && takes(definition, name));
        found.extend(attributes.map(|(name, _)| name.clone()));
        if found.is_empty() {
            return Err(String::new());
        }
        let mut names = op.outputs.iter().map(|o| self.before(&o.name)).chain([op.kind.clone(), op.name.clone()]);
        if names.any(|name| self.keep.contains(&name)) {
            return Err("as asked".to_owned());
        }
        for (parameter, argument) in op.inputs.iter().filter(|(parameter, _)| found.contains(parameter)) {
            let constant = definition.parameters.get(parameter).is_some_and(|row| row.constant);
            for name in argument.bindings().iter().filter_map(|b| match b {
                Binding::Name(name) if constant && self.source(name).is_some_and(is_single) => Some(name),
                _ => None,
            }) {
                // A cast of a compressed weight would be no constant.
                let compressed = self.literals.get(&self.name(name)).is_some_and(Option::is_none);
                if compressed && self.find(|s| s.half.get(name).cloned()).is_none() {
                    return Err(format!("weight `{name}` keeps fp32"));
                }
            }
        }
        for binding in op.inputs.values().flat_map(Argument::bindings) {
            match binding {
                Binding::Name(name) if self.wide.contains(name) => {
                    return Err(format!("constant `{name}` is beyond fp16"));
                }
                Binding::Value(value) if is_single(&value.ty) => self.literal(value)?,
                _ => {}
            }
        }
        op.attributes.values().filter(|v| is_single(&v.ty)).try_for_each(|v| self.literal(v))?;
        if op.kind.starts_with("constexpr_") && op.outputs.iter().any(|o| self.wide.contains(&self.before(&o.name))) {
            return Err("it decodes to numbers beyond fp16".to_owned());
        }
        Ok(found)
    }

    /// Type of a value of the program of before.
    pub(super) fn source(&self, name: &str) -> Option<&ValueType> {
        self.known.types.get(name).or_else(|| match self.half_names.contains_key(name) {
            // An input that was fp32.
            true => self.single_names.get(name).map(|_| &SINGLE),
            false => self.types.get(name),
        })
    }

    fn literal(&self, value: &Value) -> Result<(), String> {
        let numbers = self.pool.numbers(value)?;
        match numbers.iter().find(|v| v.abs() > RANGE.start && v.abs() < RANGE.end) {
            Some(v) => Err(format!("{v} is beyond fp16")),
            None => Ok(()),
        }
    }
}

/// The type of inputs that were fp32, as far as it matters.
static SINGLE: ValueType = ValueType::Tensor(TensorType { dtype: DataType::F32, shape: Vec::new() });
