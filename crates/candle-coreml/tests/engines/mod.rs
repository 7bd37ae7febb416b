//! Engines under test: the portable one everywhere, and Core ML on Apple platforms.
//!
//! `CANDLE_COREML_ENGINE=portable|native` selects one; `CANDLE_COREML_REQUIRE_NATIVE=1` makes a missing native engine a
//! failure, so that CI jobs that should test it can't pass without it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::PathBuf;

use candle_coreml::engine::{EngineChoice, EngineOptions, native_is_available};
use candle_coreml::{ComputeUnits, QwenConfig};

fn from_environment() -> Option<EngineChoice> {
    let name = std::env::var("CANDLE_COREML_ENGINE").ok().filter(|name| !name.is_empty())?;
    Some(name.parse().expect("CANDLE_COREML_ENGINE names an engine"))
}

/// All engines of this build, or the one set in the environment.
pub(crate) fn engines() -> Vec<EngineChoice> {
    let all = match from_environment() {
        Some(one) => vec![one],
        None if native_is_available() => vec![EngineChoice::Portable, EngineChoice::Native],
        None => vec![EngineChoice::Portable],
    };
    let required = std::env::var("CANDLE_COREML_REQUIRE_NATIVE").is_ok_and(|v| v == "1");
    assert!(!required || all.contains(&EngineChoice::Native), "the native engine is required, but not in {all:?}");
    all
}

/// One engine: the one set in the environment, else the portable one.
pub(crate) fn engine() -> EngineChoice {
    from_environment().unwrap_or(EngineChoice::Portable)
}

/// Options of an engine: on the CPU, where results are deterministic, with a separate cache per test.
pub(crate) fn options(choice: EngineChoice) -> EngineOptions {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    EngineOptions { choice, compute_units: ComputeUnits::CpuOnly, cache: Some(cache), ..EngineOptions::default() }
}

/// Settings of a pipeline for [`engine`].
pub(crate) fn config() -> QwenConfig {
    QwenConfig { engine: engine(), compute_units: ComputeUnits::CpuOnly, ..QwenConfig::default() }
}

/// Absolute tolerance on logits whose standard deviation is 3 to 4, against a reference in f32.
///
/// The portable engine computes in f32 over an fp16 state. Core ML rounds every value between operations to fp16: 11
/// bits, relative error 2⁻¹¹ per operation. Some 20 consecutive roundings per layer of the small models add up as a
/// random walk over 4 to 8 layers: √160 · 2⁻¹¹ · 3 sigma ≈ 0.02 of a value; logits reach 15, so 0.3.
pub(crate) fn tolerance(choice: EngineChoice) -> f32 {
    match choice {
        EngineChoice::Portable => 0.03,
        EngineChoice::Native | EngineChoice::Auto => 0.3,
    }
}
