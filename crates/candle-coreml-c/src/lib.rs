//! C interface of [`candle_coreml`]: `include/candle_coreml.h`, which cbindgen makes of this crate.
//!
//! A function that can fail takes `CcmlError **error`, which may be null, and returns null or false. Objects are freed by
//! the function of their name. No panic crosses the border: it becomes an error of the kind `aborted`. Texts are UTF-8.
//! Models may be used by several threads at once; states and language models too, but calls wait for each other.

mod error;
mod language;
mod model;
mod outputs;
mod state;
mod values;

pub use error::{
    CcmlError, ccml_error_expected, ccml_error_feature, ccml_error_file, ccml_error_found, ccml_error_free,
    ccml_error_kind, ccml_error_message,
};
pub use language::{
    CcmlGeneration, CcmlLanguage, CcmlMessage, CcmlPiece, ccml_generation_default, ccml_language_chat,
    ccml_language_free, ccml_language_generate, ccml_language_open,
};
pub use model::{
    CcmlModel, CcmlOptions, ccml_model_describe, ccml_model_free, ccml_model_open, ccml_model_predict,
    ccml_string_free, ccml_version,
};
pub use outputs::{CcmlOutputs, ccml_outputs_at, ccml_outputs_count, ccml_outputs_find, ccml_outputs_free};
pub use state::{CcmlState, ccml_state_free, ccml_state_new, ccml_state_read, ccml_state_reset, ccml_state_write};
pub use values::{
    CCML_BF16, CCML_DICTIONARY, CCML_DOUBLE, CCML_F16, CCML_F32, CCML_F64, CCML_I16, CCML_I32, CCML_I64, CCML_INT64,
    CCML_INT64S, CCML_STRING, CCML_STRINGS, CCML_TENSOR, CCML_U8, CCML_U32, CcmlFeature, CcmlValue,
};
