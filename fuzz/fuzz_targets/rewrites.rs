//! Runs programs with and without each rewrite; results must agree.

#![no_main]

#[path = "../src/rewrites/mod.rs"]
mod rewrites;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rewrites::run(bytes, &mut rewrites::Tally::default()));
