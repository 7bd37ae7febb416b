//! Outputs: owned by the library, read in place by C.

use std::ffi::{CString, c_char};

use candle_core::{DType, Tensor};
use candle_coreml::{DictionaryKey, Error, FeatureValue};
use half::{bf16, f16};

use crate::error::{c_text, free, text};
use crate::values::{self, CcmlFeature, CcmlValue};

/// Outputs of a prediction, or one state; freed by `ccml_outputs_free`, until when its features live.
#[derive(Debug)]
pub struct CcmlOutputs {
    features: Vec<CcmlFeature>,
    /// What the features point to. Vectors keep their elements where they are when they are moved.
    _memory: Vec<Memory>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "read through pointers")]
enum Memory {
    Text(CString),
    Texts(Vec<CString>, Vec<*const c_char>),
    Shape(Vec<usize>),
    U8(Vec<u8>),
    U32(Vec<u32>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    BF16(Vec<bf16>),
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl CcmlOutputs {
    /// Copies values: none shares memory with an input then.
    pub(crate) fn of<'a>(all: impl IntoIterator<Item = (&'a str, FeatureValue)>) -> Result<Self, Error> {
        let (mut features, mut memory) = (Vec::new(), Vec::new());
        for (name, value) in all {
            let name = c_text(name);
            features.push(CcmlFeature { name: name.as_ptr(), value: view(value, &mut memory)? });
            memory.push(Memory::Text(name));
        }
        Ok(Self { features, _memory: memory })
    }
}

fn view(value: FeatureValue, memory: &mut Vec<Memory>) -> Result<CcmlValue, Error> {
    let texts = |all: &mut dyn Iterator<Item = String>, view: &mut CcmlValue, memory: &mut Vec<Memory>| {
        let owned: Vec<CString> = all.map(c_text).collect();
        let pointers: Vec<*const c_char> = owned.iter().map(|t| t.as_ptr()).collect();
        (view.texts, view.count) = (pointers.as_ptr(), pointers.len());
        memory.push(Memory::Texts(owned, pointers));
    };
    Ok(match value {
        FeatureValue::Tensor(tensor) => of_tensor(&tensor, memory)?,
        FeatureValue::Int64(integer) => CcmlValue { integer, ..CcmlValue::of_kind(values::CCML_INT64) },
        FeatureValue::Double(number) => CcmlValue { number, ..CcmlValue::of_kind(values::CCML_DOUBLE) },
        FeatureValue::String(text) => {
            let text = c_text(text);
            let view = CcmlValue { text: text.as_ptr(), ..CcmlValue::of_kind(values::CCML_STRING) };
            memory.push(Memory::Text(text));
            view
        }
        FeatureValue::Int64s(all) => {
            let (integers, count) = (all.as_ptr(), all.len());
            memory.push(Memory::I64(all));
            CcmlValue { integers, count, ..CcmlValue::of_kind(values::CCML_INT64S) }
        }
        FeatureValue::Strings(all) => {
            let mut view = CcmlValue::of_kind(values::CCML_STRINGS);
            texts(&mut all.into_iter(), &mut view, memory);
            view
        }
        FeatureValue::Dictionary(entries) => {
            let mut view = CcmlValue::of_kind(values::CCML_DICTIONARY);
            let (keys, numbers): (Vec<DictionaryKey>, Vec<f64>) = entries.into_iter().unzip();
            (view.numbers, view.count) = (numbers.as_ptr(), numbers.len());
            memory.push(Memory::F64(numbers));
            if keys.iter().all(|key| matches!(key, DictionaryKey::Int(_))) {
                let integer = |key| if let DictionaryKey::Int(n) = key { n } else { 0 };
                let integers: Vec<i64> = keys.into_iter().map(integer).collect();
                view.integers = integers.as_ptr();
                memory.push(Memory::I64(integers));
            } else {
                texts(&mut keys.into_iter().map(String::from), &mut view, memory);
            }
            view
        }
    })
}

fn of_tensor(tensor: &Tensor, memory: &mut Vec<Memory>) -> Result<CcmlValue, Error> {
    let flat = tensor.flatten_all()?;
    macro_rules! elements {
        ($ty:ty, $variant:ident, $code:ident) => {{
            let elements: Vec<$ty> = flat.to_vec1()?;
            let data = elements.as_ptr();
            memory.push(Memory::$variant(elements));
            (data.cast(), values::$code)
        }};
    }
    let (data, dtype) = match tensor.dtype() {
        DType::U8 => elements!(u8, U8, CCML_U8),
        DType::U32 => elements!(u32, U32, CCML_U32),
        DType::I16 => elements!(i16, I16, CCML_I16),
        DType::I32 => elements!(i32, I32, CCML_I32),
        DType::I64 => elements!(i64, I64, CCML_I64),
        DType::BF16 => elements!(bf16, BF16, CCML_BF16),
        DType::F16 => elements!(f16, F16, CCML_F16),
        DType::F64 => elements!(f64, F64, CCML_F64),
        DType::F32 => elements!(f32, F32, CCML_F32),
        other => return Err(Error::Request(format!("tensors of {other:?} have no element type here"))),
    };
    let shape = tensor.dims().to_vec();
    let view =
        CcmlValue { dtype, data, shape: shape.as_ptr(), rank: shape.len(), ..CcmlValue::of_kind(values::CCML_TENSOR) };
    memory.push(Memory::Shape(shape));
    Ok(view)
}

/// Number of outputs.
///
/// # Safety
/// `outputs` is null or an object of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_outputs_count(outputs: *const CcmlOutputs) -> usize {
    // SAFETY: the caller's promise.
    unsafe { outputs.as_ref() }.map_or(0, |o| o.features.len())
}

/// One output, or null if there are not so many. Lives as long as the outputs.
///
/// # Safety
/// `outputs` is null or an object of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_outputs_at(outputs: *const CcmlOutputs, index: usize) -> *const CcmlFeature {
    // SAFETY: the caller's promise.
    let feature = unsafe { outputs.as_ref() }.and_then(|o| o.features.get(index));
    feature.map_or(std::ptr::null(), |f| &raw const *f)
}

/// The output of a name, or null if there is none. Lives as long as the outputs.
///
/// # Safety
/// `outputs` is null or an object of this library that is not freed; `name` is null or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_outputs_find(outputs: *const CcmlOutputs, name: *const c_char) -> *const CcmlFeature {
    // SAFETY: the caller's promise; names of features are texts of `_memory`.
    unsafe {
        let (Some(outputs), Ok(name)) = (outputs.as_ref(), text("name", name)) else { return std::ptr::null() };
        let found = outputs.features.iter().find(|f| text("name", f.name).is_ok_and(|n| n == name));
        found.map_or(std::ptr::null(), |f| &raw const *f)
    }
}

/// Frees outputs; null is allowed.
///
/// # Safety
/// `outputs` is null or an object of this library that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_outputs_free(outputs: *mut CcmlOutputs) {
    // SAFETY: outputs are given out from a box.
    unsafe { free(outputs) };
}
