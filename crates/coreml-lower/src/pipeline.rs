//! Pipelines as one program: the operations of all parts, in order.
//!
//! A part takes its inputs by name from the pipeline's inputs or from the results of earlier parts (coremltools'
//! `Model.proto`, message `Pipeline`). Parts of different opsets keep them: the function has the latest, and an operation of
//! another one says so.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use coreml_format::description::{FeatureDescription, FeatureType, FunctionDescription};
use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Function, NamedType, Operation, Opset, Program, TensorType, Value, ValueType,
};
use indexmap::IndexMap;

use crate::absent::{Absent, absent};
use crate::classic::presence;
use crate::emit::{Names, constant, int64s, named, operation, strings};
use crate::error::LowerError;
use crate::model_types::{self, Source};

/// Joins the parts of a pipeline, each with its default function.
///
/// # Errors
/// [`LowerError`] if a part cannot be lowered, or an input of a part or a result of the pipeline has no producer.
pub(crate) fn lower<'m>(source: Source<'m>, _: &str) -> Result<Cow<'m, Program>, LowerError> {
    let description = source.description;
    let whole = description.function(None).cloned().unwrap_or_default();
    let mut joined = Joined::new(&whole);
    for (i, part) in source.parts.iter().enumerate() {
        let place = format!("part {i} of the pipeline");
        let mut program = model_types::lower(Source { classes: source.classes, ..part.into() }, &place)?.into_owned();
        let name = &part.description.default_function;
        let function = program.functions.swap_remove(name);
        let part_is_program = part.body.program().is_some();
        let function: Function =
            function.ok_or_else(|| LowerError::invalid(&place, format!("a function `{name}`"), "none of this name"))?;
        if part_is_program && let Some(kind) = own_operation(&function.block) {
            return Err(LowerError::invalid(&place, "operations of files", format!("`{kind}`")));
        }
        let described = part.description.function(None);
        joined.add(&place, described.map_or(&[], |d| &d.inputs), function)?;
    }
    let function = joined.finish(&whole)?;
    let functions = IndexMap::from([(description.default_function.clone(), function)]);
    Ok(Cow::Owned(Program { functions, ..Program::default() }))
}

/// How the names of operations begin that no file has.
const OWN: &str = "engine.";

fn is_own(operation: &Operation) -> bool {
    operation.kind.starts_with(OWN)
}

/// An operation of the engine's own, in a block or those that it holds.
fn own_operation(block: &Block) -> Option<&str> {
    block.operations.iter().find_map(|operation| {
        let nested = || operation.blocks.iter().find_map(own_operation);
        if is_own(operation) { Some(operation.kind.as_str()) } else { nested() }
    })
}

/// The program joined so far.
struct Joined {
    /// Names in use: features, and renamed or kept values.
    names: Names,
    /// Values by feature name.
    features: HashMap<String, NamedType>,
    /// Inputs of the pipeline not used by any part yet.
    open: HashSet<String>,
    /// Inputs of the pipeline that may be left out.
    optional: HashSet<String>,
    inputs: Vec<NamedType>,
    operations: Vec<Operation>,
    /// Opsets of parts, each with the operations up to there.
    opsets: Vec<(usize, Opset)>,
}

/// Says the opset of operations that do not say one yet.
fn mark(operations: &mut [Operation], opset: Opset) {
    for operation in operations {
        operation.attributes.entry(Operation::OPSET.to_owned()).or_insert_with(|| Value::string(opset.spec_name()));
        for block in &mut operation.blocks {
            mark(&mut block.operations, opset);
        }
    }
}

/// Any value of a type without a default, for an optional input whose absence is told by another value.
fn placeholder(feature: &FeatureDescription) -> Option<Value> {
    match &feature.ty {
        _ if !feature.optional => None,
        FeatureType::Int64 => Some(Value::tensor(DataType::I64, &[], 0i64.to_le_bytes().to_vec())),
        FeatureType::String => Some(Value::string("")),
        FeatureType::Sequence { ints: true } => Some(int64s(&[])),
        FeatureType::Sequence { ints: false } => Some(strings(&[])),
        _ => None,
    }
}

impl Joined {
    fn new(whole: &FunctionDescription) -> Self {
        let open: HashSet<String> = whole.inputs.iter().chain(&whole.states).map(|f| f.name.clone()).collect();
        let optional: HashSet<String> = whole.inputs.iter().filter(|f| f.optional).map(|f| f.name.clone()).collect();
        let outputs = whole.outputs.iter().map(|f| f.name.clone());
        let names = Names::new(open.iter().cloned().chain(outputs).chain(optional.iter().map(|name| presence(name))));
        let (features, inputs, operations, opsets) = Default::default();
        Self { names, features, open, optional, inputs, operations, opsets }
    }

