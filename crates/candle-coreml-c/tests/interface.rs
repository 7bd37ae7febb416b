//! The interface as C calls it: values of every kind, states, what must be refused, what is null.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use candle_coreml_c::*;

fn path(path: &str) -> CString {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    CString::new(root.join(path).to_str().expect("UTF-8")).expect("no zero byte")
}

fn string(text: *const c_char) -> String {
    assert!(!text.is_null());
    // SAFETY: texts of the library end with a zero byte and live as long as their owner.
    unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8").to_owned()
}

/// Kind, feature and text of an error, which is freed.
fn taken(error: *mut CcmlError) -> (String, Option<String>, String) {
    assert!(!error.is_null(), "there is an error");
    // SAFETY: the error is the library's and is freed here.
    unsafe {
        let feature = ccml_error_feature(error);
        let feature = (!feature.is_null()).then(|| string(feature));
        let found = (string(ccml_error_kind(error)), feature, string(ccml_error_message(error)));
        ccml_error_free(error);
        found
    }
}

fn open(name: &str) -> *mut CcmlModel {
    let (mut error, path) = (null_mut(), path(name));
    // SAFETY: texts and pointers of this function.
    let model = unsafe { ccml_model_open(path.as_ptr(), null(), &raw mut error) };
    assert!(!model.is_null(), "{name}: {:?}", taken(error));
    model
}

const NONE: CcmlValue = CcmlValue {
    kind: CCML_TENSOR,
    dtype: CCML_F64,
    shape: null(),
    rank: 0,
    data: null(),
    integer: 0,
    number: 0.0,
    text: null(),
    integers: null(),
    texts: null(),
    numbers: null(),
    count: 0,
};

fn tensor<T>(dtype: u32, shape: &[usize], data: &[T]) -> CcmlValue {
    assert_eq!(shape.iter().product::<usize>(), data.len());
    CcmlValue { dtype, shape: shape.as_ptr(), rank: shape.len(), data: data.as_ptr().cast(), ..NONE }
}

fn predict(
    model: *mut CcmlModel,
    inputs: &[(&CStr, CcmlValue)],
) -> Result<*mut CcmlOutputs, (String, Option<String>, String)> {
    let inputs: Vec<CcmlFeature> =
        inputs.iter().map(|(n, value)| CcmlFeature { name: n.as_ptr(), value: *value }).collect();
    let mut error = null_mut();
    // SAFETY: the tests give pointers to what the kinds say.
    let outputs = unsafe { ccml_model_predict(model, inputs.as_ptr(), inputs.len(), null_mut(), &raw mut error) };
    if outputs.is_null() { Err(taken(error)) } else { Ok(outputs) }
}

fn output(outputs: *mut CcmlOutputs, name: &CStr) -> CcmlValue {
    // SAFETY: outputs are the library's.
    let found = unsafe { ccml_outputs_find(outputs, name.as_ptr()).as_ref() };
    found.unwrap_or_else(|| panic!("no {name:?}")).value
}

#[test]
fn trees_return_labels_and_probabilities() {
    let model = open("conformance/classic/random_forest.mlmodel");
    // The first row of random_forest.json, of scikit-learn.
    let x = [0.0012301533574825742, 0.2987455375084699, -0.2741378553622176, -0.8905918387572742];
    let outputs = predict(model, &[(c"input", tensor(CCML_F64, &[4], &x))]).expect("outputs");
    let (label, classes) = (output(outputs, c"classLabel"), output(outputs, c"classProbability"));
    assert_eq!(classes.kind, CCML_DICTIONARY);
    assert_eq!((classes.count, classes.texts.is_null()), (3, true));
    // SAFETY: the outputs live, and have as many keys and numbers.
    let (keys, numbers) =
        unsafe { (std::slice::from_raw_parts(classes.integers, 3), std::slice::from_raw_parts(classes.numbers, 3)) };
    let zero = keys.iter().position(|&k| k == 0).expect("class 0");
    assert!((numbers[zero] - 3.7854278074866308).abs() < 1e-12, "{numbers:?}");
    let label = match label.kind {
        CCML_INT64 => label.integer,
        // SAFETY: a tensor of one integer.
        _ => unsafe { *label.data.cast::<i64>() },
    };
    assert_eq!(label, 0);
    // SAFETY: both are the library's.
    unsafe {
        assert_eq!(ccml_outputs_count(outputs), 2);
        assert!(!ccml_outputs_at(outputs, 1).is_null() && ccml_outputs_at(outputs, 2).is_null());
        assert!(ccml_outputs_find(outputs, c"other".as_ptr()).is_null());
        ccml_outputs_free(outputs);
        ccml_model_free(model);
    }
}

