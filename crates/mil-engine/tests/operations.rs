//! `docs/operations.md` is the operation table; set `UPDATE_DOCS=1` to write it anew.

use std::fmt::Write;
use std::path::Path;

use mil_engine::ops::FAMILIES;

fn table() -> String {
    let mut text = String::from(
        "# Operations\n\nThe operations of ML Programs that the portable engine executes, by the chapters of coremltools' op set. \
         Beside them: `const`.\n\nMade from the table in `crates/mil-engine/src/ops.rs` \
         (`UPDATE_DOCS=1 cargo test --release -p mil-engine --test operations`).\n",
    );
    let mut count = 0;
    for (family, ops) in FAMILIES {
        if *family == "fused" {
            continue;
        }
        let _ = write!(text, "\n## {family}\n\n| operation | opsets |\n|---|---|\n");
        for op in *ops {
            let opsets: Vec<&str> = op.opsets.iter().map(|o| o.text_name()).collect();
            let _ = writeln!(text, "| `{}` | {} |", op.name, opsets.join(", "));
            count += 1;
        }
    }
    let _ = write!(text, "\n{count} operations.\n");
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
