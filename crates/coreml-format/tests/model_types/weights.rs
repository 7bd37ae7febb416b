//! Weights are ranges of the decoded buffer.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::layer::Layer;
use coreml_format::model_types::neural_network::weights::{Quantization, floats};
use coreml_format::model_types::{Body, Bytes, decode, locate};

use super::{delimited, varint};

fn values(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A model with one inner product layer and these weights.
fn network(weights: &[u8]) -> Bytes {
    let inner_product = [varint(1, 2), varint(2, 3), delimited(20, weights)].concat();
    let layer = [delimited(1, b"fc"), delimited(140, &inner_product)].concat();
    [varint(1, 4), delimited(500, &delimited(1, &layer))].concat().into()
}

fn is_range(whole: &Bytes, part: &Bytes) -> bool {
    let whole = whole.as_ptr_range();
    let part = part.as_ptr_range();
    part.start < part.end && whole.start <= part.start && part.end <= whole.end
}

#[test]
fn weights_are_ranges_of_the_file() {
    let table = delimited(40, &[varint(1, 4), delimited(102, &delimited(1, &values(&[0.5; 16])))].concat());
    let parts = [delimited(1, &values(&[1.0, 2.0])), delimited(2, &[1, 2]), delimited(30, &[3]), delimited(31, &[4])];
    let file = network(&[parts.concat(), table].concat());
    let (row, message) = locate(&file).expect("a model").expect("a type");
    let Body::NeuralNetwork(network) = row.decode(message).expect("a network") else { panic!("{}", row.name) };
    let Some(Layer::InnerProduct(layer)) = &network.layers[0].layer else { panic!("{network:?}") };
    let weights = layer.weights.as_ref().expect("weights");
    let quantization = weights.quantization.as_ref().and_then(|q| q.quantization.as_ref());
    let Some(Quantization::LookUpTable(table)) = quantization else { panic!("{weights:?}") };
    let [stored, table] = [&weights.float_value, &table.float_value].map(|parts| floats(parts).expect("floats"));
    assert_eq!((&stored[..], table.len()), (&values(&[1.0, 2.0])[..], 64));
    for part in [&stored, &weights.float16_value, &weights.raw_value, &weights.int8_raw_value, &table] {
        assert!(is_range(&file, part), "a copy of {part:?}");
    }
}

#[test]
fn floats_in_several_parts_are_joined_and_others_refused() {
    let two = Bytes::from(values(&[1.0, 2.0]));
    let one = Bytes::from(values(&[3.0]));
    assert_eq!(floats(&[]), Ok(Bytes::new()));
    assert_eq!(floats(std::slice::from_ref(&two)), Ok(two.clone()));
    assert_eq!(floats(&[two.clone(), one.clone()]), Ok(values(&[1.0, 2.0, 3.0]).into()));
    let torn = floats(&[two.slice(..3), one.slice(..1)]).expect_err("no whole floats").to_string();
    assert!(torn.contains("multiple of 4 bytes, found 3"), "{torn}");
}

/// Unpacked floats would need another declaration: they are refused, not dropped.
#[test]
fn floats_one_by_one_are_refused_by_name() {
    let one = [&[0x0d][..], &1.0_f32.to_le_bytes()].concat();
    let (row, message) = locate(&network(&one)).expect("a model").expect("a type");
    let refused = row.decode(message).expect_err("floats one by one").to_string();
    assert!(refused.contains("WeightParams.float_value") && refused.contains("wire type"), "{refused}");
}

/// Nested layers hit the decoder's limit before the stack overflows.
#[test]
fn deep_networks_are_refused() {
    let nested =
        |depth| (0..depth).fold(Vec::new(), |network, _| delimited(1, &delimited(605, &delimited(1, &network))));
    assert!(decode(500, nested(20).into()).is_ok());
    for depth in [60, 5_000] {
        let refused = decode(500, nested(depth).into()).expect_err("a deep network").to_string();
        assert!(refused.contains("recursion limit"), "{refused}");
    }
}

/// A layer can be two bytes of a file: boxing large variants bounds its memory.
#[test]
fn layers_are_small() {
    assert!(size_of::<Layer>() <= 72, "{} bytes", size_of::<Layer>());
    assert!(size_of::<NeuralNetworkLayer>() <= 200, "{} bytes", size_of::<NeuralNetworkLayer>());
}