#[test]
fn dictionaries_go_in() {
    let model = open("conformance/classic/dict_vectorizer.mlmodel");
    let (keys, numbers) = ([c"a".as_ptr(), c"b".as_ptr()], [1.0, 2.5]);
    let value = CcmlValue { kind: CCML_DICTIONARY, texts: keys.as_ptr(), numbers: numbers.as_ptr(), count: 2, ..NONE };
    let outputs = predict(model, &[(c"x", value)]).expect("outputs");
    let y = output(outputs, c"y");
    assert_eq!((y.kind, y.dtype, y.rank), (CCML_TENSOR, CCML_F64, 1));
    // SAFETY: a tensor of three doubles.
    assert_eq!(unsafe { std::slice::from_raw_parts(y.data.cast::<f64>(), 3) }, [1.0, 2.5, 0.0]);
    // SAFETY: both are the library's.
    unsafe {
        ccml_outputs_free(outputs);
        ccml_model_free(model);
    }
}

#[test]
fn wrong_values_are_errors_by_name() {
    let model = open("models/tiny-intent/intent.mlpackage");
    let ids = [2i32, 3];
    let (shape, odd) = ([1usize, 2], [0u8; 16]);
    let good = tensor(CCML_I32, &shape, &ids);
    let misaligned = odd.as_ptr().wrapping_add(1 - odd.as_ptr().addr() % 2).cast::<c_void>();
    let huge = [usize::MAX, 2];
    for (value, word) in [
        (CcmlValue { kind: 99, ..good }, "no kind 99"),
        (CcmlValue { dtype: 99, ..good }, "no element type 99"),
        (CcmlValue { data: null(), ..good }, "`data` is null"),
        (CcmlValue { shape: null(), ..good }, "`shape` is null"),
        (CcmlValue { data: misaligned, ..good }, "not aligned"),
        (CcmlValue { shape: huge.as_ptr(), ..good }, "too many elements"),
        (CcmlValue { kind: CCML_STRING, ..good }, "`text` is null"),
        (CcmlValue { kind: CCML_STRING, text: c"\xff".as_ptr(), ..good }, "not UTF-8"),
    ] {
        let (kind, _, text) = predict(model, &[(c"input_ids", value), (c"attention_mask", good)]).expect_err(word);
        assert!(kind == "argument" && text.contains(word), "{kind}: {text}");
    }
    let (kind, feature, _) = predict(model, &[(c"input_ids", good)]).expect_err("no mask");
    assert_eq!((kind.as_str(), feature.as_deref()), ("input", Some("attention_mask")));
    let (kind, feature, _) = predict(model, &[(c"other", good)]).expect_err("no such input");
    assert_eq!((kind.as_str(), feature.as_deref()), ("not-found", Some("other")));
    // SAFETY: the model is the library's; null is refused where an object is needed and nothing where one is freed.
    unsafe {
        let mut error = null_mut();
        assert!(ccml_model_predict(null(), null(), 0, null_mut(), &raw mut error).is_null());
        assert_eq!(taken(error).0, "argument");
        assert!(ccml_model_open(null(), null(), null_mut()).is_null(), "nobody asks for the error");
        assert!(ccml_model_describe(null(), null_mut()).is_null());
        ccml_model_free(null_mut());
        ccml_outputs_free(null_mut());
        ccml_state_free(null_mut());
        ccml_language_free(null_mut());
        ccml_error_free(null_mut());
        ccml_string_free(null_mut());
        assert!(ccml_error_message(null()).is_null() && ccml_outputs_count(null()) == 0);
        ccml_model_free(model);
    }
}

