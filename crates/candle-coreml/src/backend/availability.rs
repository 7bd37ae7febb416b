//! Availability of devices in this build and on this machine.

use candle_core::Device;
use serde::Serialize;

use super::BackendDevice;
use crate::engine::native_is_available;

/// Availability of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Availability {
    /// The device.
    pub device: BackendDevice,
    /// True if this build supports it.
    pub compiled: bool,
    /// True if the machine has it.
    pub present: bool,
    /// Its description, or the reason why it is unusable.
    pub detail: String,
}

impl Availability {
    /// Returns true if it can be used.
    pub fn usable(&self) -> bool {
        self.compiled && self.present
    }
}

/// Probes a device. `Auto` is the first usable one.
pub fn availability(device: BackendDevice) -> Availability {
    let missing = |feature: &str| Availability {
        device,
        compiled: false,
        present: false,
        detail: format!("this build has no {device} backend; build with the feature {feature}"),
    };
    let opened = |result: candle_core::Result<Device>| match result {
        Ok(_) => Availability { device, compiled: true, present: true, detail: "device 0".to_owned() },
        Err(e) => Availability { device, compiled: true, present: false, detail: format!("no {device} device: {e}") },
    };
    let candle = cfg!(feature = "candle-models");
    match device {
        BackendDevice::Auto => {
            let all = BackendDevice::ALL.map(availability);
            let [.., cpu] = &all;
            let best = all.iter().find(|a| a.usable()).unwrap_or(cpu);
            best.clone()
        }
        // The portable engine runs everywhere.
        BackendDevice::CoreML => {
            let engine = if native_is_available() { "Apple's Core ML" } else { "the portable engine" };
            Availability { device, compiled: true, present: true, detail: engine.to_owned() }
        }
        _ if !candle => missing("candle-models"),
        BackendDevice::Metal if !candle_core::utils::metal_is_available() => missing("metal"),
        BackendDevice::Metal => opened(Device::new_metal(0)),
        BackendDevice::Cuda if !candle_core::utils::cuda_is_available() => missing("cuda"),
        BackendDevice::Cuda => opened(Device::new_cuda(0)),
        BackendDevice::Cpu => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            Availability { device, compiled: true, present: true, detail: format!("{threads} threads") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_used_says_why() {
        for device in BackendDevice::ALL {
            let a = availability(device);
            assert_eq!(a.device, device);
            assert!(!a.detail.is_empty());
            assert!(a.compiled || !a.present, "{a:?}");
            if !a.compiled {
                assert!(a.detail.contains("feature"), "{a:?}");
            }
        }
        assert!(availability(BackendDevice::CoreML).usable());
        assert!(availability(BackendDevice::Auto).usable());
        assert_eq!(availability(BackendDevice::Cpu).usable(), cfg!(feature = "candle-models"));
    }
}
