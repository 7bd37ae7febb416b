//! MIL text: compiler output is parsed, printed text reads back, errors have positions.

use coreml_format::blob::BlobRef;
use coreml_format::dtype::DataType;
use coreml_format::mil_text::{Dialect, TextError, parse, print, print_as};
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Opset, Program, TensorData, TensorType, Value,
    ValueData, ValueType,
};
use indexmap::IndexMap;
use proptest::prelude::*;

/// The older dialect: scalars of rank 0, constants as operations, attributes of constexpr operations.
const OLD: &str = r#"program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-component-MIL", "3304.5.2"}, {"coremlc-version", "3304.6.2"}})]
{
    func main<ios16>(tensor<fp32, [1, ?]> x) [FlexibleShapeInformation = tuple<tuple<tensor<string, []>, dict<tensor<string, []>, tensor<int32, [?]>>>, tuple<tensor<string, []>, dict<tensor<string, []>, list<tensor<int32, [2]>, ?>>>>((("DefaultShapes", {{"x", [1, 3]}}), ("RangeDims", {{"x", [[1, 1], [1, 448]]}})))] {
            tensor<int32, []> axis = const()[name = tensor<string, []>("axis"), val = tensor<int32, []>(-1)];
            tensor<fp16, [2, 2]> w = constexpr_lut_to_dense()[indices = tensor<uint8, [4]>([0, 1, 2, 255]), lut = tensor<fp16, [4]>([0x1p-1, -0x1.99ap-4, 1.5, -inf]), name = tensor<string, []>("w"), shape = tensor<uint32, [2]>([2, 2])];
            tensor<fp16, [8, 4]> big = const()[name = tensor<string, []>("big"), val = tensor<fp16, [8, 4]>(BLOBFILE(path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64)))];
            tensor<fp32, [1, ?]> a, tensor<fp32, [1, ?]> b = split(axis = axis, num_splits = tensor<int32, []>(2), x = x)[name = tensor<string, []>("parts")];
            tensor<fp32, [*?]> joined = concat(axis = axis, values = (b, a))[name = tensor<string, []>("joined")];
        } -> (joined);
}
"#;

/// The newer one: bare scalars, states, nested blocks, comments.
const NEW: &str = r#"
program(1.3) // made by hand
{
  func infer<ios18>(state<tensor<fp16, [4, 8]>> cache, bool flag, tensor<fp16, [1, 8]> v) {
    int32 g = const()[name = string("g"), val = int32(1)];
    write_state(data = v, input = cache)[name = string("w")];
    tensor<fp16, [4, 8]> now = read_state(input = cache)[name = string("r \"1\"\n")];
    tensor<fp16, [1, 8]> y = cond(pred = flag)
      (tensor<fp16, [1, 8]> p) { tensor<fp16, [1, 8]> t = relu(x = p)[name = string("t")]; } -> (t)
      () { tensor<fp16, [1, 8]> e = identity(x = v); } -> (e) [name = string("y")];
    tensor<int4, [3]> q = const()[name = string("q"), val = tensor<int4, [3]>([-8, 7, 0])];
    tensor<bool, [2, 1]> m = const()[name = string("m"), val = tensor<bool, [2, 1]>([[true], [false]])];
  } -> (y, now);
  func prefill<ios18>() { } -> ();
}"#;

fn value<'p>(program: &'p Program, function: &str, operation: &str, attribute: &str) -> &'p Value {
    let block = &program.functions[function].block;
    let op = block.operations.iter().find(|o| o.name == operation).expect("the operation");
    &op.attributes[attribute]
}

