//! Every parameter defined by coremltools is read and every other one rejected: `coreml-write/src/builder/op_parameters.json`,
//! written by `tools/op_parameters.py`, against the build functions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use coreml_engine::ops::FAMILIES;
use coreml_engine::{EngineError, Executable, OpError, Options};
use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::program::{Argument, Binding, Opset, Program, TensorData, TensorType, Value, ValueData, ValueType};
use coreml_format::weights::Weights;

use crate::cases::all;
use crate::text::chain;

/// A definition of an operation for some opsets.
#[derive(serde::Deserialize)]
struct Definition {
    op: String,
    opsets: Vec<String>,
    parameters: BTreeMap<String, Parameter>,
}

#[derive(serde::Deserialize)]
struct Parameter {
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    optional: bool,
    default: Option<serde_json::Value>,
}

fn definitions() -> Vec<Definition> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coreml-write/src/builder/op_parameters.json");
    serde_json::from_slice(&std::fs::read(path).expect("definitions")).expect("definitions")
}

/// Statements that compute `y`, for operations without a case in some opset.
const MORE: &[(&str, &str)] = &[
    (
        "tensor<fp32, [3]> x",
        "tensor<fp32, [2]> y = random_uniform(shape = tensor<int32, [1]>([2]), low = fp32(0), high = fp32(1), seed = int32(1));",
    ),
    (
        "tensor<fp32, [3]> x",
        "tensor<fp32, [2]> y = random_normal(shape = tensor<int32, [1]>([2]), mean = fp32(0), stddev = fp32(1), seed = int32(1));",
    ),
    (
        "tensor<fp32, [3]> x",
        "tensor<fp32, [2]> y = random_bernoulli(shape = tensor<int32, [1]>([2]), prob = fp32(0.5), seed = int32(1));",
    ),
    (
        "tensor<fp32, [3]> x",
        "tensor<fp32, [1]> y = random_categorical(x = x, mode = string(\"probs\"), size = int32(1), seed = int32(1));",
    ),
    (
        "tensor<fp32, [3]> x",
        "string y, dict<string, fp64> p = classify(probabilities = x, classes = tensor<string, [3]>([\"a\", \"b\", \"c\"]));",
    ),
    (
        "tensor<fp32, [1, 2, 2]> x",
        "tensor<fp32, [1, 2, 2]> y = conv_quantized(x = x, weight = tensor<uint8, [2, 2, 1]>([[[1], [2]], [[3], [4]]]), \
         quantization_type = string(\"linear\"), nbits = int32(8), quant_scale = tensor<fp32, [2]>([0.5, 2]), \
         quant_bias = tensor<fp32, [2]>([1, -1]));",
    ),
    (
        "tensor<fp32, [1, 1, 2, 2]> x",
        "tensor<fp32, [?, ?, ?, ?]> y = crop_resize(x = x, boxes = tensor<fp32, [1, 4]>([[0, 0, 1, 1]]));",
    ),
    (
        "tensor<fp32, [1, 4, 3]> x",
        "tensor<fp32, [*?]> y, tensor<fp32, [*?]> s, tensor<int32, [*?]> i = non_maximum_suppression(boxes = x, \
         scores = tensor<fp32, [1, 1, 3]>([[[1, 2, 3]]]), iou_threshold = fp32(0.5), max_boxes = int32(2));",
    ),
    (
        "tensor<fp32, [2]> x",
        "tensor<fp32, [2]> y = constexpr_lut_to_dense()[indices = tensor<uint8, [1]>([2]), lut = tensor<fp32, [2]>([5, 7]), \
         shape = tensor<uint32, [1]>([2])];",
    ),
    (
        "tensor<fp32, [2]> x",
        "tensor<fp32, [2]> y = constexpr_sparse_to_dense()[nonzero_data = tensor<fp32, [1]>([5]), \
         mask = tensor<uint8, [1]>([2]), shape = tensor<uint32, [1]>([2])];",
    ),
    (
        "tensor<fp32, [2]> x",
        "tensor<fp32, [2]> y = constexpr_sparse_to_dense(nonzero_data = tensor<fp32, [1]>([5]), \
         mask = tensor<uint1, [2]>([0, 1]));",
    ),
    (
        "tensor<fp32, [2, 2]> x",
        "tensor<fp32, [2, 2]> y = constexpr_affine_dequantize()[quantized_data = tensor<uint8, [2, 2]>([[1, 2], [3, 4]]), \
         zero_point = uint8(1), scale = fp32(2), axis = int32(0)];",
    ),
    (
        "tensor<fp32, [2]> x",
        "tensor<fp32, [3]> y = constexpr_cast()[source_val = tensor<fp16, [3]>([1, 2, 3]), output_dtype = string(\"fp32\")];",
    ),
];

