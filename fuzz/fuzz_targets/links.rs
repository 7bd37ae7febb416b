//! Opens model files, follows their links, recognises files of other kinds.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::links(bytes));
