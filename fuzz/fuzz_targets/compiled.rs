//! Opens compiled models.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::compiled(bytes));