/// A program and the index of an operation in it.
type Base = (Program, usize);

fn bases() -> HashMap<String, Vec<Base>> {
    let more = MORE.iter().map(|(parameters, body)| {
        let text = format!("program(1.3) {{ func main<ios18>({parameters}) {{ {body} }} -> (y); }}");
        mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    });
    let cases = all().into_iter().filter(|c| !c.name.contains("fp16")).map(|c| c.program);
    let mut found: HashMap<String, Vec<Base>> = HashMap::new();
    for program in more.chain(cases) {
        for (i, op) in program.functions["main"].block.operations.iter().enumerate() {
            let own = found.entry(op.kind.clone()).or_default();
            if own.len() < 24 {
                own.push((program.clone(), i));
            }
        }
    }
    found
}

fn load(program: &Program) -> Result<(), EngineError> {
    Executable::load(program, &Weights::default(), "main", &Options::default()).map(drop)
}

/// The program in another opset, without the parameters its operation lacks there.
fn in_opset((program, at): &Base, opset: Opset, definition: &Definition) -> Program {
    let mut program = program.clone();
    let function = &mut program.functions["main"];
    function.opset = opset;
    let op = &mut function.block.operations[*at];
    op.inputs.retain(|name, _| definition.parameters.contains_key(name));
    op.attributes.retain(|name, _| definition.parameters.contains_key(name));
    program
}

/// Each definition with an opset and the first program that loads with it.
fn prepared(definitions: &[Definition]) -> (Vec<(&Definition, Opset, Base)>, Vec<String>) {
    let bases = bases();
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for definition in definitions {
        for name in &definition.opsets {
            let opset = Opset::from_name(name).expect("an opset");
            let own = bases.get(&definition.op).map(Vec::as_slice).unwrap_or_default();
            let loads = own.iter().find_map(|base| {
                let program = in_opset(base, opset, definition);
                load(&program).is_ok().then_some((program, base.1))
            });
            match loads {
                Some(base) => found.push((definition, opset, base)),
                None => without.push(format!("{} ({name})", definition.op)),
            }
        }
    }
    (found, without)
}

fn text(value: &str) -> Value {
    Value::string(value)
}

/// Values to try for a parameter: its default, and scalars and vectors of its type.
fn values(parameter: &Parameter) -> Vec<Value> {
    let mut all = Vec::new();
    for name in &parameter.types {
        if name == "string" {
            let default = parameter.default.as_ref().and_then(|d| d.as_str());
            all.extend(default.map(text));
            all.extend(["int32", "fp32", "valid"].map(text));
            continue;
        }
        let Some(dtype) = DataType::from_name(name) else { continue };
        let number = parameter.default.as_ref().and_then(|d| d.as_f64().or(d.as_bool().map(f64::from)));
        for shape in [&[][..], &[1], &[2], &[3], &[4], &[6], &[8], &[2, 2]] {
            for value in number.into_iter().chain([1.0, 0.0]) {
                let count = shape.iter().product::<usize>();
                let one: Vec<u8> = match dtype {
                    DataType::F32 => (value as f32).to_le_bytes().to_vec(),
                    DataType::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
                    d => (value as i64).to_le_bytes()[..d.bits().unwrap_or(8).div_ceil(8)].to_vec(),
                };
                all.push(Value::tensor(dtype, shape, one.repeat(count)));
            }
        }
    }
    all
}

