//! Where operations run: a device and the tables of operations, looked through in order.

use candle_core::Device;

use crate::batch::BatchRule;
use crate::op::OpSpec;
use crate::{ops, passes};

/// A device and its operations.
///
/// A backend for another device puts a table of its own before those of [`Backend::cpu`], whose operations have a definition
/// on Candle tensors wherever they lie: what the first table lacks, the next ones run.
#[derive(Clone)]
pub struct Backend {
    /// Name, for messages.
    pub name: &'static str,
    /// Device of all tensors.
    pub device: Device,
    /// Tables of operations; the first one that has a name defines it.
    pub tables: Vec<&'static [OpSpec]>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backend({:?} on {:?}, {} operations)", self.name, self.device, self.operations().count())
    }
}

impl Backend {
    /// The CPU: the operations of files by family, those of lowering, then those of rewrites.
    pub fn cpu() -> Self {
        let of_files = ops::FAMILIES.iter().map(|(_, ops)| *ops);
        let tables = of_files.chain([ops::LOWERED]).chain(passes::ALL.iter().map(|pass| pass.ops)).collect();
        Self { name: "cpu", device: Device::Cpu, tables }
    }

    /// All operations, also those that an earlier table redefines.
    pub fn operations(&self) -> impl Iterator<Item = &'static OpSpec> {
        self.tables.iter().flat_map(|table| table.iter())
    }

    /// How the operation of this name treats the rows of a batch: as the first row with an answer says, since that is a fact
    /// about the operation and not about a device.
    pub(crate) fn batch(&self, name: &str) -> Option<BatchRule> {
        self.operations().filter(|op| op.name == name).find_map(|op| op.batch)
    }

    /// The operation of this name.
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
