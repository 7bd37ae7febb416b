//! A row of the operation table: name, defining opsets, build function and properties of an operation.

use coreml_format::program::{Operation, Opset};

use crate::batch::{self, BatchRule};
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::graph::Graph;
use crate::planned::Run;
use crate::value::Value;

/// Build function of an operation.
#[derive(Clone, Copy)]
pub enum OpKind {
    /// Built once, run in every prediction.
    Run(fn(&OpBuilder<'_>) -> Result<Run, OpError>),
    /// A constant computed at load time.
    Constant(fn(&OpBuilder<'_>) -> Result<Value, OpError>),
}

/// Matches an activation that can be fused into the epilogue of a product; returns its name (`ops/epilogue.rs`) and
/// parameters. `None` for variants without a fused form, such as other modes of `gelu`.
pub(crate) type Fuse = for<'b> fn(&Graph<'b>, &'b Operation) -> Option<(&'static str, Vec<(&'static str, f64)>)>;

/// Name prefix of internal operations, which only rewrites produce.
pub(crate) const INTERNAL: &str = "engine.";

/// A row of the operation table.
#[derive(Clone, Copy)]
pub struct OpSpec {
    /// Name in programs.
    pub name: &'static str,
    /// Opsets that define or redefine it, starting with the one that introduced it.
    pub opsets: &'static [Opset],
    /// Build function.
    pub kind: OpKind,
    /// True if its results depend on its inputs alone, so it can be folded at load time if they are constant.
    pub pure: bool,
    /// Description of its specialised kernel, for the documentation.
    pub kernel: Option<&'static str>,
    /// Batch rule; without one, a function that uses the operation keeps its batch fixed.
    pub(crate) batch: Option<BatchRule>,
    /// Matcher for fusing it into the preceding product, if kernels can compute it in registers.
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

    /// A pure elementwise operation.
    pub const fn elementwise(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        Self::new(name, opsets, build).batch(batch::elementwise)
    }

    /// A pure elementwise operation compiled for the widest vectors.
    pub const fn vectorized(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        Self::elementwise(name, opsets, build).kernel(VECTORIZED)
    }

    /// An operation that runs in every prediction (random numbers, states).
    pub const fn impure(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&OpBuilder<'_>) -> Result<Run, OpError>,
    ) -> Self {
        let mut op = Self::new(name, opsets, build);
        op.pure = false;
        op
    }

    /// An operation that produces a constant.
    pub const fn constant(
        name: &'static str,
        opsets: &'static [Opset],
        make: fn(&OpBuilder<'_>) -> Result<Value, OpError>,
    ) -> Self {
        let kind = OpKind::Constant(make);
        Self { name, opsets, kind, pure: true, kernel: None, batch: None, fuse: None, writes: None }
    }

    /// Sets the kernel description.
    pub const fn kernel(mut self, words: &'static str) -> Self {
        self.kernel = Some(words);
        self
    }

    /// Sets the batch rule.
    pub(crate) const fn batch(mut self, rule: BatchRule) -> Self {
        self.batch = Some(rule);
        self
    }

    /// Marks an activation that can be fused into the preceding product.
    pub(crate) const fn fuse(mut self, fuse: Fuse) -> Self {
        self.fuse = Some(fuse);
        self
    }

    /// Sets the parameter that names the state it writes.
    pub(crate) const fn writes(mut self, parameter: &'static str) -> Self {
        self.writes = Some(parameter);
        self
    }

    /// True for operations produced only by rewrites.
    pub fn is_internal(&self) -> bool {
        self.name.starts_with(INTERNAL)
    }
}

/// Kernel description of elementwise operations.
pub(crate) const VECTORIZED: &str = "elementwise, vectorised";

/// Common opset lists.
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