fn bind(base: &Base, name: &str, value: Value) -> Program {
    let mut program = base.0.clone();
    let op = &mut program.functions["main"].block.operations[base.1];
    if op.attributes.contains_key(name) || op.kind.starts_with("constexpr") && op.inputs.is_empty() {
        op.attributes.insert(name.to_owned(), value);
    } else {
        op.inputs.insert(name.to_owned(), Argument::One(Binding::Value(value)));
    }
    program
}

fn unknown(result: Result<(), EngineError>, name: &str) -> bool {
    matches!(
        result,
        Err(EngineError::Op { source: OpError::UnknownParameter { name: ref found, .. }, .. }) if found == name
    )
}

fn is_bound((program, at): &Base, name: &str) -> bool {
    let op = &program.functions["main"].block.operations[*at];
    op.inputs.contains_key(name) || op.attributes.contains_key(name)
}

#[test]
fn every_operation_is_defined_and_every_definition_has_an_operation() {
    let defined: BTreeSet<String> = definitions().into_iter().map(|d| d.op).collect();
    let known: BTreeSet<String> =
        FAMILIES.iter().flat_map(|(_, ops)| ops.iter()).map(|op| op.name.to_owned()).collect();
    let only: Vec<&String> = known.difference(&defined).collect();
    // Written to files instead of `coreml_update_state`.
    assert_eq!(only, ["write_state"]);
    assert_eq!(defined.difference(&known).count(), 0, "{:?}", defined.difference(&known));
}

/// Loading fails if a parameter is unread, so each parameter must be bound in some program that loads.
#[test]
fn every_parameter_of_a_definition_is_read() {
    let definitions = definitions();
    let (prepared, without) = prepared(&definitions);
    assert!(without.is_empty(), "no program for {without:?}");
    let (mut count, mut unread) = (0, Vec::new());
    for (definition, opset, base) in &prepared {
        for (name, parameter) in &definition.parameters {
            count += 1;
            if is_bound(base, name) {
                continue;
            }
            let tries: Vec<Result<(), EngineError>> =
                values(parameter).into_iter().map(|v| load(&bind(base, name, v))).collect();
            if !tries.iter().any(Result::is_ok) {
                let why = tries.into_iter().filter_map(Result::err).next().map(|e| chain(&e));
                unread.push(format!("{} ({}): {name}: {why:?}", definition.op, opset.text_name()));
            }
        }
    }
    assert!(unread.is_empty(), "{} of {count} parameters\n{}", unread.len(), unread.join("\n"));
    assert!(count > 1900, "{count} parameters");
}

#[test]
fn every_other_parameter_is_refused_by_name() {
    let definitions = definitions();
    let mut names: BTreeSet<&str> = definitions.iter().flat_map(|d| d.parameters.keys()).map(String::as_str).collect();
    names.extend(["nonsense", "X", "activation", "residual", "rows", "gain"]);
    let (prepared, _) = prepared(&definitions);
    let (mut count, mut taken) = (0, Vec::new());
    for (i, (definition, opset, base)) in prepared.iter().enumerate() {
        // All names in the last opset; in earlier ones, those of the operation's other definitions.
        let last = prepared.get(i + 1).is_none_or(|next| next.0.op != definition.op);
        let elsewhere = || definitions.iter().filter(|d| d.op == definition.op).flat_map(|d| d.parameters.keys());
        let tried: BTreeSet<&str> = if last { names.clone() } else { elsewhere().map(String::as_str).collect() };
        for name in tried.into_iter().filter(|name| !definition.parameters.contains_key(*name)) {
            count += 1;
            if !unknown(load(&bind(base, name, Value::int(1))), name) {
                taken.push(format!("{} ({}): {name}", definition.op, opset.text_name()));
            }
        }
    }
    assert!(taken.is_empty(), "{} of {count} parameters\n{}", taken.len(), taken.join("\n"));
    assert!(count > 20_000, "{count} parameters");
}

