//! Processors available to Core ML.

use objc2::runtime::{AnyClass, AnyObject, NSObjectProtocol, ProtocolObject};
use objc2_core_ml::{MLComputeDeviceProtocol, MLModel, MLNeuralEngineComputeDevice};

use super::available::{Api, require};
use crate::error::NativeError;
use crate::report::{DeviceInfo, DeviceKind};

/// Kind of a device. Looks classes up by name: a system that lacks a class has no such device.
pub(super) fn kind(device: &ProtocolObject<dyn MLComputeDeviceProtocol>) -> DeviceKind {
    let classes = [c"MLCPUComputeDevice", c"MLGPUComputeDevice", c"MLNeuralEngineComputeDevice"];
    let mut known = classes.into_iter().filter_map(|name| AnyClass::get(name));
    let class = known.find(|class| device.isKindOfClass(class));
    class.and_then(|c| c.name().to_str().ok()).map_or(DeviceKind::Other, DeviceKind::from_class)
}

/// Processors of this machine available to Core ML.
///
/// # Errors
/// [`NativeError::Unavailable`] before macOS 14 and iOS 17.
pub fn devices() -> Result<Vec<DeviceInfo>, NativeError> {
    require(Api::Devices)?;
    objc2::rc::autoreleasepool(|_| {
        // Not `MLAllComputeDevices()`: linking a function that an older system lacks would keep the whole program from
        // starting there.
        // SAFETY: rule 3; the method takes no arguments.
        let all = unsafe { MLModel::availableComputeDevices() };
        Ok(all.iter().map(|device| DeviceInfo { kind: kind(&device), cores: cores(&device) }).collect())
    })
}

fn cores(device: &ProtocolObject<dyn MLComputeDeviceProtocol>) -> Option<usize> {
    if kind(device) != DeviceKind::NeuralEngine {
        return None;
    }
    let object: &AnyObject = device.as_ref();
    let engine = object.downcast_ref::<MLNeuralEngineComputeDevice>()?;
    // SAFETY: a getter of an immutable object.
    usize::try_from(unsafe { engine.totalCoreCount() }).ok()
}
