//! Classic models as programs: one or two operations of the engine's own, whose tables are constants.
//!
//! Features become values of the program by their type: numbers and strings are tensors of rank 0, sequences of rank 1,
//! dictionaries are dictionaries. Inputs of floats are fp64 whatever the description says, so that nothing is rounded.

use std::borrow::Cow;

use coreml_format::description::{FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use coreml_format::dtype::DataType;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Opset, Program, TensorType, Value, ValueType,
};
use indexmap::IndexMap;

use crate::emit;
pub(crate) use crate::emit::{constant, named, text};
use crate::error::LowerError;
use crate::model_types::Source;

pub(crate) mod glm;
pub(crate) mod imputer;
pub(crate) mod neighbors;
pub(crate) mod one_hot_encoder;
pub(crate) mod probit;
pub(crate) mod recommender;
pub(crate) mod simple;
pub(crate) mod suppression;
pub(crate) mod svm;
pub(crate) mod trees;
pub(crate) mod vectors;

/// A program of one model being made.
pub(crate) struct Maker<'m> {
    /// The model, in errors.
    pub(crate) place: &'m str,
    /// What it expects and returns.
    pub(crate) described: &'m FunctionDescription,
    function: &'m str,
    operations: Vec<Operation>,
    /// Inputs that say whether an optional one is given.
    presence: Vec<NamedType>,
}

/// Name of the input of a program, 0 or 1, that says whether an optional input is given.
///
/// A program has it where an operation treats a missing value as none: without it, optional numbers are NaN and optional
/// arrays hold their default.
pub fn presence(input: &str) -> String {
    format!("{input}_is_given")
}

