//! MIL text: the form of a program in a compiled model (`.mlmodelc/model.mil`).
//!
//! [`parse`] reads a [`Program`](crate::program::Program), [`print()`] writes one. Apple's compiler writes two
//! dialects: up to opset iOS17 every scalar is a tensor of rank 0 (`tensor<fp16, []>(0x1p-1)`), from iOS18 scalars are
//! bare (`fp16(0x1p-1)`). The parser accepts both, also mixed, and tolerates many omissions; error positions are exact.
//!
//! Modules: `lexer` (tokens), `parser` (structure), `types`, `literal` (typed values), `number` (number syntax),
//! `printer`.

mod lexer;
mod literal;
mod number;
mod parser;
mod printer;
mod types;

pub use parser::parse;
pub use printer::{Dialect, print, print_as};

/// A syntax error and its position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: expected {expected}, found {found}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Expected syntax.
    pub expected: String,
    /// Syntax found.
    pub found: String,
}

/// Maximum nesting of types, values and blocks.
const MAX_DEPTH: usize = 64;
