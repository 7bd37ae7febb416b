//! Packages of built functions.

use std::path::{Path, PathBuf};

use coreml_format::description::{FunctionDescription, ModelDescription};
use coreml_format::dtype::DataType;
use coreml_format::program::{Function, Opset, Program, Value};
use coreml_format::verify::verify;
use coreml_format::write::PackageWriter;

use super::error::BuildError;
use super::function::FunctionBuilder;
use super::specification_version;

/// A package that is being written: weights go to disk at once, functions when it is finished. It appears under its
/// name when it is complete.
#[derive(Debug)]
pub struct PackageBuilder {
    path: PathBuf,
    writer: PackageWriter,
    program: Program,
    /// Description of the model; functions are added by [`PackageBuilder::add`].
    pub description: ModelDescription,
}

impl PackageBuilder {
    /// Starts a package at a path that does not exist yet.
    ///
    /// # Errors
    /// [`BuildError::Io`] if it exists or can't be created.
    pub fn create(path: &Path) -> Result<Self, BuildError> {
        let io = |source| BuildError::Io { path: path.to_owned(), source };
        Ok(Self {
            path: path.to_owned(),
            writer: PackageWriter::create(path).map_err(io)?,
            program: Program::default(),
            description: ModelDescription::default(),
        })
    }

    /// Stores the packed elements of a constant in the weight file, in pieces.
    ///
    /// # Errors
    /// [`BuildError::Io`] if writing fails, or the length is not that of the shape.
    pub fn weight<P: AsRef<[u8]>>(
        &mut self,
        dtype: DataType,
        shape: &[usize],
        pieces: impl IntoIterator<Item = P>,
    ) -> Result<Value, BuildError> {
        let io = |source| BuildError::Io { path: self.path.clone(), source };
        let invalid = || {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("a tensor of shape {shape:?} is too large"))
        };
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| io(invalid()))?;
        Ok(Value::blob(dtype, shape, self.writer.blob(dtype, elements, pieces).map_err(io)?))
    }

    /// Adds a function after the [`passes`](crate::passes).
    ///
    /// # Errors
    /// As [`PackageBuilder::add`].
    pub fn add_optimized(&mut self, name: &str, function: FunctionBuilder) -> Result<(), BuildError> {
        let (mut function, description) = function.finish()?;
        crate::passes::optimize(&mut function);
        self.add_finished(name, function, description)
    }

    /// Adds a function.
    ///
    /// # Errors
    /// As [`FunctionBuilder::finish`], and [`BuildError::Name`] if there is one of this name.
    pub fn add(&mut self, name: &str, function: FunctionBuilder) -> Result<(), BuildError> {
        let (function, description) = function.finish()?;
        self.add_finished(name, function, description)
    }

    /// Adds a finished function.
    ///
    /// # Errors
    /// [`BuildError::Name`] if there is one of this name.
    pub fn add_finished(
        &mut self,
        name: &str,
        function: Function,
        description: FunctionDescription,
    ) -> Result<(), BuildError> {
        if self.program.functions.contains_key(name) {
            let (place, expected) = ("function", "a name that is not used yet");
            return Err(BuildError::Name { place, expected, found: name.to_owned() });
        }
        if self.description.default_function.is_empty() {
            self.description.default_function = name.to_owned();
        }
        self.program.functions.insert(name.to_owned(), function);
        self.description.functions.insert(name.to_owned(), description);
        Ok(())
    }

    /// Finishes the package. The specification version is that of the latest opset.
    ///
    /// # Errors
    /// [`BuildError`] if the program is inconsistent, the default function is missing, or writing fails.
    pub fn finish(mut self) -> Result<(), BuildError> {
        verify(&self.program)?;
        let default = self.description.default_function.clone();
        if !self.program.functions.contains_key(&default) {
            let (place, expected) = ("default function", "the name of a function");
            return Err(BuildError::Name { place, expected, found: default });
        }
        let opset = self.program.functions.values().map(|f| f.opset).max().unwrap_or(Opset::Ios15);
        let several = self.program.functions.len() > 1 || default != "main";
        let opset = if several { opset.max(Opset::Ios18) } else { opset };
        self.description.specification_version =
            self.description.specification_version.max(specification_version(opset));
        let io = |source| BuildError::Io { path: self.path.clone(), source };
        self.writer.finish(&self.description, &self.program).map_err(io)
    }
}