/// Parameters of an operation.
pub(crate) type Parameters = Vec<(&'static str, Argument)>;

pub(crate) fn doubles(all: &[f64]) -> Argument {
    let bytes = all.iter().flat_map(|x| x.to_le_bytes()).collect();
    constant(Value::tensor(DataType::F64, &[all.len()], bytes))
}

pub(crate) fn ints(all: &[i64]) -> Argument {
    constant(emit::int64s(all))
}

pub(crate) fn strings(all: &[String]) -> Argument {
    constant(emit::strings(all))
}

/// The type of a feature in a program; none for images and states.
fn value_type(ty: &FeatureType, input: bool) -> Option<ValueType> {
    let tensor = |dtype, shape: Vec<Dim>| ValueType::Tensor(TensorType { dtype, shape });
    Some(match ty {
        FeatureType::Int64 => tensor(DataType::I64, vec![]),
        FeatureType::Double => tensor(DataType::F64, vec![]),
        FeatureType::String => tensor(DataType::String, vec![]),
        FeatureType::Sequence { ints: true } => tensor(DataType::I64, vec![Dim::Unknown]),
        FeatureType::Sequence { ints: false } => tensor(DataType::String, vec![Dim::Unknown]),
        FeatureType::Dictionary { int_keys } => {
            let key = if *int_keys { DataType::I64 } else { DataType::String };
            ValueType::Dictionary(Box::new(tensor(key, vec![])), Box::new(tensor(DataType::F64, vec![])))
        }
        FeatureType::MultiArray { dtype, shape, constraint, .. } => {
            let dtype = if input && dtype.is_float() { DataType::F64 } else { *dtype };
            let fixed = *constraint == ShapeConstraint::Fixed && !shape.is_empty();
            let shape = if fixed { shape.iter().map(|&n| Dim::Fixed(n)).collect() } else { vec![Dim::Variadic] };
            tensor(dtype, shape)
        }
        FeatureType::Image { .. } | FeatureType::State { .. } => return None,
    })
}

/// Whether a feature holds numbers.
pub(crate) fn is_numeric(ty: &FeatureType) -> bool {
    matches!(ty, FeatureType::Int64 | FeatureType::Double | FeatureType::MultiArray { .. })
}

impl<'m> Maker<'m> {
    /// # Errors
    /// A model without a description of what it expects and returns.
    pub(crate) fn new(source: Source<'m>, place: &'m str) -> Result<Self, LowerError> {
        let described = source.description.function(None);
        let described = described.ok_or_else(|| LowerError::invalid(place, "a description of its features", "none"))?;
        Ok(Self {
            place,
            described,
            function: &source.description.default_function,
            operations: Vec::new(),
            presence: Vec::new(),
        })
    }

    /// An error about this model.
    pub(crate) fn invalid(&self, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> LowerError {
        LowerError::invalid(self.place, expected, found)
    }

    /// The only input.
    pub(crate) fn input(&self) -> Result<&'m FeatureDescription, LowerError> {
        match self.described.inputs.as_slice() {
            [input] => Ok(input),
            other => Err(self.invalid("one input", other.len())),
        }
    }

    /// The only output.
    pub(crate) fn output(&self) -> Result<&'m FeatureDescription, LowerError> {
        match self.described.outputs.as_slice() {
            [output] => Ok(output),
            other => Err(self.invalid("one output", other.len())),
        }
    }

    /// All inputs as one vector of numbers.
    pub(crate) fn numbers(&self) -> Result<Argument, LowerError> {
        if let Some(other) = self.described.inputs.iter().find(|f| !is_numeric(&f.ty)) {
            return Err(self.invalid(format!("numbers in `{}`", other.name), other.ty.in_words()));
        }
        let names = self.described.inputs.iter().map(|f| Binding::Name(f.name.clone()));
        Ok(Argument::Many(names.collect()))
    }

    /// A name that no feature and no value has.
    pub(crate) fn fresh(&self, wish: &str) -> String {
        let described = self.described.inputs.iter().chain(&self.described.outputs).map(|f| &f.name);
        let made = self.operations.iter().flat_map(|o| &o.outputs).map(|o| &o.name);
        let taken: std::collections::HashSet<&String> = described.chain(made).collect();
        let mut name = wish.to_owned();
        while taken.contains(&name) {
            name.push('_');
        }
        name
    }

    /// Whether an optional input is given, as an argument.
    pub(crate) fn presence(&mut self, feature: &FeatureDescription) -> Result<Argument, LowerError> {
        let name = presence(&feature.name);
        if self.described.input(&name).or(self.described.output(&name)).is_some() {
            return Err(self.invalid(format!("no feature `{name}` beside `{}`", feature.name), "one"));
        }
        self.presence
            .push(NamedType { name: name.clone(), ty: ValueType::Tensor(TensorType::fixed(DataType::F64, &[])) });
        Ok(named(&name))
    }

    /// A value of doubles that later operations take.
    pub(crate) fn intermediate(&self, wish: &str) -> NamedType {
        let ty = ValueType::Tensor(TensorType { dtype: DataType::F64, shape: vec![Dim::Unknown] });
        NamedType { name: self.fresh(wish), ty }
    }

    /// An output as the result of an operation.
    pub(crate) fn result(&self, feature: &FeatureDescription) -> Result<NamedType, LowerError> {
        let ty = value_type(&feature.ty, false)
            .ok_or_else(|| self.invalid(format!("no image in `{}`", feature.name), feature.ty.in_words()))?;
        Ok(NamedType { name: feature.name.clone(), ty })
    }

    /// Adds an operation.
    pub(crate) fn add(&mut self, kind: &str, parameters: Parameters, outputs: Vec<NamedType>) {
        self.operations.push(emit::operation(kind, parameters, outputs));
    }

    /// [`classify`](Self::classify) where the first of equal scores wins, of two classes too.
    pub(crate) fn classify_first(&mut self, scores: &str, labels: &Option<ClassLabels>) -> Result<(), LowerError> {
        let ty = ValueType::Tensor(TensorType::fixed(DataType::I64, &[]));
        let best = NamedType { name: self.fresh("best"), ty };
        let name = best.name.clone();
        self.add("engine.first_best", vec![("scores", named(scores))], vec![best]);
        self.classify(scores, labels, Some(&name))
    }

    /// Adds the label and the dictionary of a classifier.
    pub(crate) fn classify(
        &mut self,
        scores: &str,
        labels: &Option<ClassLabels>,
        best: Option<&str>,
    ) -> Result<(), LowerError> {
        let is_label = |f: &&FeatureDescription| matches!(f.ty, FeatureType::Int64 | FeatureType::String);
        let is_dictionary = |f: &&FeatureDescription| matches!(f.ty, FeatureType::Dictionary { .. });
        let by_name =
            |name: &Option<String>| name.as_deref().filter(|n| !n.is_empty()).and_then(|n| self.described.output(n));
        let label = by_name(&self.described.predicted_feature).or_else(|| self.described.outputs.iter().find(is_label));
        let all = by_name(&self.described.predicted_probabilities)
            .or_else(|| self.described.outputs.iter().find(is_dictionary));
        for feature in &self.described.outputs {
            if Some(feature.name.as_str()) != label.map(|f| f.name.as_str())
                && Some(feature.name.as_str()) != all.map(|f| f.name.as_str())
            {
                return Err(self.invalid("a label and its probabilities", format!("the output `{}`", feature.name)));
            }
        }
        let labels = labels.as_ref().ok_or_else(|| self.invalid("class labels", "none"))?;
        let int_keys = matches!(labels, ClassLabels::Int64s(_));
        let label_type = if int_keys { FeatureType::Int64 } else { FeatureType::String };
        let mut outputs = Vec::with_capacity(2);
        for (feature, ty) in [(label, label_type), (all, FeatureType::Dictionary { int_keys })] {
            if let Some(feature) = feature.filter(|f| f.ty != ty) {
                return Err(self.invalid(format!("{} in `{}`", ty.in_words(), feature.name), feature.ty.in_words()));
            }
            let name = feature.map_or_else(|| self.fresh("classes"), |f| f.name.clone());
            let ty = value_type(&ty, false).ok_or_else(|| self.invalid("a label", "none"))?;
            outputs.push(NamedType { name, ty });
        }
        if outputs[0].name == outputs[1].name {
            return Err(self.invalid("two names for label and probabilities", &outputs[0].name));
        }
        let mut parameters = vec![("scores", named(scores)), ("classes", constant(emit::labels(labels)))];
        parameters.extend(best.map(|best| ("best", named(best))));
        self.add("engine.label", parameters, outputs);
        Ok(())
    }

    /// The program that returns the outputs of the description.
    pub(crate) fn finish<'p>(self) -> Result<Cow<'p, Program>, LowerError> {
        let mut inputs = Vec::with_capacity(self.described.inputs.len());
        for feature in &self.described.inputs {
            let ty = value_type(&feature.ty, true);
            let ty =
                ty.ok_or_else(|| self.invalid(format!("no image in `{}`", feature.name), feature.ty.in_words()))?;
            inputs.push(NamedType { name: feature.name.clone(), ty });
        }
        inputs.extend(self.presence);
        let outputs = self.described.outputs.iter().map(|f| f.name.clone()).collect();
        let block = Block { inputs: Vec::new(), operations: self.operations, outputs };
        let function = Function { opset: Opset::Ios15, inputs, block, attributes: IndexMap::new() };
        let functions = IndexMap::from([(self.function.to_owned(), function)]);
        Ok(Cow::Owned(Program { functions, ..Program::default() }))
    }
}
