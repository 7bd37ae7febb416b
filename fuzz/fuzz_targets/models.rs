//! Lowers, plans and runs specifications of every type, with mutations of their fields.

#![no_main]

#[path = "../src/models.rs"]
mod models;
#[path = "../src/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| models::run(bytes));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = wire::mutate(&data[..size], &mut wire::Dice(u64::from(seed) << 1 | 1));
    match data.get_mut(..changed.len()).filter(|_| changed.len() <= max_size) {
        Some(room) => {
            room.copy_from_slice(&changed);
            changed.len()
        }
        None => size,
    }
});