#[test]
fn files_and_options_are_named_in_errors() {
    let (missing, model) = (path("models/none.mlpackage"), path("models/tiny-intent/intent.mlpackage"));
    // SAFETY: texts and pointers of this test.
    unsafe {
        let mut error = null_mut();
        assert!(ccml_model_open(missing.as_ptr(), null(), &raw mut error).is_null());
        assert!(string(ccml_error_file(error)).ends_with("none.mlpackage"));
        assert_eq!(taken(error).0, "io");
        for options in [
            CcmlOptions { function: c"other".as_ptr(), engine: null(), compute_units: null() },
            CcmlOptions { function: null(), engine: c"other".as_ptr(), compute_units: null() },
            CcmlOptions { function: null(), engine: null(), compute_units: c"other".as_ptr() },
        ] {
            let mut error = null_mut();
            assert!(ccml_model_open(model.as_ptr(), &raw const options, &raw mut error).is_null());
            assert!(taken(error).2.contains("`other`"));
        }
        let options =
            CcmlOptions { function: c"main".as_ptr(), engine: c"portable".as_ptr(), compute_units: c"cpu".as_ptr() };
        let model = ccml_model_open(model.as_ptr(), &raw const options, null_mut());
        let described = ccml_model_describe(model, null_mut());
        let json: serde_json::Value = serde_json::from_str(&string(described)).expect("JSON");
        assert_eq!((json["engine"].as_str(), json["function"].as_str()), (Some("portable"), Some("main")));
        let inputs = json["model"]["functions"]["main"]["inputs"].as_array().expect("inputs");
        assert!(inputs.iter().any(|i| i["name"] == "input_ids"));
        ccml_string_free(described);
        ccml_model_free(model);
    }
}

#[test]
fn states_are_read_and_written() {
    let model = open("conformance/single_file/per-layer.mlpackage");
    // SAFETY: objects of the library, texts and arrays of this test.
    unsafe {
        let described = ccml_model_describe(model, null_mut());
        let json: serde_json::Value = serde_json::from_str(&string(described)).expect("JSON");
        ccml_string_free(described);
        let name = json["model"]["functions"]["main"]["states"][0]["name"].as_str().expect("a state").to_owned();
        let name = CString::new(name).expect("no zero byte");
        let state = ccml_state_new(model, null_mut());
        let read = |state| {
            let outputs = ccml_state_read(state, name.as_ptr(), null_mut());
            let value = (*ccml_outputs_at(outputs, 0)).value;
            assert_eq!(value.dtype, CCML_F16);
            let shape = std::slice::from_raw_parts(value.shape, value.rank).to_vec();
            let count = shape.iter().product();
            let elements = std::slice::from_raw_parts(value.data.cast::<u16>(), count).to_vec();
            ccml_outputs_free(outputs);
            (shape, elements)
        };
        let (shape, zeros) = read(state);
        assert!(zeros.iter().all(|&bits| bits == 0));
        let ones = vec![1f32; zeros.len()];
        let value = tensor(CCML_F32, &shape, &ones);
        assert!(ccml_state_write(state, name.as_ptr(), &raw const value, null_mut()));
        assert!(read(state).1.iter().all(|&bits| bits == 0x3c00), "1 in half precision");
        let mut error = null_mut();
        let wrong = tensor(CCML_F32, &[1], &ones[..1]);
        assert!(!ccml_state_write(state, name.as_ptr(), &raw const wrong, &raw mut error));
        assert_eq!(taken(error).1.as_deref(), name.to_str().ok());
        let number = CcmlValue { kind: CCML_DOUBLE, ..NONE };
        assert!(!ccml_state_write(state, name.as_ptr(), &raw const number, &raw mut error));
        assert_eq!(taken(error).0, "input");
        assert!(ccml_state_reset(state, null_mut()) && read(state).1 == zeros);
        ccml_state_free(state);
        ccml_model_free(model);
    }
}

unsafe extern "C" fn collect_one(piece: *const c_char, user: *mut c_void) -> bool {
    // SAFETY: the test passes a vector, and the library a text.
    let pieces = unsafe { &mut *user.cast::<Vec<String>>() };
    pieces.push(string(piece));
    false
}

