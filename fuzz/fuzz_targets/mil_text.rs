//! Parses MIL text and prints it back.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::text(bytes));