#[test]
fn both_dialects_of_the_compiler_are_read() {
    let old = parse(OLD).expect("the older dialect");
    assert_eq!(value(&old, "main", "axis", "val"), &Value::int(-1));
    assert_eq!(value(&old, "main", "w", "indices"), &Value::tensor(DataType::U8, &[4], vec![0, 1, 2, 255]));
    // 0.5, -0x1.99ap-4 = -0.1 in half precision, 1.5, -inf: bit patterns of IEEE 754 binary16.
    let lut = [0x3800u16, 0xae66, 0x3e00, 0xfc00].into_iter().flat_map(u16::to_le_bytes).collect();
    assert_eq!(value(&old, "main", "w", "lut"), &Value::tensor(DataType::F16, &[4], lut));
    let at = BlobRef { file: "@model_path/weights/weight.bin".into(), offset: 64 };
    assert_eq!(value(&old, "main", "big", "val"), &Value::blob(DataType::F16, &[8, 4], at));
    let main = &old.functions["main"];
    assert_eq!(main.opset, Opset::Ios16);
    assert_eq!(main.block.outputs, ["joined"]);
    let split = &main.block.operations[3];
    assert_eq!((split.outputs.len(), split.name.as_str()), (2, "parts"));
    assert_eq!(split.inputs["num_splits"], Argument::One(Binding::Value(Value::int(2))));
    let ValueData::Tuple(flexible) = &main.attributes["FlexibleShapeInformation"].data else { panic!("a tuple") };
    let ValueData::Tuple(ranges) = &flexible[1].data else { panic!("a pair") };
    let ValueData::Dictionary(entries) = &ranges[1].data else { panic!("a dictionary") };
    let ValueData::List(bounds) = &entries[0].1.data else { panic!("a list") };
    assert_eq!(bounds[1], Value::ints(&[1, 448]));
    assert_eq!(parse(&print(&old)).expect("reads back"), old);

    let new = parse(NEW).expect("the newer dialect");
    let infer = &new.functions["infer"];
    assert!(matches!(infer.inputs[0].ty, ValueType::State(_)));
    assert_eq!(infer.block.operations[1].outputs, []);
    assert_eq!(infer.block.operations[2].name, "r \"1\"\n");
    let cond = &infer.block.operations[3];
    assert_eq!((cond.blocks.len(), cond.blocks[0].inputs.len(), cond.name.as_str()), (2, 1, "y"));
    assert_eq!(value(&new, "infer", "q", "val"), &Value::tensor(DataType::I4, &[3], vec![0x78, 0x00]));
    assert_eq!(value(&new, "infer", "m", "val"), &Value::tensor(DataType::Bool, &[2, 1], vec![1, 0]));
    assert_eq!(parse(&print(&new)).expect("reads back"), new);
    assert_eq!(parse(&print_as(&new, Dialect::V1_0)).expect("reads back"), new);
}

/// A function around one constant.
fn constant(value: &str) -> String {
    format!("program(1.3)\n{{ func main<ios18>() {{ tensor<fp32, [2]> c = const()[val = {value}]; }} -> (c); }}")
}

#[test]
fn literals_are_read_generously_but_not_wrongly() {
    let same = |a: &str, b: &str| assert_eq!(parse(&constant(a)), parse(&constant(b)), "{a} and {b}");
    same("tensor<fp32, [2, 2]>([1, 2, 3, 4])", "tensor<fp32, [2, 2]>([[0x1p+0, 0x1p+1], [3.0, 4e0]])");
    same("tensor<fp32, [3]>(2)", "tensor<fp32, [3]>([2, 2, 2])");
    same("tensor<int32, [0]>([])", "tensor<int32, [?]>([])");
    same("list<string, 2>((\"a\", string(\"b\")))", "list<string, 2>([\"a\", \"b\",])");
    same("tensor<string, []>(\"a\")", "string(\"a\")");
    for bad in [
        "tensor<fp32, [2, 2]>([1, 2, 3])",
        "tensor<fp32, [2, 2]>([[1, 2], [3]])",
        "tensor<fp32, [2, 1, 1]>([[2], [[1]]])",
        "tensor<fp32, [3]>([1, [2, 3]])",
        "tensor<uint8, [1]>([256])",
        "tensor<int4, [1]>([8])",
        "tensor<int32, [1]>([1.5])",
        "tensor<bool, [1]>([2])",
        "tensor<fp32, [99999999999]>(1)",
        "tensor<fp32, [99999999999999999999999]>(1)",
        "tuple<int32, int32>((1))",
        "tuple<int32>((1, 2))",
        "state<int32>(1)",
        "int32(BLOBFILE(path = \"x\"))",
    ] {
        assert!(parse(&constant(bad)).is_err(), "{bad}");
    }
}

