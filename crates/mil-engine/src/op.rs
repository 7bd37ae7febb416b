//! One operation of the table: its name, the opsets that define it, how it is built, and all else that is known of it.

use coreml_format::program::{Operation, Opset};

use crate::batch::{self, BatchRule};
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::graph::Graph;
use crate::planned::Run;
use crate::value::Value;

/// How an operation comes to its result.
#[derive(Clone, Copy)]
pub enum OpKind {
    /// Built once, run in every prediction.
    Run(fn(&OpBuilder<'_>) -> Result<Run, OpError>),
    /// A constant that is made at load time.
    Constant(fn(&OpBuilder<'_>) -> Result<Value, OpError>),
}

/// An activation as the epilogue of a product: its name there (`ops/epilogue.rs`) and its parameters; none where an operation
/// is another one, such as `gelu` in another mode.
pub(crate) type Fuse = for<'b> fn(&Graph<'b>, &'b Operation) -> Option<(&'static str, Vec<(&'static str, f64)>)>;

/// How the names of operations begin that rewrites make and no file has.
pub(crate) const INTERNAL: &str = "engine.";

/// One operation of the table.
#[derive(Clone, Copy)]
pub struct OpSpec {
    /// Name in programs.
    pub name: &'static str,
    /// Opsets that define or redefine it; the first is the one that introduced it.
    pub opsets: &'static [Opset],
    /// OpBuilder function.
    pub kind: OpKind,
    /// Whether it depends on its inputs alone, so that it can be run at load time when they are constant.
    pub pure: bool,
    /// Its own kernel, in words for the documentation.
    pub kernel: Option<&'static str>,
    /// How it treats the rows of a batch; with none the batch of a function that has it stays fixed.
    pub(crate) batch: Option<BatchRule>,
    /// How it joins the product before it, if it is an activation that kernels compute in registers.
    pub(crate) fuse: Option<Fuse>,
    /// The parameter that names the state it writes.
    pub(crate) writes: Option<&'static str>,
}

impl OpSpec {
    /// A pure operation.
    pub const fn new(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        let kind = OpKind::Run(build);
        Self { name, opsets, kind, pure: true, kernel: None, batch: None, fuse: None, writes: None }
    }

    /// A pure operation that works element by element.
    pub const fn elementwise(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        Self::new(name, opsets, build).batch(batch::elementwise)
    }

    /// The same, compiled for the widest vectors.
    pub const fn vectorized(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        Self::elementwise(name, opsets, build).kernel(VECTORIZED)
    }

    /// An operation that must run in every prediction: random numbers, states.
    pub const fn impure(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        let mut op = Self::new(name, opsets, build);
        op.pure = false;
        op
    }

    /// An operation that makes a constant.
    pub const fn constant(
        name: &'static str,
        opsets: &'static [Opset],
        make: fn(&OpBuilder<'_>) -> Result<Value, OpError>,
    ) -> Self {
        let kind = OpKind::Constant(make);
        Self { name, opsets, kind, pure: true, kernel: None, batch: None, fuse: None, writes: None }
    }

    /// With this kernel.
    pub const fn kernel(mut self, words: &'static str) -> Self {
        self.kernel = Some(words);
        self
    }

    /// With this treatment of the rows of a batch.
    pub(crate) const fn batch(mut self, rule: BatchRule) -> Self {
        self.batch = Some(rule);
        self
    }

    /// As an activation that joins the product before it.
    pub(crate) const fn fuse(mut self, fuse: Fuse) -> Self {
        self.fuse = Some(fuse);
        self
    }

    /// As an operation that writes the state which this parameter names.
    pub(crate) const fn writes(mut self, parameter: &'static str) -> Self {
        self.writes = Some(parameter);
        self
    }

    /// Whether rewrites make it, and no file has it.
    pub fn is_internal(&self) -> bool {
        self.name.starts_with(INTERNAL)
    }
}

/// The kernel of elementwise operations.
pub(crate) const VECTORIZED: &str = "elementwise, vectorised";

/// Opset lists that recur in the tables.
pub(crate) mod since {
    #![allow(dead_code, reason = "a vocabulary; families pick from it")]
    use coreml_format::program::Opset::{self, *};
    pub(crate) const IOS15: &[Opset] = &[Ios15];
    pub(crate) const IOS16: &[Opset] = &[Ios16];
    pub(crate) const IOS17: &[Opset] = &[Ios17];
    pub(crate) const IOS18: &[Opset] = &[Ios18];
    pub(crate) const IOS15_16: &[Opset] = &[Ios15, Ios16];
    pub(crate) const IOS15_17: &[Opset] = &[Ios15, Ios17];
    pub(crate) const IOS16_17: &[Opset] = &[Ios16, Ios17];
    pub(crate) const IOS16_18: &[Opset] = &[Ios16, Ios18];
    pub(crate) const IOS15_16_17: &[Opset] = &[Ios15, Ios16, Ios17];
    pub(crate) const IOS15_17_18: &[Opset] = &[Ios15, Ios17, Ios18];
}
