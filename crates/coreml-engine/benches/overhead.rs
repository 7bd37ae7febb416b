//! Overhead per operation, measured with trivial operands: `cargo bench -p coreml-engine`.

use candle_core::{DType, Device, Tensor};
use coreml_engine::executable::{Executable, Options};
use coreml_format::description::{
    FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use coreml_format::dtype::DataType;
use coreml_format::mil_text;
use coreml_format::model::Model;
use coreml_format::write::PackageWriter;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Number of operations in the chain.
const LENGTH: usize = 1000;

/// A chain of one operation on four floats, each using the previous result.
fn chain(operation: &str) -> String {
    let mut body = String::new();
    let mut last = "x".to_owned();
    for i in 0..LENGTH {
        let name = format!("v{i}");
        let call = operation.replace("LAST", &last);
        body += &format!("        tensor<fp32, [4]> {name} = {call}[name = string(\"{name}\")];\n");
        last = name;
    }
    format!("program(1.3)\n{{\n    func main<ios18>(tensor<fp32, [4]> x) {{\n{body}    }} -> ({last});\n}}\n")
}

fn load(operation: &str) -> Executable {
    let array = |name: &str| FeatureDescription {
        name: name.to_owned(),
        description: String::new(),
        ty: FeatureType::MultiArray {
            dtype: DataType::F32,
            shape: vec![4],
            constraint: ShapeConstraint::Fixed,
            default: None,
        },
        optional: false,
    };
    let function = FunctionDescription {
        inputs: vec![array("x")],
        outputs: vec![array(&format!("v{}", LENGTH - 1))],
        ..FunctionDescription::default()
    };
    let description = ModelDescription {
        specification_version: 9,
        functions: [("main".to_owned(), function)].into_iter().collect(),
        default_function: "main".to_owned(),
        ..ModelDescription::default()
    };
    let program = mil_text::parse(&chain(operation)).expect("a program");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chain.mlpackage");
    PackageWriter::create(&path).and_then(|w| w.finish(&description, &program)).expect("a package");
    let model = Model::open(&path).expect("the package opens");
    Executable::load(model.body.program().expect("a program"), &model.weights, "main", &Options::default())
        .expect("it loads")
}

fn operations(c: &mut Criterion) {
    let mut group = c.benchmark_group("chain of 1000");
    group.throughput(Throughput::Elements(LENGTH as u64));
    let x = Tensor::zeros(4, DType::F32, &Device::Cpu).expect("four floats");
    for (name, operation) in [
        ("add", "add(x = LAST, y = x)"),
        ("relu", "relu(x = LAST)"),
        ("identity", "identity(x = LAST)"),
        ("transpose", "transpose(x = LAST, perm = tensor<int32, [1]>([0]))"),
    ] {
        let executable = load(operation);
        group.bench_function(name, |b| b.iter(|| executable.predict(&[("x", x.clone())], None).expect("a prediction")));
    }
    group.finish();
}

criterion_group!(benches, operations);
criterion_main!(benches);
