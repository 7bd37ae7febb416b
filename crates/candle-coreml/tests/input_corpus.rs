//! Replays the corpus of the fuzz targets of inputs, with deterministic corruptions.
#![cfg(feature = "images")]

#[allow(dead_code, unreachable_pub, reason = "several tests share it")]
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[allow(unreachable_pub, reason = "the fuzz targets use it as a module of their own")]
#[path = "../../../fuzz/src/inputs.rs"]
mod inputs;

use corpus::replay_changed;

#[test]
fn tensors() {
    replay_changed("tensors", inputs::tensors);
}

#[test]
fn images() {
    replay_changed("images", inputs::images);
}
