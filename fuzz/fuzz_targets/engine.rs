//! Verifies, plans and runs programs, with structure-aware mutations.

#![no_main]

#[path = "../src/engine.rs"]
mod engine;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::run(bytes));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let _ = max_size;
    engine::mutate(data, size, seed)
});
