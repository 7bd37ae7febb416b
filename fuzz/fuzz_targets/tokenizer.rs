//! Loads `tokenizer.json`, encodes and decodes.

#![no_main]

#[path = "../src/texts.rs"]
#[allow(dead_code, reason = "each target uses one of its functions")]
mod texts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| texts::tokenizer(bytes));
