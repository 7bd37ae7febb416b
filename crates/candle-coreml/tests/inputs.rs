//! Caller tensors: accepted element types and values, and the errors for others.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use candle_coreml::{CoreMLModel, EngineChoice};

/// Inputs of every type class that programs declare, each returned unchanged.
const PROGRAM: &str = r#"program(1.3)
{
    func main<ios17>(tensor<fp32, [2]> single, tensor<fp16, [2]> half, tensor<int32, [2]> whole, tensor<int8, [2]> byte, tensor<bool, [2]> flag) {
        tensor<fp32, [2]> a = identity(x = single)[name = string("a")];
        tensor<fp16, [2]> b = identity(x = half)[name = string("b")];
        tensor<int32, [2]> c = identity(x = whole)[name = string("c")];
        tensor<int8, [2]> d = identity(x = byte)[name = string("d")];
        tensor<bool, [2]> e = identity(x = flag)[name = string("e")];
    } -> (a, b, c, d, e);
}
"#;

const STATEFUL: &str = r#"program(1.3)
{
    func main<ios18>(state<tensor<fp16, [2]>> memory, tensor<fp16, [2]> x) {
        tensor<fp16, [2]> before = read_state(input = memory)[name = string("before")];
        tensor<fp16, [2]> after = add(x = before, y = x)[name = string("after")];
        write_state(input = memory, data = after)[name = string("write")];
    } -> (after);
}
"#;

fn model(folder: &Path, program: &str) -> CoreMLModel {
    let path = folder.join("inputs.mlmodelc");
    std::fs::create_dir(&path).expect("a folder");
    std::fs::write(path.join("model.mil"), program).expect("written");
    CoreMLModel::builder(path).engine(EngineChoice::Portable).load().expect("a model")
}

/// Runs `f` with a timeout of a minute: nothing here takes a second.
fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(f()).ok());
    result.recv_timeout(Duration::from_secs(60)).expect("it ends, without a panic")
}

const NAMES: [&str; 5] = ["single", "half", "whole", "byte", "flag"];

/// Predicts with ones for all inputs but this one.
fn predict(model: &CoreMLModel, name: &str, tensor: &Tensor) -> Result<(DType, Vec<f64>), String> {
    let one = Tensor::ones(2, DType::U8, &Device::Cpu).expect("two ones");
    let of = |n: &'static str| (n, if n == name { tensor.clone() } else { one.clone() });
    let outputs = model.predict(&NAMES.map(of), None).map_err(|e| e.to_string())?;
    let position = NAMES.iter().position(|n| *n == name).expect("an input");
    let output = outputs[position].tensor().expect("a tensor").clone();
    let values = output.to_dtype(DType::F64).and_then(|t| t.to_vec1()).expect("numbers");
    Ok((output.dtype(), values))
}

#[test]
fn element_types_that_candle_has_and_models_have_not_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path(), PROGRAM);
    // Every byte, since some of those formats have values that conversions never produce.
    in_time(move || {
        for dtype in [DType::F8E4M3, DType::F6E2M3, DType::F6E3M2, DType::F4, DType::F8E8M0] {
            for byte in [0x00, 0x01, 0x38, 0x7f, 0x80, 0xff] {
                let tensor = Tensor::from_raw_buffer(&[byte; 2], dtype, &[2], &Device::Cpu).expect("two bytes");
                for name in NAMES {
                    let error = predict(&model, name, &tensor).expect_err("refused");
                    let found = format!("found elements of type {}", dtype.as_str());
                    assert!(error.contains(&format!("`{name}`")) && error.ends_with(&found), "{error}");
                }
            }
        }
    });
}

#[test]
fn all_others_are_taken_where_the_values_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path(), PROGRAM);
    for dtype in
        [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64, DType::BF16, DType::F16, DType::F32, DType::F64]
    {
        let small = Tensor::new(&[1_u8, 0], &Device::Cpu).and_then(|t| t.to_dtype(dtype)).expect("numbers");
        for (name, returned) in NAMES.into_iter().zip([DType::F32, DType::F16, DType::I32, DType::I16, DType::U8]) {
            assert_eq!(predict(&model, name, &small), Ok((returned, vec![1.0, 0.0])), "{name} {dtype:?}");
        }
        let seven = Tensor::new(&[7_u8, 0], &Device::Cpu).and_then(|t| t.to_dtype(dtype)).expect("numbers");
        let error = predict(&model, "flag", &seven).expect_err("no boolean");
        assert!(error.contains("`flag`: expected bool values, found the value 7"), "{error}");
    }
}

#[test]
fn integers_are_exact_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path(), PROGRAM);
    let wide = |v: i64| Tensor::new(&[v, 0], &Device::Cpu).expect("integers");
    let float = |v: f64| Tensor::new(&[v, 0.0], &Device::Cpu).expect("floats");
    for (name, least, most) in [("whole", -2_147_483_648_i64, 2_147_483_647), ("byte", -128, 127)] {
        for inside in [least, most] {
            assert_eq!(predict(&model, name, &wide(inside)).expect("inside").1[0], inside as f64);
            assert_eq!(predict(&model, name, &float(inside as f64)).expect("inside").1[0], inside as f64);
        }
        for outside in [least - 1, most + 1, i64::MIN, i64::MAX] {
            let error = predict(&model, name, &wide(outside)).expect_err("outside");
            assert!(error.ends_with(&format!("values, found the value {outside}")), "{error}");
            assert!(predict(&model, name, &float(outside as f64)).is_err(), "{outside}");
        }
        for bad in [0.5, -0.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let error = predict(&model, name, &float(bad)).expect_err("no integer");
            assert!(error.ends_with(&format!("found the value {bad}")), "{error}");
        }
    }
}

#[test]
fn states_are_set_by_the_same_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path(), STATEFUL);
    in_time(move || {
        let mut state = model.make_state().expect("a state");
        let byte = Tensor::from_raw_buffer(&[0x01; 2], DType::F8E4M3, &[2], &Device::Cpu).expect("two bytes");
        let error = state.set("memory", &byte).expect_err("refused").to_string();
        assert!(error.contains("`memory`") && error.ends_with("found elements of type f8e4m3"), "{error}");
        let set = Tensor::new(&[1.5_f64, 70_000.0], &Device::Cpu).expect("floats");
        state.set("memory", &set).expect("numbers");
        let kept = state.get("memory").expect("kept");
        assert_eq!(kept.dtype(), DType::F16);
        let kept: Vec<f32> = kept.to_dtype(DType::F32).and_then(|t| t.to_vec1()).expect("numbers");
        assert_eq!(kept, [1.5, f32::INFINITY]);
    });
}
