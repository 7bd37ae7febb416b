//! Values of features as C sees them.

use std::ffi::c_char;

use candle_core::{Tensor, WithDType};
use candle_coreml::lent::Lender;
use candle_coreml::{DictionaryKey, Error, FeatureValue};
use half::{bf16, f16};

use crate::error::{object, slice, text};

/// Kind of value: a tensor of `dtype`, `shape`, `rank` and `data`. Images are tensors `[1, channels, height, width]`.
pub const CCML_TENSOR: u32 = 0;
/// Kind of value: `integer`.
pub const CCML_INT64: u32 = 1;
/// Kind of value: `number`.
pub const CCML_DOUBLE: u32 = 2;
/// Kind of value: `text`.
pub const CCML_STRING: u32 = 3;
/// Kind of value: `integers`, `count` of them.
pub const CCML_INT64S: u32 = 4;
/// Kind of value: `texts`, `count` of them.
pub const CCML_STRINGS: u32 = 5;
/// Kind of value: `numbers` by keys, `count` of them: keys are `texts`, or `integers` where `texts` is null.
pub const CCML_DICTIONARY: u32 = 6;

/// Element type: 8 bits without a sign.
pub const CCML_U8: u32 = 0;
/// Element type: 32 bits without a sign.
pub const CCML_U32: u32 = 1;
/// Element type: 16 bits with a sign.
pub const CCML_I16: u32 = 2;
/// Element type: 32 bits with a sign.
pub const CCML_I32: u32 = 3;
/// Element type: 64 bits with a sign.
pub const CCML_I64: u32 = 4;
/// Element type: bfloat16.
pub const CCML_BF16: u32 = 5;
/// Element type: IEEE half precision.
pub const CCML_F16: u32 = 6;
/// Element type: `float`.
pub const CCML_F32: u32 = 7;
/// Element type: `double`.
pub const CCML_F64: u32 = 8;

/// One value. Only the members of its kind are read; the others may be zero.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CcmlValue {
    /// Kind: `CCML_TENSOR`, `CCML_INT64`, …
    pub kind: u32,
    /// Element type of a tensor: `CCML_F32`, …
    pub dtype: u32,
    /// Extents of a tensor, `rank` of them.
    pub shape: *const usize,
    /// Number of dimensions.
    pub rank: usize,
    /// Elements of a tensor in row-major order, aligned to their type. Inputs are read in place, without a copy.
    pub data: *const std::ffi::c_void,
    /// An integer.
    pub integer: i64,
    /// A number.
    pub number: f64,
    /// A text.
    pub text: *const c_char,
    /// Integers of a sequence, or keys of a dictionary.
    pub integers: *const i64,
    /// Texts of a sequence, or keys of a dictionary.
    pub texts: *const *const c_char,
    /// Values of a dictionary.
    pub numbers: *const f64,
    /// Number of integers, texts or numbers.
    pub count: usize,
}

impl CcmlValue {
    /// A value of a kind with all other members zero.
    pub(crate) const fn of_kind(kind: u32) -> Self {
        Self {
            kind,
            dtype: 0,
            shape: std::ptr::null(),
            rank: 0,
            data: std::ptr::null(),
            integer: 0,
            number: 0.0,
            text: std::ptr::null(),
            integers: std::ptr::null(),
            texts: std::ptr::null(),
            numbers: std::ptr::null(),
            count: 0,
        }
    }
}

/// A value and its name.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CcmlFeature {
    /// Name of the input, output or state.
    pub name: *const c_char,
    /// Its value.
    pub value: CcmlValue,
}

/// A value of the library; tensors read the caller's memory until the lender's scope ends.
///
/// # Safety
/// Pointers of the value's kind point to what the kind says, which lives, unchanged, for `'env`.
pub(crate) unsafe fn value<'env>(
    name: &str,
    value: &'env CcmlValue,
    lender: &Lender<'env>,
) -> Result<FeatureValue, Error> {
    // SAFETY: the caller's promise, for each kind.
    Ok(unsafe {
        match value.kind {
            CCML_TENSOR => tensor(name, value, lender)?.into(),
            CCML_INT64 => value.integer.into(),
            CCML_DOUBLE => value.number.into(),
            CCML_STRING => text("text", value.text)?.into(),
            CCML_INT64S => slice("integers", value.integers, value.count)?.to_vec().into(),
            CCML_STRINGS => texts(value)?.into(),
            CCML_DICTIONARY => {
                let numbers = slice("numbers", value.numbers, value.count)?;
                let keys: Vec<DictionaryKey> = if value.texts.is_null() {
                    slice("integers", value.integers, value.count)?.iter().map(|&k| DictionaryKey::Int(k)).collect()
                } else {
                    texts(value)?.into_iter().map(DictionaryKey::String).collect()
                };
                keys.into_iter().zip(numbers.iter().copied()).collect::<Vec<_>>().into()
            }
            other => return Err(Error::Request(format!("`{name}`: there is no kind {other} of values"))),
        }
    })
}

/// # Safety
/// Same as [`value`].
unsafe fn texts(value: &CcmlValue) -> Result<Vec<String>, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let all = slice("texts", value.texts, value.count)?;
        all.iter().map(|&pointer| text("texts", pointer).map(str::to_owned)).collect()
    }
}

/// # Safety
/// Same as [`value`].
unsafe fn tensor<'env>(name: &str, value: &'env CcmlValue, lender: &Lender<'env>) -> Result<Tensor, Error> {
    /// # Safety
    /// Same as [`value`].
    unsafe fn typed<'env, T: WithDType>(
        value: &'env CcmlValue,
        shape: &[usize],
        lender: &Lender<'env>,
    ) -> Result<Tensor, Error> {
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let count = count.ok_or_else(|| Error::Request(format!("the shape {shape:?} has too many elements")))?;
        // SAFETY: the caller's promise; the tensor goes to predictions only, which change no input in place.
        unsafe { Ok(lender.tensor(slice::<T>("data", value.data.cast(), count)?, shape)?) }
    }
    // SAFETY: the caller's promise.
    unsafe {
        let shape = slice("shape", value.shape, value.rank)?;
        match value.dtype {
            CCML_U8 => typed::<u8>(value, shape, lender),
            CCML_U32 => typed::<u32>(value, shape, lender),
            CCML_I16 => typed::<i16>(value, shape, lender),
            CCML_I32 => typed::<i32>(value, shape, lender),
            CCML_I64 => typed::<i64>(value, shape, lender),
            CCML_BF16 => typed::<bf16>(value, shape, lender),
            CCML_F16 => typed::<f16>(value, shape, lender),
            CCML_F32 => typed::<f32>(value, shape, lender),
            CCML_F64 => typed::<f64>(value, shape, lender),
            other => Err(Error::Request(format!("`{name}`: there is no element type {other}"))),
        }
    }
}

/// Features by name.
///
/// # Safety
/// `features` is null or points to `count` features whose pointers hold what [`value`] asks for.
pub(crate) unsafe fn named<'env>(
    features: *const CcmlFeature,
    count: usize,
    lender: &Lender<'env>,
) -> Result<Vec<(&'env str, FeatureValue)>, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let features: &'env [CcmlFeature] = slice("inputs", features, count)?;
        let one = |feature: &'env CcmlFeature| {
            let name = text("name", object("inputs", feature)?.name)?;
            Ok((name, value(name, &feature.value, lender)?))
        };
        features.iter().map(one).collect()
    }
}
