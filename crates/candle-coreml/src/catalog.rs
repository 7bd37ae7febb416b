//! Recommended models: repositories by backend, their sizes, and which of them fit in memory.
//!
//! Core ML packages are ANEMLL's conversions; the other devices use Qwen's original repositories. Sizes of checkpoints
//! follow from the dimensions in their `config.json` (16 bits per weight); sizes of conversions from the hub's listing
//! if it has them, else from the dimensions and the bit widths in their file names.

use crate::backend::BackendDevice;
use crate::engine::native_is_available;

/// Model name that selects [`recommended_model`].
pub const AUTO_MODEL: &str = "auto";

/// Memory for the runtime, the tokenizer and the cache of a short conversation.
const OVERHEAD: u64 = 500_000_000;
/// Largest model for interactive use on a CPU, where every token reads all weights.
const CPU_LIMIT: u64 = 2_000_000_000;

/// A known repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownModel {
    /// Its name on the hub.
    pub repository: &'static str,
    /// Number of weights, shared ones counted once.
    pub parameters: u64,
    /// Approximate download size in bytes.
    pub download: u64,
    /// True if it always computes in f32 (see `backend::CandleGenerator`).
    wide: bool,
}

/// Memory of a machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Total.
    pub total: u64,
    /// Available to programs.
    pub available: u64,
}

/// Memory fit of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Fits now.
    Fits,
    /// Fits once other programs are closed.
    Tight,
    /// Does not fit.
    TooLarge,
}

const fn packages(repository: &'static str, parameters: u64, download: u64) -> KnownModel {
    KnownModel { repository, parameters, download, wide: false }
}

const fn qwen3(repository: &'static str, parameters: u64, stored: u64) -> KnownModel {
    KnownModel { repository, parameters, download: 2 * stored, wide: false }
}

const fn qwen25(repository: &'static str, parameters: u64) -> KnownModel {
    KnownModel { repository, parameters, download: 2 * parameters, wide: true }
}

/// Smallest first.
const PACKAGES: [KnownModel; 3] = [
    packages("anemll/anemll-Qwen-Qwen3-0.6B-ctx512_0.3.4", 596_049_920, 930_000_000),
    packages("anemll/anemll-Qwen-Qwen3-1.7B-ctx2048_0.3.5", 1_720_574_976, 1_960_000_000),
    packages("anemll/anemll-Qwen3-4B-ctx1024_0.3.0", 4_022_468_096, 3_000_000_000),
];

