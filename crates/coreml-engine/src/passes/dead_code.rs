//! Removes operations whose results are unused.

use std::collections::HashSet;

use coreml_format::program::{Argument, Binding, Block, Function, Operation};

use super::state_access::written;
use crate::pass::Pass;

pub(super) const PASS: Pass = Pass { name: "dead_code", after: &[], ops: &[], run };

fn has_effect(op: &Operation) -> bool {
    written(op).is_some() || op.outputs.is_empty()
}

fn uses(op: &Operation, live: &mut HashSet<String>) {
    for binding in op.inputs.values().flat_map(Argument::bindings) {
        if let Binding::Name(n) = binding {
            live.insert(n.clone());
        }
    }
    for block in &op.blocks {
        live.extend(block.outputs.iter().cloned());
        block.operations.iter().for_each(|op| uses(op, live));
    }
}

pub(super) fn run(function: &mut Function) -> usize {
    let Block { operations, outputs, .. } = &mut function.block;
    let mut live: HashSet<String> = outputs.iter().cloned().collect();
    let mut keep = vec![false; operations.len()];
    for (i, op) in operations.iter().enumerate().rev() {
        keep[i] = has_effect(op) || !op.blocks.is_empty() || op.outputs.iter().any(|o| live.contains(&o.name));
        if keep[i] {
            uses(op, &mut live);
        }
    }
    let before = operations.len();
    let mut flags = keep.into_iter();
    operations.retain(|_| flags.next().unwrap_or(true));
    before - operations.len()
}