#[test]
fn errors_name_line_and_column() {
    let at = |text: &str| {
        let TextError { line, column, expected, found } = parse(text).expect_err("it is wrong");
        (line, column, expected, found)
    };
    assert_eq!(at("program(2.0)").3, "`2.0`");
    assert_eq!(at("program(1.0)\n{\n  func f<ios99>").0, 3);
    assert_eq!(at("program(1.0)\n{\n  func f<ios99>").1, 10);
    let (line, column, expected, found) = at("program(1.0)\n{ func f<ios15>() { tensor<é");
    assert_eq!((line, column), (2, 28));
    assert!(expected.contains("token") && found.contains('é'), "{expected} {found}");
    let twice = "program(1.0) { func f<ios15>() {} -> (); func f<ios15>() {} -> (); }";
    assert_eq!(at(twice).1, 47);
    let deep = format!("program(1.0)[a = {}", "list<".repeat(1000));
    assert!(at(&deep).2.contains("at most 64 levels"));
    assert_eq!(at("").3, "the end of the text");
}

#[test]
fn no_prefix_and_no_changed_byte_panics() {
    for text in [OLD, NEW] {
        for n in (0..text.len()).filter(|&n| text.is_char_boundary(n)) {
            assert!(n + 3 >= text.trim_end().len() || parse(&text[..n]).is_err(), "{n}");
            for replacement in ["(", "[", "\"", "9", "-", "\\", "<"] {
                let changed = format!("{}{replacement}{}", &text[..n], &text[n + 1..]);
                // Valid or not, it returns.
                drop(parse(&changed));
            }
        }
    }
}

/// Round trip of the repository's packages in both dialects.
#[test]
fn real_programs_read_back_from_both_dialects() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut count = 0;
    for folder in ["models/tiny-qwen3", "conformance/models"] {
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
                if entry.extension().is_some_and(|e| e == "mlpackage") {
                    let Body::Program(program) = Model::open(&entry).expect("it opens").body else {
                        panic!("no program")
                    };
                    for dialect in [Dialect::V1_0, Dialect::V1_3] {
                        let text = print_as(&program, dialect);
                        assert!(parse(&text).expect("it parses") == program, "{} in {dialect:?}", entry.display());
                    }
                    count += 1;
                } else if entry.is_dir() {
                    folders.push(entry);
                }
            }
        }
    }
    assert!(count >= 10, "{count} packages");
}

fn dims() -> impl Strategy<Value = Vec<Dim>> {
    let dim = prop_oneof![(0usize..9).prop_map(Dim::Fixed), Just(Dim::Unknown), Just(Dim::Variadic)];
    prop::collection::vec(dim, 0..4)
}

fn dtype() -> impl Strategy<Value = DataType> {
    use DataType::*;
    prop::sample::select(vec![
        Bool, String, F16, F32, F64, BF16, F8E4M3FN, F8E5M2, I4, I8, I16, I32, I64, U1, U2, U3, U4, U6, U8, U16, U32,
        U64,
    ])
}

fn types() -> impl Strategy<Value = ValueType> {
    let leaf = (dtype(), dims()).prop_map(|(dtype, shape)| ValueType::Tensor(TensorType { dtype, shape }));
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|t| ValueType::State(Box::new(t))),
            (inner.clone(), prop_oneof![Just(Dim::Unknown), (0usize..5).prop_map(Dim::Fixed)])
                .prop_map(|(t, n)| ValueType::List(Box::new(t), n)),
            prop::collection::vec(inner.clone(), 0..3).prop_map(ValueType::Tuple),
            (inner.clone(), inner).prop_map(|(k, v)| ValueType::Dictionary(Box::new(k), Box::new(v))),
        ]
    })
}

/// A tensor literal without NaNs, whose payload has no text form.
fn tensors() -> impl Strategy<Value = Value> {
    (dtype(), prop::collection::vec(0usize..4, 0..4)).prop_flat_map(|(dtype, shape)| {
        let count: usize = shape.iter().product();
        let one = shape.clone();
        let strings = prop::collection::vec(any::<String>(), count).prop_map(move |s| Value {
            ty: ValueType::Tensor(TensorType::fixed(DataType::String, &one)),
            data: ValueData::Tensor(TensorData::Strings(s)),
        });
        let bits = dtype.bits().unwrap_or(8);
        let bytes = prop::collection::vec(any::<u8>(), (count * bits).div_ceil(8)).prop_map(move |mut bytes| {
            if let (Some(last), used @ 1..) = (bytes.last_mut(), count * bits % 8) {
                *last &= (1 << used) - 1;
            }
            // Clearing the top exponent bit excludes infinities and NaNs; booleans are 0 or 1.
            for element in bytes.chunks_mut(bits.div_ceil(8)) {
                if let Some(top) = element.last_mut().filter(|_| dtype.is_float()) {
                    *top &= 0xbf;
                } else if dtype == DataType::Bool {
                    element[0] &= 1;
                }
            }
            Value::tensor(dtype, &shape, bytes)
        });
        if dtype == DataType::String { strings.boxed() } else { bytes.boxed() }
    })
}

