//! Devices by name.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Device for a language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BackendDevice {
    /// Core ML packages: Apple's framework if available, else the portable engine.
    CoreML,
    /// Checkpoints on an Apple GPU.
    Metal,
    /// Checkpoints on an NVIDIA GPU.
    Cuda,
    /// Checkpoints on the CPU.
    Cpu,
    /// The first of these that is available and can run the model.
    #[default]
    Auto,
}

impl BackendDevice {
    /// All devices except `Auto`, best first.
    pub const ALL: [Self; 4] = [Self::CoreML, Self::Metal, Self::Cuda, Self::Cpu];

    /// Name in settings and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::CoreML => "coreml",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
            Self::Auto => "auto",
        }
    }

    /// The devices that this expands to, best first.
    pub fn order(&self) -> &[Self] {
        match self {
            Self::Auto => &Self::ALL,
            one => std::slice::from_ref(one),
        }
    }

    /// Resolves `Auto` to the best available device; other devices are unchanged.
    pub fn resolve(self) -> Self {
        let there = |d: &&Self| super::availability(**d).usable();
        self.order().iter().find(there).copied().unwrap_or(if self == Self::Auto { Self::Cpu } else { self })
    }
}

impl std::fmt::Display for BackendDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for BackendDevice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = Self::ALL.into_iter().chain([Self::Auto]);
        all.clone().find(|d| d.name().eq_ignore_ascii_case(text.trim())).ok_or_else(|| {
            let names: Vec<&str> = all.map(Self::name).collect();
            Error::UnknownName { what: "device", name: text.to_owned(), expected: names.join(", ") }
        })
    }
}

impl TryFrom<String> for BackendDevice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<BackendDevice> for String {
    fn from(device: BackendDevice) -> Self {
        device.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_others_are_refused_with_the_list() {
        for device in BackendDevice::ALL.into_iter().chain([BackendDevice::Auto]) {
            assert_eq!(device.to_string().parse::<BackendDevice>().expect("its own name"), device);
            let json = serde_json::to_string(&device).expect("a string");
            assert_eq!(serde_json::from_str::<BackendDevice>(&json).expect("its own JSON"), device);
        }
        assert_eq!(" CoreML ".parse::<BackendDevice>().expect("any case"), BackendDevice::CoreML);
        for bad in ["", "gpu", "cpu0"] {
            let message = bad.parse::<BackendDevice>().expect_err("no device").to_string();
            assert!(message.contains("coreml, metal, cuda, cpu, auto"), "{message}");
        }
        assert!(serde_json::from_str::<BackendDevice>("\"tpu\"").is_err());
    }

    #[test]
    fn auto_resolves_to_something_usable_and_others_to_themselves() {
        assert!(crate::backend::availability(BackendDevice::Auto.resolve()).usable());
        assert_eq!(BackendDevice::Cuda.resolve(), BackendDevice::Cuda);
    }
}
