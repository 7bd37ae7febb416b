//! Where the operations of a model run, as Core ML's compute plan says.

/// A kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// The GPU.
    Gpu,
    /// The Neural Engine.
    NeuralEngine,
    /// One that this version does not know.
    Other,
}

impl DeviceKind {
    /// The kind that a class of Core ML stands for.
    pub fn from_class(name: &str) -> Self {
        match name {
            "MLCPUComputeDevice" => Self::Cpu,
            "MLGPUComputeDevice" => Self::Gpu,
            "MLNeuralEngineComputeDevice" => Self::NeuralEngine,
            _ => Self::Other,
        }
    }

    /// Name in reports.
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
    /// Its kind.
    pub kind: DeviceKind,
    /// Cores of a Neural Engine.
    pub cores: Option<usize>,
}

/// Where one operation runs.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationReport {
    /// Function of the model.
    pub function: String,
    /// Type of the operation, such as `ios18.conv`.
    pub operator: String,
    /// Names of its outputs, by which it is found in the program.
    pub outputs: Vec<String>,
    /// The processor that Core ML prefers for it; `None` for constants and other operations that do not run.
    pub preferred: Option<DeviceKind>,
    /// Processors that could run it.
    pub supported: Vec<DeviceKind>,
    /// Its share of the function's cost, between 0 and 1; `None` where Core ML gives none.
    pub cost: Option<f64>,
}

/// Operations and share of the cost on each kind of processor, most operations first.
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
