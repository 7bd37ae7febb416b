//! A backend: a device and its operation tables, searched in order.

use candle_core::Device;

use crate::batch::BatchRule;
use crate::op::OpSpec;
use crate::{ops, passes};

/// A device and its operation tables.
///
/// A backend for another device puts its own table before those of [`Backend::cpu`], whose operations are defined for
/// Candle tensors on any device and serve as fallback.
#[derive(Clone)]
pub struct Backend {
    /// Name, for messages.
    pub name: &'static str,
    /// Device of all tensors.
    pub device: Device,
    /// Operation tables; the first that contains a name defines it.
    pub tables: Vec<&'static [OpSpec]>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backend({:?} on {:?}, {} operations)", self.name, self.device, self.operations().count())
    }
}

impl Backend {
    /// The CPU: operations of the specification by family, those of lowering, then those of rewrites.
    pub fn cpu() -> Self {
        let of_files = ops::FAMILIES.iter().map(|(_, ops)| *ops);
        let tables =
            of_files.chain(ops::LOWERED.iter().copied()).chain(passes::ALL.iter().map(|pass| pass.ops)).collect();
        Self { name: "cpu", device: Device::Cpu, tables }
    }

    /// Iterates over all operations, including those redefined by an earlier table.
    pub fn operations(&self) -> impl Iterator<Item = &'static OpSpec> {
        self.tables.iter().flat_map(|table| table.iter())
    }

    /// Batch rule of an operation. The first row with a rule wins: the rule is a property of the operation, not of the
    /// device.
    pub(crate) fn batch(&self, name: &str) -> Option<BatchRule> {
        self.operations().filter(|op| op.name == name).find_map(|op| op.batch)
    }

    /// Finds the operation of this name.
    pub fn find(&self, name: &str) -> Option<&'static OpSpec> {
        self.operations().find(|op| op.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_table_that_has_an_operation_defines_it() {
        static OWN: &[OpSpec] = &[OpSpec::new("relu", &[], |b| b.run(|_| Ok(Vec::new())))];
        let cpu = Backend::cpu();
        let mut names: Vec<&str> = cpu.operations().map(|op| op.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "no operation stands in two tables");
        let mut backend = cpu;
        assert!(backend.find("relu").is_some_and(|op| !op.opsets.is_empty()));
        backend.tables.insert(0, OWN);
        assert!(backend.find("relu").is_some_and(|op| op.opsets.is_empty()) && backend.batch("relu").is_some());
        assert!(backend.find("engine.rotary").is_some() && backend.find("no_such_operation").is_none());
    }
}