    /// Adds an operation with parameter `x` and optionally another one.
    fn unary(&mut self, kind: &str, x: &str, more: Option<(&str, Value)>, output: NamedType) {
        let more = more.map(|(name, value)| (name, constant(value)));
        self.operations.push(operation(kind, [("x", named(x))].into_iter().chain(more), vec![output]));
    }

    /// A constant, under a name like this one.
    fn constant(&mut self, name: &str, value: Value) -> NamedType {
        let output = NamedType { name: self.names.fresh(name), ty: value.ty.clone() };
        let mut made = operation("const", [], vec![output.clone()]);
        made.attributes.insert("val".to_owned(), value);
        self.operations.push(made);
        output
    }

    /// The value that says whether an optional input of a part is given: an input of the pipeline where the feature is one
    /// that may be left out, else a constant.
    fn presence(&mut self, feature: &FeatureDescription, marker: &NamedType) -> String {
        let given = self.features.contains_key(&feature.name);
        if given && self.optional.contains(&feature.name) {
            if !self.inputs.iter().any(|i| i.name == marker.name) {
                self.inputs.push(marker.clone());
            }
            return marker.name.clone();
        }
        let given = f64::from(u8::from(given));
        self.constant(&marker.name, Value::tensor(DataType::F64, &[], given.to_le_bytes().to_vec())).name
    }

    fn add(&mut self, place: &str, described: &[FeatureDescription], function: Function) -> Result<(), LowerError> {
        // Operations of the engine's own are of no opset.
        let opset = (!function.block.operations.iter().all(is_own)).then_some(function.opset);
        let mut names = HashMap::new();
        let marked: HashSet<String> = function.inputs.iter().map(|i| i.name.clone()).collect();
        for input in function.inputs {
            if let Some(feature) = described.iter().find(|f| presence(&f.name) == input.name) {
                let value = self.presence(feature, &input);
                names.insert(input.name, value);
                continue;
            }
            let known = self.open.contains(&input.name) || self.features.contains_key(&input.name);
            let optional = described.iter().find(|f| f.name == input.name).filter(|_| !known);
            let output = optional.and_then(|feature| match absent(feature) {
                Some(absent) => Some(self.fill(&input.name, absent)),
                None if marked.contains(&presence(&feature.name)) => {
                    placeholder(feature).map(|value| self.constant(&input.name, value))
                }
                None => None,
            });
            if let Some(output) = output {
                self.features.insert(input.name.clone(), output);
                let value = self.input(place, &input)?;
                // Other parts have their own default.
                self.features.remove(&input.name);
                names.insert(input.name, value);
                continue;
            }
            let value = self.input(place, &input)?;
            names.insert(input.name, value);
        }
        let mut block = function.block;
        let outputs = block.outputs.clone();
        self.rename(&mut block, &mut names);
        let made = block.operations.iter().flat_map(|o| &o.outputs);
        // A part may return its input.
        let types: HashMap<&str, &ValueType> =
            self.features.values().chain(made).map(|v| (v.name.as_str(), &v.ty)).collect();
        let mut returned = Vec::with_capacity(outputs.len());
        for (feature, name) in outputs.into_iter().zip(&block.outputs) {
            let Some(&ty) = types.get(name.as_str()) else {
                return Err(LowerError::invalid(place, format!("a value for the output `{feature}`"), "none"));
            };
            returned.push((feature, NamedType { name: name.clone(), ty: ty.clone() }));
        }
        self.features.extend(returned);
        self.operations.extend(block.operations);
        self.opsets.extend(opset.map(|opset| (self.operations.len(), opset)));
        Ok(())
    }

    /// The value of an input that nothing gives.
    fn fill(&mut self, feature: &str, absent: Absent) -> NamedType {
        let number = |x: f64| Value::tensor(DataType::F64, &[], x.to_le_bytes().to_vec());
        match absent {
            Absent::Number(x) => self.constant(feature, number(x)),
            Absent::Array { dtype, shape, value } => {
                let ty = ValueType::Tensor(TensorType::fixed(dtype, &shape));
                let output = NamedType { name: self.names.fresh(feature), ty };
                let extents: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
                let inputs = [("x", constant(number(value))), ("shape", constant(int64s(&extents)))];
                self.operations.push(operation("engine.double", inputs, vec![output.clone()]));
                output
            }
        }
    }

