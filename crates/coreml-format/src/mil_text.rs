//! MIL text: the form that a program has in a compiled model (`.mlmodelc/model.mil`).
//!
//! [`parse`] reads it into a [`Program`](crate::program::Program), [`print()`] writes one. Apple's compiler writes two dialects: until opset
//! iOS17 every scalar is a tensor of rank 0 (`tensor<fp16, []>(0x1p-1)`), from iOS18 on scalars stand bare
//! (`fp16(0x1p-1)`). The parser takes either, mixed, and is generous about what may be left out; positions in its
//! errors are exact.
//!
//! `lexer` makes tokens, `parser` the structure, `types` the types, `literal` typed values, `number` the spelling of
//! numbers, `printer` the way back.

mod lexer;
mod literal;
mod number;
mod parser;
mod printer;
mod types;

pub use parser::parse;
pub use printer::{Dialect, print, print_as};

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: expected {expected}, found {found}")]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Most levels of types, values and blocks inside each other.
const MAX_DEPTH: usize = 64;