unsafe extern "C" fn collect_all(piece: *const c_char, user: *mut c_void) -> bool {
    // SAFETY: the test passes a vector, and the library a text.
    unsafe { &mut *user.cast::<Vec<String>>() }.push(string(piece));
    true
}

#[test]
fn pieces_are_the_answer_and_stop_when_told() {
    let folder = path("models/tiny-qwen3");
    // SAFETY: objects of the library, texts and vectors of this test.
    unsafe {
        let model = ccml_language_open(folder.as_ptr(), null(), null_mut());
        let question = CcmlMessage { role: c"user".as_ptr(), content: c"What is 37 + 45?".as_ptr() };
        let mut pieces: Vec<String> = Vec::new();
        let chat = |piece: CcmlPiece, user: *mut c_void| {
            let answer = ccml_language_chat(model, &raw const question, 1, null(), piece, user, null_mut());
            let text = string(answer);
            ccml_string_free(answer);
            text
        };
        let answer = chat(Some(collect_all), (&raw mut pieces).cast());
        assert!(answer.contains("82") && pieces.concat() == answer, "{answer}: {pieces:?}");
        assert_eq!(chat(None, null_mut()), answer);
        pieces.clear();
        let begun = chat(Some(collect_one), (&raw mut pieces).cast());
        assert!(pieces.len() == 1 && begun.len() < answer.len() && answer.starts_with(&begun), "{begun}");

        let stops = [c"82".as_ptr()];
        let how = CcmlGeneration { stop: stops.as_ptr(), stop_count: 1, ..ccml_generation_default() };
        let cut = ccml_language_chat(model, &raw const question, 1, &raw const how, None, null_mut(), null_mut());
        assert_eq!(string(cut), answer[..answer.find("82").expect("82")]);
        ccml_string_free(cut);

        let mut error = null_mut();
        assert!(ccml_language_chat(model, null(), 1, null(), None, null_mut(), &raw mut error).is_null());
        assert_eq!(taken(error).0, "argument");
        let how = CcmlGeneration { max_tokens: 4, ..ccml_generation_default() };
        let text = ccml_language_generate(model, c"2 + 2 =".as_ptr(), &raw const how, None, null_mut(), &raw mut error);
        assert!(!text.is_null());
        ccml_string_free(text);
        ccml_language_free(model);
    }
}

/// Microseconds for a call in the best of some rounds.
fn best(calls: u32, mut work: impl FnMut()) -> f64 {
    let round = || {
        let started = std::time::Instant::now();
        (0..calls).for_each(|_| work());
        started.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
    };
    std::iter::repeat_with(round).take(30).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "measures; see docs/performance.md"]
fn time_of_a_call() {
    use candle_core::{DType, Device, Tensor};
    use candle_coreml::{CoreMLModel, FeatureValue};

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let load = |path: &str| CoreMLModel::load(root.join(path)).expect("it loads");
    let small = load("conformance/classic/normalizer_l2.mlmodel");
    let name = &small.input_names()[0];
    let x = Tensor::ones(4, DType::F64, &Device::Cpu).expect("ones");
    let row = [(name.as_str(), FeatureValue::Tensor(x))];
    let library = best(200, || drop(small.predict_values(&row, None).expect("outputs")));
    let handle = open("conformance/classic/normalizer_l2.mlmodel");
    let c_name = CString::new(name.as_str()).expect("no zero byte");
    let ones = [1.0f64; 4];
    let c = best(200, || {
        let outputs = predict(handle, &[(&c_name, tensor(CCML_F64, &[4], &ones))]).expect("outputs");
        // SAFETY: the outputs are the library's.
        unsafe { ccml_outputs_free(outputs) };
    });
    println!("normalizer: library {library:.1} µs, C {c:.1} µs");
    let intent = load("models/tiny-intent/intent.mlpackage");
    let ids = Tensor::new(&[[2i32, 40, 41, 3]], &Device::Cpu).expect("ids");
    let mask = ids.ones_like().expect("a mask");
    let row = [("input_ids", ids.into()), ("attention_mask", FeatureValue::Tensor(mask))];
    println!("encoder: library {:.1} µs", best(40, || drop(intent.predict_values(&row, None).expect("outputs"))));
    // SAFETY: the model is the library's.
    unsafe { ccml_model_free(handle) };
}