    /// The value of an input of a part.
    fn input(&mut self, place: &str, input: &NamedType) -> Result<String, LowerError> {
        if self.open.remove(&input.name) {
            self.inputs.push(input.clone());
            self.features.insert(input.name.clone(), input.clone());
        }
        let Some(value) = self.features.get(&input.name).cloned() else {
            let expected = format!("`{}` among the inputs of the pipeline or what earlier parts return", input.name);
            return Err(LowerError::invalid(place, expected, "no such feature"));
        };
        let dtype = |ty: &ValueType| ty.tensor().map(|t| t.dtype);
        match (dtype(&value.ty), dtype(&input.ty)) {
            (Some(from), Some(to)) if from != to => {
                if from == DataType::String || to == DataType::String {
                    return Err(LowerError::invalid(place, format!("{to} in `{}`", input.name), from));
                }
                let mut ty = value.ty.clone();
                if let ValueType::Tensor(t) = &mut ty {
                    t.dtype = to;
                }
                let name = self.names.fresh(&format!("{}_{}", value.name, to.name()));
                let output = NamedType { name: name.clone(), ty };
                if to == DataType::F64 {
                    // A cast would round to single precision.
                    self.unary("engine.double", &value.name, None, output);
                    return Ok(name);
                }
                self.unary("cast", &value.name, Some(("dtype", Value::string(to.name()))), output);
                Ok(name)
            }
            _ => Ok(value.name),
        }
    }

    /// Creates the function that returns the results of the pipeline.
    fn finish(mut self, whole: &FunctionDescription) -> Result<Function, LowerError> {
        let mut outputs = Vec::with_capacity(whole.outputs.len());
        for feature in &whole.outputs {
            let Some(value) = self.features.get(&feature.name).cloned() else {
                let expected = format!("a part that returns `{}`", feature.name);
                return Err(LowerError::invalid("the pipeline", expected, "none"));
            };
            if value.name != feature.name {
                let plain = value.ty.tensor().is_some_and(|t| !matches!(t.dtype, DataType::F64 | DataType::String));
                let kind = if plain { "identity" } else { "engine.copy" };
                self.unary(kind, &value.name, None, NamedType { name: feature.name.clone(), ty: value.ty });
            }
            outputs.push(feature.name.clone());
        }
        if self.features.is_empty() {
            return Err(LowerError::invalid("the pipeline", "at least one part", "none"));
        }
        let opset = self.opsets.iter().map(|(_, opset)| *opset).max().unwrap_or(Opset::Ios15);
        let mut start = 0;
        for &(end, own) in &self.opsets {
            if own != opset {
                mark(&mut self.operations[start..end], own);
            }
            start = end;
        }
        let block = Block { inputs: Vec::new(), operations: self.operations, outputs };
        Ok(Function { opset, inputs: self.inputs, block, attributes: IndexMap::new() })
    }

