//! Run-time availability of Core ML APIs.

use objc2::available;

use crate::error::NativeError;

/// API groups by the system version that introduced them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Api {
    /// The minimum: everything used unconditionally, such as `getBytesWithHandler:` and the Neural Engine units.
    Engine,
    /// Predictions with completion handlers.
    AsyncPrediction,
    /// The list of devices.
    Devices,
    /// The compute plan.
    ComputePlan,
    /// States.
    State,
    /// Functions by name.
    FunctionName,
    /// Optimization hints.
    Hints,
    /// Models from memory with weight files.
    AssetWithWeights,
}

/// Checks that the system has an API.
///
/// # Errors
/// [`NativeError::Unavailable`] with the systems that have it.
pub(super) fn require(api: Api) -> Result<(), NativeError> {
    const V16: &str = "macOS 13, iOS 16, tvOS 16 or visionOS 1";
    const V17: &str = "macOS 14, iOS 17, tvOS 17 or visionOS 1";
    const V17_4: &str = "macOS 14.4, iOS 17.4, tvOS 17.4 or visionOS 1.1";
    const V18: &str = "macOS 15, iOS 18, tvOS 18 or visionOS 2";
    let v18 = || available!(macos = 15.0, ios = 18.0, tvos = 18.0, watchos = 11.0, visionos = 2.0);
    let v17 = || available!(macos = 14.0, ios = 17.0, tvos = 17.0, watchos = 10.0, visionos = 1.0);
    let v17_4 = || available!(macos = 14.4, ios = 17.4, tvos = 17.4, watchos = 10.4, visionos = 1.1);
    let v16 = || available!(macos = 13.0, ios = 16.0, tvos = 16.0, watchos = 9.0, visionos = 1.0);
    let (there, what, needs) = match api {
        Api::Engine => (v16(), "the native engine", V16),
        Api::AsyncPrediction => (v17(), "a prediction that does not block", V17),
        Api::Devices => (v17(), "the list of compute devices", V17),
        Api::ComputePlan => (v17_4(), "the compute plan", V17_4),
        Api::State => (v18(), "a model with states", V18),
        Api::FunctionName => (v18(), "a model's function by name", V18),
        Api::Hints => (v18(), "an optimization hint", V18),
        Api::AssetWithWeights => (v18(), "a model from memory with weight files", V18),
    };
    if there { Ok(()) } else { Err(NativeError::Unavailable { what, needs }) }
}
