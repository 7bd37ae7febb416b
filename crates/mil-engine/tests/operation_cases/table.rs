//! `docs/operations.md` is the operation table; set `UPDATE_DOCS=1` to write it anew.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use coreml_format::program::Block;
use mil_engine::ops::FAMILIES;

use crate::cases::all;

fn count(block: &Block, into: &mut HashMap<String, usize>) {
    for op in &block.operations {
        *into.entry(op.kind.clone()).or_default() += 1;
        op.blocks.iter().for_each(|b| count(b, into));
    }
}

fn table() -> String {
    let mut text = String::from(
        "# Operations\n\nThe operations of ML Programs that the portable engine executes, by the chapters of coremltools' op set. \
         Beside them: `const`.\n\nMade from the table in `crates/mil-engine/src/ops.rs` \
         (`UPDATE_DOCS=1 cargo test --release -p mil-engine --test operation_cases`). *Cases* is the number of programs in \
         `conformance/operations` in which the operation is compared with PyTorch or NumPy, in fp32 and fp16; operations \
         without (random ones, `classify`, `conv_quantized`) are tested by distribution or by hand. Floats are computed in f32 and \
         rounded to the declared type; integers in 64 bits. coremltools' own tests of the operations: \
         [conformance.md](conformance.md).\n",
    );
    let mut cases = HashMap::new();
    all().iter().flat_map(|c| c.program.functions.values()).for_each(|f| count(&f.block, &mut cases));
    let mut total = 0;
    for (family, ops) in FAMILIES {
        if *family == "fused" {
            continue;
        }
        let _ = write!(text, "\n## {family}\n\n| operation | opsets | cases |\n|---|---|---|\n");
        for op in *ops {
            let opsets: Vec<&str> = op.opsets.iter().map(|o| o.text_name()).collect();
            let own = cases.get(op.name).copied().unwrap_or(0);
            let _ = writeln!(text, "| `{}` | {} | {own} |", op.name, opsets.join(", "));
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
    let mut names: Vec<&str> = FAMILIES.iter().flat_map(|(_, ops)| ops.iter().map(|op| op.name)).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(names.iter().all(|n| mil_engine::ops::find(n).is_some()));
    assert!(mil_engine::ops::find("no_such_operation").is_none());
}
