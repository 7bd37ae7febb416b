//! Device placement of operations, from Core ML's compute plan.

/// Kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// The GPU.
    Gpu,
    /// The Neural Engine.
    NeuralEngine,
    /// A kind unknown to this version.
    Other,
}

impl DeviceKind {
    /// Kind denoted by a Core ML class.
    pub fn from_class(name: &str) -> Self {
        match name {
            "MLCPUComputeDevice" => Self::Cpu,
            "MLGPUComputeDevice" => Self::Gpu,
            "MLNeuralEngineComputeDevice" => Self::NeuralEngine,
            _ => Self::Other,
        }
    }

    /// Name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Gpu => "GPU",
            Self::NeuralEngine => "Neural Engine",
            Self::Other => "other",
        }
    }
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A processor of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Kind of processor.
    pub kind: DeviceKind,
    /// Number of cores of a Neural Engine.
    pub cores: Option<usize>,
}

/// Device placement of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationReport {
    /// Function of the model.
    pub function: String,
    /// Type of the operation, such as `ios18.conv`.
    pub operator: String,
    /// Names of its outputs, which identify it in the program.
    pub outputs: Vec<String>,
    /// Core ML's preferred processor; `None` for constants and other operations that do not run.
    pub preferred: Option<DeviceKind>,
    /// Processors that could run it.
    pub supported: Vec<DeviceKind>,
    /// Fraction of the function's cost, 0 to 1; `None` if Core ML reports none.
    pub cost: Option<f64>,
}

/// What became of the arrays that outputs are to be written into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackingUse {
    /// Outputs that Core ML wrote into the given array.
    pub written: u64,
    /// Outputs that it returned in an array of its own instead.
    pub replaced: u64,
    /// Outputs that were handed on to another model in the array into which Core ML wrote them.
    pub handed: u64,
    /// The error for which the arrays are no longer offered.
    pub refused: Option<String>,
}

/// Number of operations and fraction of the cost per kind of processor, most operations first.
pub fn by_device(operations: &[OperationReport]) -> Vec<(DeviceKind, usize, f64)> {
    let mut sums: Vec<(DeviceKind, usize, f64)> = Vec::new();
    for (kind, cost) in operations.iter().filter_map(|op| Some((op.preferred?, op.cost.unwrap_or(0.0)))) {
        match sums.iter_mut().find(|s| s.0 == kind) {
            Some(sum) => {
                sum.1 += 1;
                sum.2 += cost;
            }
            None => sums.push((kind, 1, cost)),
        }
    }
    sums.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_summed_by_device() {
        let op = |preferred, cost| OperationReport {
            function: "main".to_owned(),
            operator: "ios17.add".to_owned(),
            outputs: vec!["y".to_owned()],
            preferred,
            supported: vec![DeviceKind::Cpu],
            cost,
        };
        let all = [
            op(None, None),
            op(Some(DeviceKind::Cpu), None),
            op(Some(DeviceKind::NeuralEngine), Some(0.25)),
            op(Some(DeviceKind::NeuralEngine), Some(0.5)),
        ];
        assert_eq!(by_device(&all), [(DeviceKind::NeuralEngine, 2, 0.75), (DeviceKind::Cpu, 1, 0.0)]);
        assert_eq!(by_device(&[]), []);
    }

    #[test]
    fn classes_are_told_apart() {
        assert_eq!(DeviceKind::from_class("MLGPUComputeDevice"), DeviceKind::Gpu);
        assert_eq!(DeviceKind::from_class("MLNeuralEngineComputeDevice").to_string(), "Neural Engine");
        assert_eq!(DeviceKind::from_class("MLQuantumComputeDevice"), DeviceKind::Other);
    }
}
