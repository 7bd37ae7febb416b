//! Layers that are computed by a class of the caller.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::custom::CustomLayer;
use coreml_format::program::{Argument, Binding};

use super::build::{Blob, Network, int, ints, of, tensor};
use crate::emit::text;
use crate::error::LowerError;

/// The layer as an operation of its class. Blobs have their own rank there.
pub(super) fn custom(n: &mut Network, layer: &NeuralNetworkLayer, p: &CustomLayer) -> Result<(), LowerError> {
    let class = &p.class_name;
    let Some(classes) = n.classes else { return absent(n, class) };
    let inputs = (0..layer.input.len()).map(|i| n.input(layer, i)).collect::<Result<Vec<_>, _>>()?;
    // Results are as their inputs: without a sequence axis of 1, which convolutions do not take.
    let short = inputs.iter().any(|x| x.short);
    let inputs: Vec<Blob> = inputs.iter().map(|x| n.full(x)).collect();
    let shapes: Vec<_> = inputs.iter().map(|x| x.shape.clone()).collect();
    let (instance, shapes) = match classes.layer(p, &shapes) {
        None => return absent(n, class),
        Some(Err(reason)) => return n.refuse(format!("its class `{class}` does not take it: {reason}")),
        Some(Ok(made)) => made,
    };
    if shapes.len() != layer.output.len() {
        let found = shapes.len();
        return n.refuse(format!("its class `{class}` has {found} outputs, the layer {}", layer.output.len()));
    }
    let x = Argument::Many(inputs.iter().map(|x| Binding::Name(x.name.clone())).collect());
    let parameters = vec![("x", x), ("class", text(class)), ("instance", int(n.size("instance", instance)?))];
    let types = shapes.iter().map(|shape| tensor(DataType::F32, shape)).collect();
    let names = n.push("engine.custom_layer", parameters, types);
    let mut results = Vec::with_capacity(shapes.len());
    for (name, shape) in names.into_iter().zip(shapes) {
        let made = Blob { name, shape, short: false };
        let sequence = made.shape.len() != 5 || made.shape[0] != Some(1);
        results.push(if sequence || !short {
            made
        } else {
            let rest = made.shape[1..].to_vec();
            Blob { short: true, ..n.op("squeeze", vec![("x", of(&made)), ("axes", ints(&[0]))], rest) }
        });
    }
    n.write(layer, results)
}

fn absent(n: &Network, class: &str) -> Result<(), LowerError> {
    n.refuse(format!(
        "it is code of the class `{class}`, which the application has, not the file. A program in Rust can supply it \
         (`CoreMLModelBuilder::custom_layer`)"
    ))
}
