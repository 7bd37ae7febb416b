//! Decodes protobuf specifications.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::specification(bytes));