    /// Gives every value of a block a name unique in the pipeline; `names` maps the values in scope.
    fn rename(&mut self, block: &mut Block, names: &mut HashMap<String, String>) {
        for input in &mut block.inputs {
            let name = self.names.fresh(&input.name);
            names.insert(std::mem::replace(&mut input.name, name.clone()), name);
        }
        for operation in &mut block.operations {
            for argument in operation.inputs.values_mut() {
                let bindings = match argument {
                    Argument::One(binding) => std::slice::from_mut(binding),
                    Argument::Many(bindings) => bindings,
                };
                for binding in bindings {
                    if let Binding::Name(name) = binding
                        && let Some(new) = names.get(name)
                    {
                        name.clone_from(new);
                    }
                }
            }
            for nested in &mut operation.blocks {
                self.rename(nested, &mut names.clone());
            }
            for output in &mut operation.outputs {
                let name = self.names.fresh(&output.name);
                names.insert(std::mem::replace(&mut output.name, name.clone()), name);
            }
        }
        for output in &mut block.outputs {
            if let Some(new) = names.get(output) {
                output.clone_from(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coreml_format::description::{FeatureType, ModelDescription, ShapeConstraint};
    use coreml_format::mil_text;
    use coreml_format::model_types::{Body, Bytes, decode};
    use coreml_format::spec::Specification;
    use coreml_format::verify::verify;

    use super::*;

    fn described(inputs: &[&str], outputs: &[&str]) -> ModelDescription {
        let features = |names: &[&str]| {
            let feature = |name: &&str| FeatureDescription {
                name: (*name).to_owned(),
                description: String::new(),
                ty: FeatureType::MultiArray {
                    dtype: DataType::F32,
                    shape: vec![2],
                    constraint: ShapeConstraint::Fixed,
                    default: None,
                },
                optional: false,
            };
            names.iter().map(feature).collect()
        };
        let main = FunctionDescription {
            inputs: features(inputs),
            outputs: features(outputs),
            ..FunctionDescription::default()
        };
        ModelDescription {
            functions: IndexMap::from([("main".to_owned(), main)]),
            default_function: "main".to_owned(),
            ..ModelDescription::default()
        }
    }

    fn part(opset: &str, inputs: &[&str], parameters: &str, body: &str, outputs: &[&str]) -> Specification {
        let results = outputs.join(", ");
        let text = format!("program(1.3)\n{{ func main<{opset}>({parameters}) {{ {body} }} -> ({results}); }}");
        let body = Body::Program(mil_text::parse(&text).expect("a program"));
        Specification { description: described(inputs, outputs), body, parts: Vec::new() }
    }

    fn pipeline(inputs: &[&str], outputs: &[&str], parts: Vec<Specification>) -> Specification {
        let body = Body::Pipeline(Default::default());
        Specification { description: described(inputs, outputs), body, parts }
    }

    fn join(of: &Specification) -> Result<Program, LowerError> {
        model_types::lower(of.into(), "the model").map(Cow::into_owned)
    }

    /// `h = x + x` in fp16.
    fn doubled(opset: &str) -> Specification {
        part(opset, &["x"], "tensor<fp16, [2]> x", "tensor<fp16, [2]> h = add(x = x, y = x);", &["h"])
    }

    /// `y = h · h`, with a value that has the name of an output of the pipeline.
    fn squared(h: &str) -> Specification {
        let body = format!("tensor<fp32, [2]> z = mul(x = {h}, y = {h}); tensor<fp32, [2]> y = identity(x = z);");
        part("ios17", &[h], &format!("tensor<fp32, [2]> {h}"), &body, &["y"])
    }

    #[test]
    fn parts_become_one_program_with_names_of_its_own() {
        let inner = pipeline(&["x"], &["h"], vec![doubled("ios17")]);
        let program = join(&pipeline(&["x"], &["h", "y"], vec![inner, squared("h")])).expect("a pipeline");
        verify(&program).expect("a valid program");
        let main = &program.functions["main"];
        let inputs: Vec<&str> = main.inputs.iter().map(|i| i.name.as_str()).collect();
        assert_eq!((inputs, &main.block.outputs), (vec!["x"], &vec!["h".to_owned(), "y".to_owned()]));
        let kinds: Vec<&str> = main.block.operations.iter().map(|o| o.kind.as_str()).collect();
        // The inner pipeline names its result; a cast joins fp16 and fp32; both results get their names.
        assert_eq!(kinds, ["add", "identity", "cast", "mul", "identity", "identity", "identity"]);
    }

    #[test]
    fn parts_keep_their_opsets() {
        let program = join(&pipeline(&["x"], &["y"], vec![doubled("ios16"), squared("h")])).expect("a pipeline");
        let main = &program.functions["main"];
        let own: Vec<bool> =
            main.block.operations.iter().map(|o| o.attributes.contains_key(Operation::OPSET)).collect();
        // The sum is of ios16; the cast, the product and the names of its result are of ios17.
        assert_eq!((main.opset, own), (Opset::Ios17, vec![true, false, false, false, false]));
        let same = join(&pipeline(&["x"], &["y"], vec![doubled("ios17"), squared("h")])).expect("a pipeline");
        assert!(same.functions["main"].block.operations.iter().all(|o| o.attributes.is_empty()));
    }

    #[test]
    fn optional_inputs_that_nothing_gives_have_their_default() {
        let mut part = doubled("ios17");
        let main = part.description.functions.get_mut("main").expect("a function");
        let input = &mut main.inputs[0];
        input.optional = true;
        if let FeatureType::MultiArray { default, .. } = &mut input.ty {
            *default = Some(1.5);
        }
        let program = join(&pipeline(&[], &["h"], vec![part])).expect("a pipeline");
        verify(&program).expect("a valid program");
        let first = &program.functions["main"].block.operations[0];
        let value = constant(Value::tensor(DataType::F64, &[], 1.5f64.to_le_bytes().to_vec()));
        assert_eq!((first.kind.as_str(), first.inputs.get("x")), ("engine.double", Some(&value)));
        assert!(join(&pipeline(&[], &["h"], vec![doubled("ios17")])).is_err());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |of: Specification| join(&of).expect_err("a part that does not fit").to_string();
        let wrong = error(pipeline(&["x"], &["y"], vec![doubled("ios17"), squared("other")]));
        assert!(wrong.contains("part 1") && wrong.contains("`other`"), "{wrong}");
        let wrong = error(pipeline(&["x"], &["lost"], vec![doubled("ios17")]));
        assert!(wrong.contains("`lost`"), "{wrong}");
        assert!(error(pipeline(&["x"], &[], Vec::new())).contains("at least one part"));
        let body = decode(555, Bytes::new()).expect("an empty model");
        let network = Specification { description: described(&["x"], &["y"]), body, parts: Vec::new() };
        let wrong = error(pipeline(&["x"], &["y"], vec![network]));
        assert!(wrong.contains("part 0") && wrong.contains("customModel"), "{wrong}");
    }
}
