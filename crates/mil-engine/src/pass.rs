//! One rewrite of the IR: its name, what runs before it, and the operations that it makes.

use coreml_format::program::Function;

use crate::op::OpSpec;

/// A rewrite.
pub struct Pass {
    /// Name, for options and messages.
    pub name: &'static str,
    /// Rewrites that run before it: it looks for what they make, or would take it from them.
    pub after: &'static [&'static str],
    /// Operations that no file has and that it makes.
    pub ops: &'static [OpSpec],
    /// Rewrites a function; returns how many places it changed.
    pub run: fn(&mut Function) -> usize,
}
