//! Rewrites of a function before planning. Each preserves results within the tolerance of the program's element types;
//! without them the engine is slower but still correct.

use coreml_format::program::Function;

pub use crate::pass::Pass;
pub(crate) use dynamic_batch::open as open_batch;

mod cached_attention;
mod dead_code;
mod dynamic_batch;
mod fold_rms_gain;
mod from_end;
mod fuse_epilogue;
mod hard_swish;
mod merge_shared_input_products;
mod permute;
mod rms_norm;
mod rotary;
mod sdpa;
mod silu_mul;
mod slice_of_slice;
mod softmax;
pub(crate) mod state_access;
mod state_shift;

/// All rewrites in execution order; each comes after those in its [`Pass::after`].
pub const ALL: &[Pass] = &[
    softmax::PASS,
    rms_norm::PASS,
    fold_rms_gain::PASS,
    slice_of_slice::PASS,
    state_access::PASS,
    state_shift::PASS,
    cached_attention::PASS,
    sdpa::PASS,
    rotary::PASS,
    silu_mul::PASS,
    hard_swish::PASS,
    from_end::PASS,
    fuse_epilogue::PASS,
    merge_shared_input_products::PASS,
    permute::PASS,
    dead_code::PASS,
];

/// A set of rewrites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassSet {
    names: Vec<&'static str>,
}

impl PassSet {
    /// All rewrites.
    pub fn all() -> Self {
        Self { names: ALL.iter().map(|p| p.name).collect() }
    }

    /// No rewrites.
    pub fn none() -> Self {
        Self { names: Vec::new() }
    }

    /// The rewrite with this name in [`ALL`]; empty if there is none.
    pub fn only(name: &str) -> Self {
        Self { names: ALL.iter().map(|p| p.name).filter(|n| *n == name).collect() }
    }

    /// Returns this set without the named rewrite.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.names.retain(|n| *n != name);
        self
    }

    /// Runs the rewrites of this set.
    pub fn run(&self, function: &mut Function) {
        for pass in ALL.iter().filter(|p| self.names.contains(&p.name)) {
            let changed = (pass.run)(function);
            tracing::debug!(pass = pass.name, changed, "rewrote");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rewrite_stands_behind_those_that_it_needs() {
        for (i, pass) in ALL.iter().enumerate() {
            for name in pass.after {
                assert!(ALL[..i].iter().any(|p| p.name == *name), "`{}` stands before `{name}`", pass.name);
            }
            assert!(ALL[..i].iter().all(|p| p.name != pass.name), "two rewrites are called `{}`", pass.name);
            assert!(pass.ops.iter().all(crate::op::OpSpec::is_internal), "`{}` makes what files have", pass.name);
        }
        assert_eq!(ALL.last().map(|pass| pass.name), Some("dead_code"), "unused operations go last");
    }
}
