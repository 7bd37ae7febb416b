//! A rewrite of the IR: its name, its predecessors and the operations it produces.

use coreml_format::program::Function;

use crate::op::OpSpec;

/// A rewrite.
pub struct Pass {
    /// Name, for options and messages.
    pub name: &'static str,
    /// Rewrites that must run first, because it matches their results or would break their patterns.
    pub after: &'static [&'static str],
    /// Internal operations that it produces.
    pub ops: &'static [OpSpec],
    /// Rewrites a function; returns the number of rewritten places.
    pub run: fn(&mut Function) -> usize,
}
