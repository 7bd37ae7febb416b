//! Reads tensor files: safetensors, `.npz`, `.npy`.

#![no_main]

#[path = "../src/inputs.rs"]
mod inputs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inputs::tensors(bytes));
