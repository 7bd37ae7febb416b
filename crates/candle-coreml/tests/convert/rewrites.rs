//! Rewrites of models with constants that the portable engine computes.

use candle_coreml::format::dtype::DataType;
use candle_coreml::format::program::{Argument, Binding, Block, Function, NamedType, Operation, Opset, Program, Value};
use candle_coreml::write::evaluate;
use indexmap::IndexMap;

/// Casts of three numbers to every element type, by hand.
#[test]
fn constants_of_every_element_type_are_computed() {
    let numbers = [-1.5f32, 2.0, 100.0];
    let bind = |value: Value| Argument::One(Binding::Value(value));
    let x = Value::tensor(DataType::F32, &[3], numbers.map(f32::to_le_bytes).concat());
    let wanted: IndexMap<String, Value> = [
        (DataType::F16, numbers.map(|v| half::f16::from_f32(v).to_le_bytes()).concat()),
        (DataType::F32, numbers.map(f32::to_le_bytes).concat()),
        (DataType::I32, [-1i32, 2, 100].map(i32::to_le_bytes).concat()),
        (DataType::I16, [-1i16, 2, 100].map(i16::to_le_bytes).concat()),
        (DataType::I8, [-1i8, 2, 100].map(i8::to_le_bytes).concat()),
        (DataType::Bool, vec![1, 1, 1]),
    ]
    .into_iter()
    .map(|(dtype, bytes)| (dtype.name().to_owned(), Value::tensor(dtype, &[3], bytes)))
    .collect();
    let operations = wanted.iter().map(|(name, value)| Operation {
        kind: "cast".to_owned(),
        name: name.clone(),
        inputs: [("x".to_owned(), bind(x.clone())), ("dtype".to_owned(), bind(Value::string(name)))]
            .into_iter()
            .collect(),
        outputs: vec![NamedType { name: name.clone(), ty: value.ty.clone() }],
        blocks: Vec::new(),
        attributes: IndexMap::new(),
    });
    let block =
        Block { inputs: Vec::new(), operations: operations.collect(), outputs: wanted.keys().cloned().collect() };
    let program = |block| {
        let main = Function { opset: Opset::Ios17, inputs: Vec::new(), block, attributes: IndexMap::new() };
        Program { functions: [("main".to_owned(), main)].into_iter().collect(), ..Program::default() }
    };
    assert_eq!(evaluate(&program(block.clone())).expect("values"), wanted);
    // An operation that fails is an error that names it.
    let mut wrong = block;
    wrong.operations[0].kind = "reshape".to_owned();
    assert!(evaluate(&program(wrong)).expect_err("no shape").contains("reshape"));
    assert!(evaluate(&Program::default()).is_err());
}