/// Smallest first. The two smallest Qwen 3 store the head in addition to the embeddings it is tied to.
const CHECKPOINTS: [KnownModel; 10] = [
    qwen25("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
    qwen3("Qwen/Qwen3-0.6B", 596_049_920, 751_632_384),
    qwen25("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
    qwen3("Qwen/Qwen3-1.7B", 1_720_574_976, 2_031_739_904),
    qwen25("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
    qwen3("Qwen/Qwen3-4B", 4_022_468_096, 4_022_468_096),
    qwen25("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    qwen3("Qwen/Qwen3-8B", 8_190_735_360, 8_190_735_360),
    qwen25("Qwen/Qwen2.5-14B-Instruct", 14_770_033_664),
    qwen3("Qwen/Qwen3-14B", 14_768_307_200, 14_768_307_200),
];

impl KnownModel {
    /// Memory needed on a device, in bytes.
    pub fn memory(&self, device: BackendDevice) -> u64 {
        let weights = match device {
            // Packages are memory-mapped.
            BackendDevice::CoreML | BackendDevice::Auto => self.download,
            BackendDevice::Cpu => 4 * self.parameters,
            BackendDevice::Metal | BackendDevice::Cuda if self.wide => 4 * self.parameters,
            BackendDevice::Metal | BackendDevice::Cuda => 2 * self.parameters,
        };
        weights + weights / 10 + OVERHEAD
    }

    /// Memory fit on a device. A tenth is left to other programs.
    pub fn fit(&self, device: BackendDevice, memory: Memory) -> Fit {
        let needed = self.memory(device);
        if needed <= memory.available / 10 * 9 {
            Fit::Fits
        } else if needed <= memory.total / 10 * 9 {
            Fit::Tight
        } else {
            Fit::TooLarge
        }
    }
}

/// Models for a device, smallest first; for `Auto` those of Core ML, which is tried first.
pub fn known_models(device: BackendDevice) -> &'static [KnownModel] {
    match device {
        BackendDevice::CoreML | BackendDevice::Auto => &PACKAGES,
        BackendDevice::Metal | BackendDevice::Cuda | BackendDevice::Cpu => &CHECKPOINTS,
    }
}

/// Returns true if a device runs on the CPU here; Core ML does without Apple's framework.
fn is_cpu(device: BackendDevice) -> bool {
    match device {
        BackendDevice::Cpu => true,
        BackendDevice::CoreML | BackendDevice::Auto => !native_is_available(),
        BackendDevice::Metal | BackendDevice::Cuda => false,
    }
}

/// The largest model for a device that fits in memory, on a CPU the largest that is also fast enough for interactive
/// use; the smallest if none fits.
pub fn recommended_model(device: BackendDevice, memory: Memory) -> &'static KnownModel {
    let models = known_models(device);
    let quick = |m: &&KnownModel| !is_cpu(device) || m.parameters <= CPU_LIMIT;
    let fitting = models.iter().rev().filter(quick).find(|m| m.fit(device, memory) == Fit::Fits);
    fitting.unwrap_or(&models[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of weights of a Qwen checkpoint from the dimensions in its `config.json`: hidden size, layers,
    /// intermediate size, query heads, key heads, head dimension, vocabulary, tied embeddings.
    fn weights(dimensions: [u64; 7], tied: bool, qwen3: bool) -> u64 {
        let [hidden, layers, intermediate, heads, kv, size, vocabulary] = dimensions;
        let projections = 2 * hidden * heads * size + 2 * hidden * kv * size;
        // Qwen 3 has RMS norms on q and k per head, Qwen 2.5 biases on q, k and v.
        let small = if qwen3 { 2 * size } else { (heads + 2 * kv) * size };
        let layer = projections + small + 3 * hidden * intermediate + 2 * hidden;
        layers * layer + hidden + vocabulary * hidden * if tied { 1 } else { 2 }
    }

    #[test]
    fn sizes_follow_from_the_dimensions() {
        let expected = [
            ("2.5-0.5B", weights([896, 24, 4864, 14, 2, 64, 151_936], true, false)),
            ("3-0.6B", weights([1024, 28, 3072, 16, 8, 128, 151_936], true, true)),
            ("2.5-1.5B", weights([1536, 28, 8960, 12, 2, 128, 151_936], true, false)),
            ("3-1.7B", weights([2048, 28, 6144, 16, 8, 128, 151_936], true, true)),
            ("2.5-3B", weights([2048, 36, 11_008, 16, 2, 128, 151_936], true, false)),
            ("3-4B", weights([2560, 36, 9728, 32, 8, 128, 151_936], true, true)),
            ("2.5-7B", weights([3584, 28, 18_944, 28, 4, 128, 152_064], false, false)),
            ("3-8B", weights([4096, 36, 12_288, 32, 8, 128, 151_936], false, true)),
            ("2.5-14B", weights([5120, 48, 13_824, 40, 8, 128, 152_064], false, false)),
            ("3-14B", weights([5120, 40, 17_408, 40, 8, 128, 151_936], false, true)),
        ];
        for (model, (name, weights)) in CHECKPOINTS.iter().zip(expected) {
            assert!(model.repository.contains(name), "{name}");
            assert_eq!(model.parameters, weights, "{name}");
        }
        // Two of them store the tied head as well.
        assert_eq!(CHECKPOINTS[1].download, 2 * (CHECKPOINTS[1].parameters + 151_936 * 1024));
        assert_eq!(CHECKPOINTS[3].download, 2 * (CHECKPOINTS[3].parameters + 151_936 * 2048));
    }

    #[test]
    fn conversions_are_about_as_large_as_their_widths_say() {
        // 16-bit embeddings; layers and head of the given bit width.
        for (model, hidden, layers, head) in [(0, 1024, 8, 8), (1, 2048, 6, 6), (2, 2560, 4, 8)] {
            let (model, embeddings) = (&PACKAGES[model], 151_936 * hidden);
            let bytes = 2 * embeddings + (model.parameters - embeddings) * layers / 8 + embeddings * head / 8;
            let off = model.download.abs_diff(bytes) as f64 / bytes as f64;
            assert!(off < 0.06, "{}: {bytes}, {off}", model.repository);
        }
    }

    #[test]
    fn the_largest_that_fits_is_recommended() {
        use BackendDevice::*;
        const GB: u64 = 1_000_000_000;
        let of = |device, total, available| {
            recommended_model(device, Memory { total: total * GB, available: available * GB }).repository
        };
        assert_eq!(of(CoreML, 8, 1), PACKAGES[0].repository, "nothing fits: the smallest");
        assert_eq!(of(CoreML, 8, 3), PACKAGES[1].repository);
        let large = if native_is_available() { 2 } else { 1 };
        assert_eq!(of(Auto, 64, 60), PACKAGES[large].repository, "the portable engine is a CPU, too");
        assert_eq!(of(Cpu, 8, 3), "Qwen/Qwen2.5-0.5B-Instruct");
        assert_eq!(of(Cpu, 256, 200), "Qwen/Qwen3-1.7B", "a CPU would be too slow for more");
        assert_eq!(of(Cuda, 64, 21), "Qwen/Qwen3-8B");
        assert_eq!(of(Metal, 192, 150), "Qwen/Qwen3-14B");
        let model = CHECKPOINTS[7];
        let memory = |available| Memory { total: 24 * GB, available: available * GB };
        assert_eq!(model.fit(Cuda, memory(23)), Fit::Fits);
        assert_eq!(model.fit(Cuda, memory(10)), Fit::Tight);
        assert_eq!(model.fit(Cpu, memory(23)), Fit::TooLarge);
        assert_eq!(model.fit(Cpu, Memory { total: 0, available: 0 }), Fit::TooLarge);
    }

    #[test]
    fn tables_are_in_order_and_names_are_names() {
        for device in [BackendDevice::CoreML, BackendDevice::Cpu] {
            let models = known_models(device);
            assert!(models.windows(2).all(|w| w[0].parameters / 100 <= w[1].parameters / 99));
            for model in models {
                assert!(model.repository.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.contains('/')));
            }
        }
    }
}
