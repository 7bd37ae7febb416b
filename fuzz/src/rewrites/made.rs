//! A finished program: its results, open extents and inputs.

use coreml_format::dtype::DataType;
use coreml_format::program::{Binding, Block, Dim, Function, NamedType, Opset, Program, TensorType, ValueType};
use indexmap::IndexMap;

use super::maker::{Data, Input, Maker};

/// A program and its inputs.
pub struct Made {
    pub program: Program,
    pub inputs: Vec<Input>,
    pub rows: Vec<(String, usize)>,
    /// Unconsumed bytes, used by the runs.
    pub rest: Vec<u8>,
}

impl Maker<'_> {
    /// Finishes the program; some of its values are also returned or used elsewhere.
    pub fn finish(mut self) -> Made {
        let mut outputs: Vec<String> = Vec::new();
        let values = std::mem::take(&mut self.values);
        let last = values.len().saturating_sub(1);
        for (i, value) in values.iter().enumerate() {
            let Binding::Name(name) = &value.binding else { continue };
            if i == last || self.bytes.rare(16) {
                outputs.push(name.clone());
            }
            if self.bytes.rare(24) {
                let used = if self.bytes.below(3) == 0 { self.branch(value, None) } else { self.unary("relu", value) };
                if let Binding::Name(used) = used.binding {
                    outputs.push(used);
                }
            }
        }
        let inputs: Vec<NamedType> = self
            .inputs
            .iter()
            .map(|input| {
                let dtype = if matches!(input.data, Data::Floats(_)) { self.dtype } else { DataType::I32 };
                let ty = ValueType::Tensor(TensorType::fixed(dtype, &input.shape));
                NamedType { name: input.name.clone(), ty }
            })
            .chain(self.states.iter().cloned())
            .collect();
        let opset = if self.bytes.below(4) == 3 { Opset::Ios18 } else { Opset::Ios17 };
        let opset = if self.states.is_empty() { opset } else { Opset::Ios18 };
        let block = Block { inputs: Vec::new(), operations: self.ops, outputs };
        let mut function = Function { opset, inputs, block, attributes: IndexMap::new() };
        if self.bytes.rare(12) {
            let open = self.bytes.pick(&[2, 3, 4, 5]);
            flexible(&mut function, |_, n| n == open);
        } else if self.bytes.rare(24) {
            let every = 2 + self.bytes.below(4);
            flexible(&mut function, |count, _| count % every == 0);
        }
        let mut program = Program::default();
        program.functions.insert("main".to_owned(), function);
        let rest: Vec<u8> = self.bytes.rest();
        Made { program, inputs: self.inputs, rows: self.rows, rest }
    }
}

/// Declares some extents of inputs and results as unknown.
fn flexible(function: &mut Function, open: impl Fn(usize, usize) -> bool) {
    let mut count = 0;
    let results = function.block.operations.iter_mut().filter(|op| op.kind != "const").flat_map(|op| &mut op.outputs);
    for named in function.inputs.iter_mut().chain(results) {
        let ValueType::Tensor(tensor) = &mut named.ty else { continue };
        for dim in &mut tensor.shape {
            count += 1;
            if dim.fixed().is_some_and(|n| open(count, n)) {
                *dim = Dim::Unknown;
            }
        }
    }
}
