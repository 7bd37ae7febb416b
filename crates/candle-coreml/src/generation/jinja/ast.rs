//! Parsed templates.

use std::sync::Arc;

use super::value::Value;

/// A statement and its first line.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Statement,
}

#[derive(Debug)]
pub(super) enum Statement {
    Text(Box<str>),
    Emit(Expr),
    /// Conditions with their bodies, and the else body.
    If(Vec<(Expr, Vec<Node>)>, Vec<Node>),
    For(Box<For>),
    Set(Target, Expr),
    SetBlock(Target, Vec<Filter>, Vec<Node>),
    Macro(Arc<Macro>),
    /// A call of a macro with a body, callable as `caller`.
    Call(Expr, Arc<Macro>),
    Filtered(Vec<Filter>, Vec<Node>),
    With(Vec<(Target, Expr)>, Vec<Node>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) body: Vec<Node>,
    /// Body for an empty sequence.
    pub(super) otherwise: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Arc<str>,
    pub(super) parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub(super) body: Vec<Node>,
    /// True if the body names `varargs` or `kwargs`; otherwise such arguments are errors.
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
}

/// Target of an assignment.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    Attribute(Arc<str>, Arc<str>),
    Several(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) name: Arc<str>,
    pub(super) arguments: Vec<Argument>,
}

/// An argument, or several in one value.
#[derive(Debug)]
pub(super) struct Argument {
    pub(super) kind: ArgumentKind,
    pub(super) value: Expr,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArgumentKind {
    Positional,
    Named(Arc<str>),
    /// `*value`: each element is an argument.
    Spread,
    /// `**value`: each entry is a named argument.
    SpreadNamed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Debug)]
pub(super) enum Expr {
    Constant(Value),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    Binary(Binary, Box<(Expr, Expr)>),
    Concat(Vec<Expr>),
    And(Box<(Expr, Expr)>),
    Or(Box<(Expr, Expr)>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Value, test, negated.
    Test(Box<Expr>, Filter, bool),
    Filter(Box<Expr>, Filter),
    Call(Box<Expr>, Vec<Argument>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<(Expr, Expr)>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    /// Condition, value, else value.
    If(Box<(Expr, Expr, Option<Expr>)>),
}
