//! `customModel`, and the classes of the caller that compute such models and the `custom` layers of networks.

use std::borrow::Cow;

use coreml_format::description::FeatureType;
use coreml_format::dtype::DataType;
use coreml_format::model_types::Body;
use coreml_format::model_types::custom::CustomModel;
use coreml_format::model_types::neural_network::custom::CustomLayer;
use coreml_format::program::{Argument, Binding, Program, Value};

use crate::classic::{Maker, constant, strings, text};
use crate::error::LowerError;
use crate::model_types::Source;
use crate::refusals;

/// A shape; `None` is an extent that is known only in a prediction.
pub type Extents = Vec<Option<usize>>;

/// Layers and models of classes that the caller supplies. Programs name them by the index that making them returned.
pub trait CustomClasses {
    /// Makes a layer for inputs of these shapes: its index and the shapes of its outputs; `None` if the class is not supplied.
    fn layer(&self, layer: &CustomLayer, inputs: &[Extents]) -> Option<Result<(usize, Vec<Extents>), String>>;

    /// Makes a model: its index; `None` if the class is not supplied.
    fn model(&self, model: &CustomModel) -> Option<Result<usize, String>>;
}

/// A model as an operation of its class.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let Body::CustomModel(model) = source.body else {
        return Err(LowerError::invalid(place, "a customModel", source.body.name()));
    };
    let unsupported = |reason| LowerError::Unsupported { place: place.to_owned(), model_type: "customModel", reason };
    let instance = match source.classes.and_then(|classes| classes.model(model)) {
        None => return Err(unsupported(refusals::reason(source.body).unwrap_or_default())),
        Some(Err(reason)) => {
            return Err(unsupported(format!("the class `{}` does not take it: {reason}", model.class_name)));
        }
        Some(Ok(instance)) => instance,
    };
    let mut maker = Maker::new(source, place)?;
    let described = maker.described;
    let names: Vec<String> = described.inputs.iter().map(|f| f.name.clone()).collect();
    let returned: Vec<String> = described.outputs.iter().map(|f| f.name.clone()).collect();
    let mut given = Vec::with_capacity(names.len());
    for feature in &described.inputs {
        let always = || constant(Value::tensor(DataType::F64, &[], 1f64.to_le_bytes().to_vec()));
        // Arrays that are not given hold their default.
        let marked = feature.optional && !matches!(feature.ty, FeatureType::MultiArray { .. });
        let given_one = if marked { maker.presence(feature)? } else { always() };
        given.extend(given_one.bindings().to_vec());
    }
    let outputs = described.outputs.iter().map(|f| maker.result(f)).collect::<Result<Vec<_>, _>>()?;
    let index = i32::try_from(instance).map_err(|_| maker.invalid("an index", instance))?;
    let parameters = vec![
        ("x", Argument::Many(names.iter().cloned().map(Binding::Name).collect())),
        ("given", Argument::Many(given)),
        ("names", strings(&names)),
        ("returned", strings(&returned)),
        ("class", text(&model.class_name)),
        ("instance", constant(Value::int(index))),
    ];
    maker.add("engine.custom_model", parameters, outputs);
    maker.finish()
}
