//! Names of values in a program: those that a block defines, and other ones in their place.

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Block};

/// The names that a block defines, those of nested blocks included.
pub(crate) fn defined<'b>(block: &'b Block, names: &mut Vec<&'b str>) {
    names.extend(block.inputs.iter().map(|i| i.name.as_str()));
    for op in &block.operations {
        names.extend(op.outputs.iter().map(|o| o.name.as_str()));
        op.blocks.iter().for_each(|b| defined(b, names));
    }
}

/// How often a block uses each name, in nested blocks and as a result, too.
pub(crate) fn uses<'b>(block: &'b Block, counts: &mut HashMap<&'b str, usize>) {
    let names = block.operations.iter().flat_map(|op| op.inputs.values()).flat_map(Argument::bindings);
    let names = names.filter_map(|b| match b {
        Binding::Name(name) => Some(name),
        Binding::Value(_) => None,
    });
    names.chain(&block.outputs).for_each(|name| *counts.entry(name).or_default() += 1);
    block.operations.iter().flat_map(|op| &op.blocks).for_each(|nested| uses(nested, counts));
}

/// Gives one name in place of another wherever a block defines or uses it, nested blocks included.
pub(crate) fn rename(block: &mut Block, from: &str, to: &str) {
    let set = |name: &mut String| {
        if name == from {
            to.clone_into(name);
        }
    };
    block.outputs.iter_mut().for_each(set);
    for op in &mut block.operations {
        for argument in op.inputs.values_mut() {
            let bindings = match argument {
                Argument::One(b) => std::slice::from_mut(b),
                Argument::Many(all) => all.as_mut_slice(),
            };
            for binding in bindings {
                if let Binding::Name(name) = binding {
                    set(name);
                }
            }
        }
        op.outputs.iter_mut().for_each(|o| set(&mut o.name));
        op.blocks.iter_mut().for_each(|b| rename(b, from, to));
    }
}
