//! Load options of the native engine.

use std::path::PathBuf;

use coreml_format::description::ColorLayout;

use crate::progress::Watch;

/// Processors that Core ML may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ComputeUnits {
    /// CPU only.
    CpuOnly,
    /// CPU and GPU.
    CpuAndGpu,
    /// CPU and Neural Engine: the default, and what language models are made for.
    #[default]
    CpuAndNeuralEngine,
    /// All processors. By choice only: Core ML's GPU path ends the process when it can't compile a graph ("MLIR pass
    /// manager failed"), without an error that a caller could catch. Attention in a deep graph is enough, on some
    /// systems; `CpuAndGpu` takes the same path.
    All,
}

impl ComputeUnits {
    /// All choices.
    pub const ALL: [Self; 4] = [Self::CpuOnly, Self::CpuAndGpu, Self::CpuAndNeuralEngine, Self::All];

    /// Value of `MLComputeUnits` (`MLModelConfiguration.h`).
    pub const fn code(self) -> isize {
        match self {
            Self::CpuOnly => 0,
            Self::CpuAndGpu => 1,
            Self::All => 2,
            Self::CpuAndNeuralEngine => 3,
        }
    }

    /// Returns true if the Neural Engine is included.
    pub const fn with_neural_engine(self) -> bool {
        matches!(self, Self::CpuAndNeuralEngine | Self::All)
    }

    /// Name used in messages and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CpuOnly => "cpu",
            Self::CpuAndGpu => "cpu-and-gpu",
            Self::CpuAndNeuralEngine => "cpu-and-ne",
            Self::All => "all",
        }
    }
}

impl std::fmt::Display for ComputeUnits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Unknown name of compute units.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compute units `{0}`; expected cpu, cpu-and-gpu, cpu-and-ne or all")]
pub struct UnknownUnits(pub String);

impl std::str::FromStr for ComputeUnits {
    type Err = UnknownUnits;

    fn from_str(name: &str) -> Result<Self, UnknownUnits> {
        Self::ALL.into_iter().find(|u| u.name() == name).ok_or_else(|| UnknownUnits(name.to_owned()))
    }
}

/// Expected frequency of shape changes (`MLReshapeFrequencyHint`; macOS 15, iOS 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReshapeFrequency {
    /// Frequent: predictions start soon after a change.
    Frequent,
    /// Infrequent: Core ML prepares more for each shape.
    Infrequent,
}

/// Optimization target (`MLSpecializationStrategy`; macOS 15, iOS 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Specialization {
    /// The system's default balance.
    Default,
    /// Faster predictions at the cost of loading time and memory.
    FastPrediction,
}

/// Load options of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Processors.
    pub compute_units: ComputeUnits,
    /// Function of a multi-function model; `None`: the default one. Naming one needs macOS 15 or iOS 18.
    pub function: Option<String>,
    /// Expected frequency of shape changes; `None`: system default.
    pub reshape_frequency: Option<ReshapeFrequency>,
    /// Optimization target; `None`: system default.
    pub specialization: Option<Specialization>,
    /// Allow the GPU to accumulate in fp16.
    pub low_precision_accumulation: bool,
    /// Lend suitable tensors to Core ML instead of copying them.
    pub lend_inputs: bool,
    /// Write outputs of fixed shape into preallocated arrays that live as long as the model.
    pub output_backings: bool,
    /// Allocate fp16 arrays of suitable shape in IOSurfaces, which the Neural Engine reads and writes in place
    /// ([`Surface::of`](crate::surface::Surface::of)); only if it is among the compute units.
    pub surfaces: bool,
    /// Channel order of image features by name. The framework reports only the pixel format, which is an unreliable
    /// indication; unlisted features are described by it.
    pub image_layouts: Vec<(String, ColorLayout)>,
    /// Folder of compiled models; `None`: the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Name of the GPU to prefer, as Metal reports it; `None`: the system's choice. macOS with the feature `metal` only.
    pub gpu: Option<String>,
    /// Observer and switch of the load.
    pub watch: Watch,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compute_units: ComputeUnits::default(),
            function: None,
            reshape_frequency: None,
            specialization: None,
            low_precision_accumulation: false,
            lend_inputs: true,
            output_backings: false,
            surfaces: true,
            image_layouts: Vec::new(),
            cache: None,
            gpu: None,
            watch: Watch::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compute_units_have_the_constants_of_the_header() {
        let codes = ComputeUnits::ALL.map(|u| (u.name(), u.code()));
        assert_eq!(codes, [("cpu", 0), ("cpu-and-gpu", 1), ("cpu-and-ne", 3), ("all", 2)]);
        for units in ComputeUnits::ALL {
            assert_eq!(units.name().parse(), Ok(units));
        }
        assert!("ane".parse::<ComputeUnits>().expect_err("no such units").to_string().contains("cpu-and-ne"));
        assert_eq!(ComputeUnits::default(), ComputeUnits::CpuAndNeuralEngine);
        assert_eq!(Options::default().compute_units, ComputeUnits::default());
        assert_eq!(ComputeUnits::ALL.map(ComputeUnits::with_neural_engine), [false, false, true, true]);
    }
}
