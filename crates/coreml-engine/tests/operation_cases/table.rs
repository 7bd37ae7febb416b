//! Checks `docs/operations.md` against the operation table; `UPDATE_DOCS=1` regenerates it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::path::Path;

use coreml_engine::backend::Backend;
use coreml_engine::ops::FAMILIES;
use coreml_format::dtype::DataType;
use coreml_format::program::{Binding, Block, NamedType};

use crate::cases::all;

/// Number of cases of an operation, and the element types of their tensors.
#[derive(Default)]
struct Seen {
    cases: usize,
    dtypes: BTreeSet<DataType>,
}

type Types<'a> = HashMap<&'a str, DataType>;

fn count<'a>(block: &'a Block, types: &mut Types<'a>, into: &mut HashMap<&'a str, Seen>) {
    let tensor = |v: &'a NamedType| Some((v.name.as_str(), v.ty.tensor()?.dtype));
    types.extend(block.inputs.iter().filter_map(tensor));
    for op in &block.operations {
        types.extend(op.outputs.iter().filter_map(tensor));
        let seen = into.entry(op.kind.as_str()).or_default();
        seen.cases += 1;
        // Its data operands, not the parameters.
        let data =
            ["x", "y", "a", "b", "values", "data", "query", "input", "indices", "quantized_data", "nonzero_data"];
        let taken = op.inputs.iter().filter(|(n, _)| data.contains(&n.as_str())).flat_map(|(_, a)| a.bindings());
        seen.dtypes.extend(taken.filter_map(|b| match b {
            Binding::Name(n) => types.get(n.as_str()).copied(),
            Binding::Value(v) => Some(v.ty.tensor()?.dtype),
        }));
        seen.dtypes.extend(op.outputs.iter().filter_map(tensor).map(|(_, d)| d));
        op.blocks.iter().for_each(|b| count(b, types, into));
    }
}

fn table() -> String {
    let mut text = String::from(
        "# Operations\n\nThe operations of ML Programs that the portable engine supports besides `const`, by the chapters of \
         coremltools' op set.\n\nGenerated from the table in `crates/coreml-engine/src/ops.rs` \
         (`UPDATE_DOCS=1 cargo test --release -p coreml-engine --test operation_cases`). *Cases* is the number of programs in \
         `conformance/operations` that compare the operation with PyTorch or NumPy, in fp32 and fp16; operations without \
         cases (random ones, `classify`, `conv_quantized`) have tests of their own. Floats are computed in f32 and rounded \
         to the declared type, integers in 64 bits. *Kernel* is the CPU kernel of the operation, `general` \
         stands for none of its own. Rewrites fuse further operations into ones with their own kernels (attention, norms, rotary \
         embedding, gates, products that share an input; `bench --profile` shows them as `engine.*`). Results of \
         coremltools' own tests: [conformance.md](conformance.md).\n",
    );
    let all = all();
    let mut seen = HashMap::new();
    for function in all.iter().flat_map(|c| c.program.functions.values()) {
        let inputs = function.inputs.iter().filter_map(|i| Some((i.name.as_str(), i.ty.tensor()?.dtype)));
        count(&function.block, &mut inputs.collect(), &mut seen);
    }
    let mut total = 0;
    for (family, ops) in FAMILIES {
        let _ = write!(
            text,
            "\n## {family}\n\n| operation | opsets | cases | types in them | kernel |\n|---|---|---|---|---|\n"
        );
        for op in *ops {
            let opsets: Vec<&str> = op.opsets.iter().map(|o| o.text_name()).collect();
            let (own, dtypes) =
                seen.get(op.name).map_or((0, Vec::new()), |s| (s.cases, s.dtypes.iter().map(|d| d.name()).collect()));
            let kernel = op.kernel.unwrap_or("general");
            let (opsets, dtypes) = (opsets.join(", "), dtypes.join(", "));
            let _ = writeln!(text, "| `{}` | {opsets} | {own} | {dtypes} | {kernel} |", op.name);
            total += 1;
        }
    }
    let _ = write!(text, "\n{total} operations.\n");
    text
}

#[test]
fn the_documented_operations_are_those_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, table()).expect("written");
    }
    // A checkout may have other line endings.
    let found = std::fs::read_to_string(&path).expect("docs/operations.md").replace("\r\n", "\n");
    assert_eq!(found, table(), "docs/operations.md is not up to date");
}

#[test]
fn every_operation_stands_in_the_table_once() {
    let cpu = Backend::cpu();
    let mut names: Vec<&str> = cpu.operations().map(|op| op.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(names.iter().all(|n| cpu.find(n).is_some()));
    assert!(cpu.find("no_such_operation").is_none());
}
