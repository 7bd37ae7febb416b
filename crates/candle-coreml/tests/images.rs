//! Image inputs and outputs, the same on every engine; values that only some models accept.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_coreml::description::{
    ColorLayout, FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use candle_coreml::format::{mil_text, write::PackageWriter};
use candle_coreml::{CoreMLModel, Error, FeatureValue};

mod engines;

const HEIGHT: usize = 2;
const WIDTH: usize = 3;

/// Returns each image as a tensor after one operation that distinguishes channels and samples.
const PROGRAM: &str = r#"program(1.3)
{
    func main<ios17>(tensor<fp32, [1, 3, 2, 3]> picture, tensor<fp32, [1, 3, 2, 3]> swapped, tensor<fp32, [1, 1, 2, 3]> gray, tensor<fp16, [1, 1, 2, 3]> depth) {
        tensor<fp32, [1, 3, 1, 1]> weights = const()[name = string("weights"), val = tensor<fp32, [1, 3, 1, 1]>([[[[1]], [[0.5]], [[0.25]]]])];
        fp32 most = const()[name = string("most"), val = fp32(255)];
        fp16 twice = const()[name = string("twice"), val = fp16(2)];
        tensor<fp32, [1, 3, 2, 3]> weighed = mul(x = picture, y = weights)[name = string("weighed")];
        tensor<fp32, [1, 3, 2, 3]> weighed_swapped = mul(x = swapped, y = weights)[name = string("weighed_swapped")];
        tensor<fp32, [1, 1, 2, 3]> negative = sub(x = most, y = gray)[name = string("negative")];
        tensor<fp16, [1, 1, 2, 3]> deeper = mul(x = depth, y = twice)[name = string("deeper")];
    } -> (weighed, weighed_swapped, negative, deeper);
}
"#;

fn feature(name: &str, layout: ColorLayout) -> FeatureDescription {
    let ty = FeatureType::Image { layout, width: WIDTH, height: HEIGHT, sizes: ShapeConstraint::Fixed };
    FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
}

fn write(path: &Path) {
    use ColorLayout::{Bgr, Grayscale, GrayscaleFloat16, Rgb};
    let features = |names: [&str; 4]| {
        names.into_iter().zip([Rgb, Bgr, Grayscale, GrayscaleFloat16]).map(|(n, l)| feature(n, l)).collect()
    };
    let function = FunctionDescription {
        inputs: features(["picture", "swapped", "gray", "depth"]),
        outputs: features(["weighed", "weighed_swapped", "negative", "deeper"]),
        ..FunctionDescription::default()
    };
    let description = ModelDescription {
        specification_version: 8,
        functions: [("main".to_owned(), function)].into_iter().collect(),
        default_function: "main".to_owned(),
        ..ModelDescription::default()
    };
    let program = mil_text::parse(PROGRAM).expect("a program");
    PackageWriter::create(path).and_then(|w| w.finish(&description, &program)).expect("a package");
}

fn image(samples: &[f32], channels: usize) -> Tensor {
    Tensor::from_vec(samples.to_vec(), (1, channels, HEIGHT, WIDTH), &Device::Cpu).expect("an image")
}

fn samples(output: &FeatureValue) -> Vec<f32> {
    let tensor = output.tensor().expect("an image");
    tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect("samples")
}

#[test]
fn images_keep_their_channels_and_samples_on_every_engine() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("images.mlpackage");
    write(&path);
    let color: Vec<f32> = (0..18).map(|i| (i * 12) as f32).collect();
    let gray = [0.0, 1.0, 99.0, 128.0, 254.0, 255.0];
    let depth = [-4.0, 0.0, 0.5, 1.0, 300.0, 1000.0];
    let inputs = [
        ("picture", image(&color, 3)),
        ("swapped", image(&color, 3)),
        ("gray", image(&gray, 1)),
        ("depth", image(&depth, 1)),
    ];
    // The expected output, by hand; multiples of four keep halves and quarters integral.
    let weighed: Vec<f32> = color.iter().enumerate().map(|(i, x)| x / [1.0, 2.0, 4.0][i / 6]).collect();
    for engine in engines::engines() {
        let model = load(&path, engine);
        let outputs = model.predict(&inputs, None).expect("a prediction");
        assert_eq!(samples(&outputs["weighed"]), weighed, "{engine}");
        assert_eq!(samples(&outputs["weighed_swapped"]), weighed, "{engine}");
        assert_eq!(samples(&outputs["negative"]), gray.map(|x| 255.0 - x), "{engine}");
        assert_eq!(samples(&outputs["deeper"]), depth.map(|x| x * 2.0), "{engine}");
        let dtypes = ["weighed", "negative", "deeper"].map(|n| outputs[n].tensor().map(Tensor::dtype));
        assert_eq!(dtypes, [Some(DType::U8), Some(DType::U8), Some(DType::F16)], "{engine}");
        assert_eq!(outputs["weighed"].tensor().map(Tensor::dims), Some(&[1, 3, HEIGHT, WIDTH][..]), "{engine}");

        // Mismatched sizes, channels and value types, with the same message on both engines.
        for (i, bad) in [image(&gray, 1), image(&color, 3).transpose(2, 3).expect("a view")].into_iter().enumerate() {
            let mut inputs = inputs.clone();
            inputs[0].1 = bad;
            let error = model.predict(&inputs, None).expect_err("another image").to_string();
            assert!(error.contains("picture") && error.contains("[1, 3, 2, 3]"), "{engine}, {i}: {error}");
        }
        let mut values: Vec<_> = inputs.iter().map(|(n, t)| (*n, FeatureValue::Tensor(t.clone()))).collect();
        values[2].1 = "grey".into();
        let error = model.predict_values(&values, None).expect_err("a string");
        assert!(matches!(&error, Error::Input { name, found, .. } if name == "gray" && found == "a string"), "{error}");
    }
}

fn load(path: &Path, engine: candle_coreml::EngineChoice) -> CoreMLModel {
    let options = engines::options(engine);
    CoreMLModel::builder(path)
        .engine(engine)
        .compute_units(options.compute_units)
        .compiled_models(options.cache.expect("a cache"))
        .load()
        .expect("it loads")
}

/// Half samples are not bytes: the framework's images round, and reject values outside a byte.
#[cfg(target_vendor = "apple")]
#[test]
fn bytes_round_and_refuse_on_core_ml() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("images.mlpackage");
    write(&path);
    let model = load(&path, candle_coreml::EngineChoice::Native);
    let zeros = || image(&[0.0; 18], 3);
    let gray = |x: f32| image(&[x; 6], 1);
    let inputs = |x: f32| [("picture", zeros()), ("swapped", zeros()), ("gray", gray(x)), ("depth", gray(0.0))];
    let outputs = model.predict(&inputs(99.6), None).expect("a prediction");
    assert_eq!(samples(&outputs["negative"]), [155.0; 6]);
    let error = model.predict(&inputs(256.0), None).expect_err("no byte").to_string();
    assert!(error.contains("gray") && error.contains("256"), "{error}");
}
