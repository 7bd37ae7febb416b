//! One operation of the table: its name, the opsets that define it, and how it is built.

use coreml_format::program::Opset;

use crate::build::Build;
use crate::error::OpError;
use crate::planned::Run;
use crate::value::Value;

/// How an operation comes to its result.
#[derive(Clone, Copy)]
pub enum OpKind {
    /// Built once, run in every prediction.
    Run(fn(&Build<'_>) -> Result<Run, OpError>),
    /// A constant that is made at load time.
    Constant(fn(&Build<'_>) -> Result<Value, OpError>),
}

/// One operation of the table.
#[derive(Clone, Copy)]
pub struct OpSpec {
    /// Name in programs.
    pub name: &'static str,
    /// Opsets that define or redefine it; the first is the one that introduced it.
    pub opsets: &'static [Opset],
    /// Build function.
    pub kind: OpKind,
    /// Whether it depends on its inputs alone, so that it can be run at load time when they are constant.
    pub foldable: bool,
}

impl OpSpec {
    /// A pure operation.
    pub(crate) const fn new(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&Build<'_>) -> Result<Run, OpError>,
    ) -> Self {
        Self { name, opsets, kind: OpKind::Run(build), foldable: true }
    }

    /// An operation that must run in every prediction: random numbers, states.
    pub(crate) const fn effect(
        name: &'static str,
        opsets: &'static [Opset],
        build: fn(&Build<'_>) -> Result<Run, OpError>,
    ) -> Self {
        Self { name, opsets, kind: OpKind::Run(build), foldable: false }
    }

    /// An operation that makes a constant.
    pub(crate) const fn constant(
        name: &'static str,
        opsets: &'static [Opset],
        make: fn(&Build<'_>) -> Result<Value, OpError>,
    ) -> Self {
        Self { name, opsets, kind: OpKind::Constant(make), foldable: true }
    }
}

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
