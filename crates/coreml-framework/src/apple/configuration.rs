//! `MLModelConfiguration` from [`Options`].

use objc2::rc::Retained;
use objc2_core_ml::{
    MLComputeUnits, MLModelConfiguration, MLOptimizationHints, MLReshapeFrequencyHint, MLSpecializationStrategy,
};
use objc2_foundation::NSString;

use super::available::{Api, require};
use crate::error::NativeError;
use crate::options::{ComputeUnits, Options, ReshapeFrequency, Specialization};

// The platform-neutral constants match the framework's.
const _: () = {
    assert!(ComputeUnits::CpuOnly.code() == MLComputeUnits::CPUOnly.0);
    assert!(ComputeUnits::CpuAndGpu.code() == MLComputeUnits::CPUAndGPU.0);
    assert!(ComputeUnits::CpuAndNeuralEngine.code() == MLComputeUnits::CPUAndNeuralEngine.0);
    assert!(ComputeUnits::All.code() == MLComputeUnits::All.0);
};

/// Creates the configuration for loading a model.
///
/// # Errors
/// [`NativeError::Unavailable`] for functions and hints on systems that lack them.
pub(super) fn configuration(options: &Options) -> Result<Retained<MLModelConfiguration>, NativeError> {
    // SAFETY: a plain object with setters for plain values, not yet shared with another thread.
    let configuration = unsafe {
        let configuration = MLModelConfiguration::new();
        configuration.setComputeUnits(MLComputeUnits(options.compute_units.code()));
        configuration.setAllowLowPrecisionAccumulationOnGPU(options.low_precision_accumulation);
        configuration
    };
    if let Some(name) = &options.gpu {
        prefer(&configuration, name)?;
    }
    if let Some(function) = &options.function {
        require(Api::FunctionName)?;
        // SAFETY: as above; the system has the setter. Loading reports unknown names.
        unsafe { configuration.setFunctionName(Some(&NSString::from_str(function))) };
    }
    if options.reshape_frequency.is_some() || options.specialization.is_some() {
        require(Api::Hints)?;
        // SAFETY: as above; the system has the class and the setters.
        unsafe { configuration.setOptimizationHints(&hints(options)) };
    }
    Ok(configuration)
}

/// # Safety
/// The system must have optimization hints.
unsafe fn hints(options: &Options) -> Retained<MLOptimizationHints> {
    // SAFETY: the caller guarantees that the class exists; the setters take plain values.
    unsafe {
        let hints = MLOptimizationHints::new();
        if let Some(frequency) = options.reshape_frequency {
            hints.setReshapeFrequency(match frequency {
                ReshapeFrequency::Frequent => MLReshapeFrequencyHint::Frequent,
                ReshapeFrequency::Infrequent => MLReshapeFrequencyHint::Infrequent,
            });
        }
        if let Some(strategy) = options.specialization {
            hints.setSpecializationStrategy(match strategy {
                Specialization::Default => MLSpecializationStrategy::Default,
                Specialization::FastPrediction => MLSpecializationStrategy::FastPrediction,
            });
        }
        hints
    }
}

/// Sets the GPU to prefer, by its name.
#[cfg(all(feature = "metal", target_os = "macos"))]
fn prefer(configuration: &MLModelConfiguration, name: &str) -> Result<(), NativeError> {
    use objc2_metal::{MTLCopyAllDevices, MTLDevice};

    let devices = MTLCopyAllDevices();
    let Some(device) = devices.iter().find(|device| device.name().to_string() == name) else {
        let available = devices.iter().map(|device| device.name().to_string()).collect();
        return Err(NativeError::Unknown { what: "GPU", name: name.to_owned(), available });
    };
    // SAFETY: a setter of an object that is not yet shared with another thread.
    unsafe { configuration.setPreferredMetalDevice(Some(&device)) };
    Ok(())
}

/// There is no choice.
#[cfg(not(all(feature = "metal", target_os = "macos")))]
fn prefer(_: &MLModelConfiguration, _: &str) -> Result<(), NativeError> {
    Err(NativeError::Unavailable { what: "a preferred GPU", needs: "macOS, and a build with the feature `metal`," })
}