#[test]
fn a_word_that_a_parameter_does_not_define_is_refused() {
    let definitions = definitions();
    let (prepared, _) = prepared(&definitions);
    let (mut count, mut taken) = (0, Vec::new());
    for (definition, opset, base) in &prepared {
        let words = definition.parameters.iter().filter(|(_, p)| p.types == ["string"]);
        for (name, _) in words {
            for word in ["nonsense", ""] {
                count += 1;
                if load(&bind(base, name, text(word))).is_ok() {
                    taken.push(format!("{} ({}): {name} = {word:?}", definition.op, opset.text_name()));
                }
            }
        }
    }
    assert!(taken.is_empty(), "{} of {count}\n{}", taken.len(), taken.join("\n"));
    assert!(count > 100, "{count} words");
}

/// Omitting a parameter equals binding its default: both programs return the same.
#[test]
fn defaults_are_those_of_the_definitions() {
    let definitions = definitions();
    let (mut count, mut different) = (0, Vec::new());
    let cases = all();
    for definition in &definitions {
        let stated = definition.parameters.iter().filter(|(_, p)| p.optional && p.default.is_some());
        for (name, parameter) in stated {
            // Random results and results other than tensors.
            if definition.op.starts_with("random_") || name == "dtype" {
                continue;
            }
            for case in cases.iter().filter(|c| !c.name.contains("fp16")) {
                let function = &case.program.functions["main"];
                if !definition.opsets.iter().any(|o| Opset::from_name(o) == Some(function.opset)) {
                    continue;
                }
                let at = function.block.operations.iter().position(|op| op.kind == definition.op);
                let Some(at) = at.filter(|&at| !is_bound(&(case.program.clone(), at), name)) else { continue };
                let bound = values(parameter).into_iter().find_map(|value| {
                    let program = bind(&(case.program.clone(), at), name, value);
                    load(&program).is_ok().then_some(program)
                });
                let Some(bound) = bound else { continue };
                count += 1;
                if outcome(&case.program, &case.inputs) != outcome(&bound, &case.inputs) {
                    different.push(format!("{}: {} {name}", case.name, definition.op));
                }
            }
        }
    }
    assert!(different.is_empty(), "{} of {count}\n{}", different.len(), different.join("\n"));
    assert!(count > 80, "{count} defaults");
}

fn outcome(program: &Program, inputs: &[(String, candle_core::Tensor)]) -> String {
    let executable = Executable::load(program, &Weights::default(), "main", &Options::default()).expect("it loads");
    let mut state = executable.new_state().expect("a state");
    let inputs: Vec<(&str, candle_core::Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let outputs = executable.predict(&inputs, Some(&mut state)).map_err(|e| chain(&e));
    outputs.map_or_else(
        |e| e,
        |outputs| {
            let tensors = outputs.values().filter_map(|o| o.tensor());
            tensors.map(|t| format!("{:?} {t}", t.dims())).collect()
        },
    )
}

/// A string parameter rejects literals of other types.
#[test]
fn a_number_in_the_place_of_a_word_is_refused() {
    let body =
        "tensor<fp32, [1, 1, 1]> y = max_pool(x = x, kernel_sizes = tensor<int32, [1]>([1]), pad_type = int32(1));";
    let failed = crate::text::load("ios15", "tensor<fp32, [1, 1, 1]> x", body).expect_err("a number");
    assert!(failed.contains("`pad_type`: expected one string"), "{failed}");
    let unnamed = Value {
        ty: ValueType::Tensor(TensorType::fixed(DataType::String, &[])),
        data: ValueData::Tensor(TensorData::Strings(Vec::new())),
    };
    let body = body.replace("int32(1));", "string(\"valid\"));");
    let text = format!("program(1.3) {{ func main<ios15>(tensor<fp32, [1, 1, 1]> x) {{ {body} }} -> (y); }}");
    let program = mil_text::parse(&text).expect("it parses");
    assert!(load(&program).is_ok());
    assert!(load(&bind(&(program, 0), "pad_type", unnamed)).is_err());
}
