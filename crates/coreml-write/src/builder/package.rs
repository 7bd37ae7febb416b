//! Packages of built functions.

use std::path::{Path, PathBuf};

use coreml_format::description::{FunctionDescription, ModelDescription};
use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::program::{Function, Opset, Program, Value};
use coreml_format::verify::verify;
use coreml_format::write::PackageWriter;

use super::error::BuildError;
use super::function::FunctionBuilder;
use super::specification_version;
use crate::edit::{Changes, EditError, edit_with};
use crate::passes::{Evaluate, Passes, Report};

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

    /// Adds a function after those of the [`passes`](crate::passes) that need only what is in memory;
    /// [`PackageBuilder::finish_optimized`] runs all of them on the whole package.
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

    /// Finishes the package after rewrites, of what is in the weight file, too. `evaluate` computes constants, as in
    /// [`passes::run`](crate::passes::run). Returns what the rewrites did. What was built lies in a hidden folder beside the
    /// path until then; the package appears when it is complete.
    ///
    /// # Errors
    /// As [`PackageBuilder::finish`], and [`EditError::Invalid`] for what a rewrite can't do.
    pub fn finish_optimized(
        mut self,
        passes: &Passes,
        evaluate: Option<&mut Evaluate<'_>>,
    ) -> Result<Report, EditError> {
        if passes.is_empty() {
            return Ok(self.finish().map(|()| Report::default())?);
        }
        let to = self.path.clone();
        let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let io = |source| BuildError::Io { path: to.clone(), source };
        let hidden = tempfile::Builder::new().prefix(".built.").tempdir_in(folder).map_err(io)?;
        let built = hidden.path().join("built.mlpackage");
        self.writer.move_to(&built);
        self.finish()?;
        let mut model = Model::open(&built)?;
        // Errors name what the caller knows.
        model.path.clone_from(&to);
        let changes = Changes { passes: passes.clone(), ..Changes::default() };
        edit_with(&model, &changes, evaluate, &to)
    }
}
