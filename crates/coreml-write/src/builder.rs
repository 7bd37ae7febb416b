//! A typed builder for ML Programs: operations are checked against the table of operations as they are added.

pub(crate) mod arg;
mod call;
mod check;
mod control;
mod error;
mod function;
mod package;
pub mod table;

pub use arg::{Arg, Var};
pub use call::OpCall;
pub use check::{check, is_inferred};
pub use error::BuildError;
pub(crate) use function::show;
pub use function::{Extents, FunctionBuilder, sweep};
pub use package::PackageBuilder;

/// Specification version of an opset.
pub fn specification_version(opset: coreml_format::program::Opset) -> i32 {
    use coreml_format::program::Opset::*;
    match opset {
        Ios15 => 6,
        Ios16 => 7,
        Ios17 => 8,
        Ios18 => 9,
        Ios26 => 10,
    }
}
