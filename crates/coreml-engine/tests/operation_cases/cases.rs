//! Reads the cases in the repository.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use coreml_format::mil_text;
use coreml_format::program::Program;
use safetensors::{Dtype, SafeTensors};

/// A program with inputs and expected outputs.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) inputs: Vec<(String, Tensor)>,
    pub(crate) outputs: Vec<(String, Expected)>,
    pub(crate) tolerance: Option<f64>,
}

/// Elements of an output; integers and booleans are exact in `f64` too.
#[derive(Clone)]
pub(crate) struct Expected {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) values: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Entry {
    text: String,
    tolerance: Option<f64>,
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], to: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|&b| to(b)).collect()
    }
    match dtype {
        Dtype::F32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f64()),
        Dtype::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::U16 => each(bytes, |b| f64::from(u16::from_le_bytes(b))),
        Dtype::I8 => bytes.iter().map(|&b| f64::from(b as i8)).collect(),
        Dtype::U8 | Dtype::BOOL => bytes.iter().map(|&b| f64::from(b)).collect(),
        other => panic!("{other:?} in a case"),
    }
}

fn tensor(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Tensor {
    let wide = Tensor::from_vec(values(dtype, bytes), shape, &Device::Cpu).expect("a tensor");
    let to = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        _ => DType::I64,
    };
    wide.to_dtype(to).expect("a tensor")
}

/// All cases, by file and name.
pub(crate) fn all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/operations");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("cases").map(|e| e.expect("a file").path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors")) {
        let bytes = std::fs::read(file).expect("cases");
        let content = SafeTensors::deserialize(&bytes).expect("safetensors");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let mut entries: Vec<(&String, &String)> = header.metadata().iter().flatten().collect();
        entries.sort();
        for (name, entry) in entries {
            let entry: Entry = serde_json::from_str(entry).expect("an entry");
            let side = |prefix: &str| -> Vec<(String, safetensors::tensor::TensorView<'_>)> {
                let prefix = format!("{name}/{prefix}/");
                let mut own: Vec<_> = content
                    .tensors()
                    .into_iter()
                    .filter_map(|(n, view)| Some((n.strip_prefix(&prefix)?.to_owned(), view)))
                    .collect();
                own.sort_by(|a, b| a.0.cmp(&b.0));
                own
            };
            let inputs = side("in").into_iter().map(|(n, v)| (n, tensor(v.dtype(), v.shape(), v.data()))).collect();
            let expected = |v: safetensors::tensor::TensorView<'_>| Expected {
                shape: v.shape().to_vec(),
                dtype: v.dtype(),
                values: values(v.dtype(), v.data()),
            };
            let outputs = side("out").into_iter().map(|(n, v)| (n, expected(v))).collect();
            let program = mil_text::parse(&entry.text).unwrap_or_else(|e| panic!("{name}: {e}\n{}", entry.text));
            cases.push(Case { name: name.clone(), program, inputs, outputs, tolerance: entry.tolerance });
        }
    }
    assert!(cases.len() > 900, "{} cases", cases.len());
    cases
}
