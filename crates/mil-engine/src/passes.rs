//! Rewrites of a function before it is planned. Each preserves results within the tolerance of the
//! program's element types; with none of them the engine is slower but right.

use coreml_format::program::Function;

pub(crate) use rows::open as open_rows;

mod attend;
mod attention;
mod dead_code;
mod finish;
mod gain;
mod gate;
mod graph;
mod hard_swish;
mod permute;
mod rms_norm;
mod rotary;
mod rows;
mod shared_input;
mod softmax;
mod state_access;

/// A rewrite: returns how many places it changed.
pub struct Pass {
    /// Name, for options and messages.
    pub name: &'static str,
    /// What it does to a function.
    pub run: fn(&mut Function) -> usize,
}

/// All rewrites, in the order in which they run.
pub const ALL: &[Pass] = &[
    Pass { name: "softmax", run: softmax::run },
    Pass { name: "rms_norm", run: rms_norm::run },
    Pass { name: "gain", run: gain::run },
    Pass { name: "state_access", run: state_access::run },
    Pass { name: "attention", run: attention::run },
    Pass { name: "attend", run: attend::run },
    Pass { name: "rotary", run: rotary::run },
    Pass { name: "gate", run: gate::run },
    Pass { name: "hard_swish", run: hard_swish::run },
    Pass { name: "finish", run: finish::run },
    Pass { name: "shared_input", run: shared_input::run },
    Pass { name: "permute", run: permute::run },
    Pass { name: "dead_code", run: dead_code::run },
];

/// Which rewrites run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassSet {
    names: Vec<&'static str>,
}

impl PassSet {
    /// Every rewrite.
    pub fn all() -> Self {
        Self { names: ALL.iter().map(|p| p.name).collect() }
    }

    /// No rewrite.
    pub fn none() -> Self {
        Self { names: Vec::new() }
    }

    /// One rewrite, by its name in [`ALL`]; none of another name.
    pub fn only(name: &str) -> Self {
        Self { names: ALL.iter().map(|p| p.name).filter(|n| *n == name).collect() }
    }

    /// This set without one rewrite.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.names.retain(|n| *n != name);
        self
    }

    /// Applies the rewrites of this set.
    pub fn run(&self, function: &mut Function) {
        for pass in ALL.iter().filter(|p| self.names.contains(&p.name)) {
            let changed = (pass.run)(function);
            tracing::debug!(pass = pass.name, changed, "rewrote");
        }
    }
}