fn values() -> impl Strategy<Value = Value> {
    tensors().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| Value {
                ty: ValueType::Tuple(items.iter().map(|i| i.ty.clone()).collect()),
                data: ValueData::Tuple(items),
            }),
            (inner.clone(), 0usize..4).prop_map(|(item, n)| Value {
                ty: ValueType::List(Box::new(item.ty.clone()), Dim::Fixed(n)),
                data: ValueData::List(vec![item; n]),
            }),
            (inner.clone(), inner, 0usize..3).prop_map(|(k, v, n)| Value {
                ty: ValueType::Dictionary(Box::new(k.ty.clone()), Box::new(v.ty.clone())),
                data: ValueData::Dictionary(vec![(k, v); n]),
            }),
        ]
    })
}

fn attributes() -> impl Strategy<Value = IndexMap<String, Value>> {
    prop::collection::vec(("[a-z]{1,6}", values()), 0..3)
        .prop_map(|all| all.into_iter().filter(|(name, _)| name != "name").collect())
}

fn named() -> impl Strategy<Value = Vec<NamedType>> {
    prop::collection::vec((".{0,6}", types()).prop_map(|(name, ty)| NamedType { name, ty }), 0..3)
}

fn arguments() -> impl Strategy<Value = IndexMap<String, Argument>> {
    let binding = prop_oneof![".{0,5}".prop_map(Binding::Name), values().prop_map(Binding::Value)];
    let argument = prop::collection::vec(binding, 0..4).prop_map(|mut all| match all.len() {
        1 => Argument::One(all.remove(0)),
        _ => Argument::Many(all),
    });
    prop::collection::vec((".{0,4}", argument), 0..3).prop_map(|all| all.into_iter().collect())
}

fn operations() -> impl Strategy<Value = Operation> {
    let leaf = ("[a-z][a-z_]{0,5}", ".{0,5}", arguments(), named(), attributes()).prop_map(
        |(kind, name, inputs, outputs, attributes)| Operation {
            kind,
            name: if name.is_empty() { outputs.first().map(|o| o.name.clone()).unwrap_or_default() } else { name },
            inputs,
            outputs,
            blocks: Vec::new(),
            attributes,
        },
    );
    leaf.prop_recursive(2, 6, 2, |inner| {
        let block = (named(), prop::collection::vec(inner.clone(), 0..3), prop::collection::vec(".{0,4}", 0..3))
            .prop_map(|(inputs, operations, outputs)| Block { inputs, operations, outputs });
        (inner, prop::collection::vec(block, 0..3)).prop_map(|(op, blocks)| Operation { blocks, ..op })
    })
}

fn programs() -> impl Strategy<Value = Program> {
    let opset = prop::sample::select(vec![Opset::Ios15, Opset::Ios16, Opset::Ios17, Opset::Ios18, Opset::Ios26]);
    let outputs = prop::collection::vec(".{0,4}", 0..3);
    let function = (opset, named(), prop::collection::vec(operations(), 0..4), outputs, attributes()).prop_map(
        |(opset, inputs, operations, outputs, attributes)| Function {
            opset,
            inputs,
            block: Block { inputs: Vec::new(), operations, outputs },
            attributes,
        },
    );
    (prop::collection::vec((".{0,5}", function), 1..3), attributes())
        .prop_map(|(functions, attributes)| Program { functions: functions.into_iter().collect(), attributes })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(program in programs()) {
        for dialect in [Dialect::V1_0, Dialect::V1_3] {
            let text = print_as(&program, dialect);
            let back = parse(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(&back, &program, "{}", text);
        }
    }
}
