//! Models in other files, which `linkedModel` names.
//!
//! Definition: coremltools' `LinkedModel.proto`. The search path lists folders, separated by `:`, relative to the linking
//! model or absolute; empty is `.`. Bundles (`$BUNDLE_…`) exist in applications only.

use std::cell::Cell;
use std::path::{Component, Path, PathBuf};

use crate::blob::BlobRef;
use crate::file;
use crate::model::{LoadError, Model};
use crate::model_types::Body;
use crate::model_types::linked::LinkedModel;
use crate::program::{Argument, Binding, Block, Program, TensorData, Value, ValueData};
use crate::spec::Specification;
use crate::weights::Weights;

/// Most links on the way to a model, so that files that link to each other end.
const LONGEST: usize = 8;
/// Most links that are followed altogether: files with several links each to the next would multiply.
const MOST: usize = 256;
/// Endings of the same model: compiled, as links name it, and as it was written.
const ENDINGS: [&str; 3] = ["mlmodelc", "mlpackage", "mlmodel"];

impl LinkedModel {
    /// File name of the linked model, and the search path.
    pub fn target(&self) -> (&str, &str) {
        let file = self.linked_model_file.as_ref();
        let name = file.and_then(|f| f.linked_model_file_name.as_ref()).map_or("", |p| p.default_value.as_str());
        let path = file.and_then(|f| f.linked_model_search_path.as_ref()).map_or("", |p| p.default_value.as_str());
        (name, path)
    }
}

impl Model {
    /// True if the model, or one of its parts, is a link to another file.
    pub fn has_links(&self) -> bool {
        fn links(body: &Body, parts: &[Specification]) -> bool {
            matches!(body, Body::LinkedModel(_)) || parts.iter().any(|part| links(&part.body, &part.parts))
        }
        links(&self.body, &self.parts)
    }

    /// Opens the models that this one links to, itself or in a pipeline, and puts them in place of the links.
    ///
    /// # Errors
    /// [`LoadError::Link`] if a linked model isn't found, lacks a feature that the link describes, or links in a circle;
    /// errors of opening it.
    pub fn follow_links(mut self) -> Result<Self, LoadError> {
        let place = Place { path: &self.path, depth: 0, followed: &Cell::new(0) };
        let mut whole = Specification { description: self.description, body: self.body, parts: self.parts };
        place.follow(&mut whole, &mut self.weights)?;
        let Specification { description, body, parts } = whole;
        Ok(Self { description, body, parts, ..self })
    }
}

/// A model with links.
struct Place<'p> {
    path: &'p Path,
    depth: usize,
    /// Links followed so far, from all models.
    followed: &'p Cell<usize>,
}

impl Place<'_> {
    fn follow(&self, spec: &mut Specification, weights: &mut Weights) -> Result<(), LoadError> {
        for part in &mut spec.parts {
            self.follow(part, weights)?;
        }
        let Body::LinkedModel(link) = &spec.body else { return Ok(()) };
        let (name, search) = link.target();
        let fail = |expected: String, found: String| LoadError::Link {
            path: self.path.to_owned(),
            name: name.to_owned(),
            expected,
            found,
        };
        if self.depth == LONGEST {
            return Err(fail(format!("at most {LONGEST} links in a row"), "more".to_owned()));
        }
        let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        self.followed.set(self.followed.get() + 1);
        if self.followed.get() > MOST {
            return Err(fail(format!("at most {MOST} links"), "more".to_owned()));
        }
        if name.is_empty() || !Path::new(name).components().all(inside) {
            return Err(fail("a file name".to_owned(), format!("`{name}`")));
        }
        let found = self.find(name, search);
        let target = found.ok_or_else(|| fail(self.looked(search), "no such file".to_owned()))?;
        let opened = Model::open(&target)?;
        let mut inner = Specification { description: opened.description, body: opened.body, parts: opened.parts };
        let mut inner_weights = opened.weights;
        let next = Place { path: &target, depth: self.depth + 1, followed: self.followed };
        next.follow(&mut inner, &mut inner_weights)?;
        for (ours, theirs, what) in
            [(inputs(spec), inputs(&inner), "input"), (outputs(spec), outputs(&inner), "output")]
        {
            if let Some(missing) = ours.iter().find(|name| !theirs.contains(name)) {
                return Err(fail(format!("an {what} `{missing}`"), theirs.join(", ")));
            }
        }
        let prefix = weights.mount(inner_weights);
        rename_all(&mut inner, &prefix);
        // What is described of the model as a whole stays.
        let outer = std::mem::replace(spec, inner);
        spec.description.metadata = outer.description.metadata;
        spec.description.specification_version = outer.description.specification_version;
        Ok(())
    }

    /// The first file of this name in the folders of a search path.
    fn find(&self, name: &str, search: &str) -> Option<PathBuf> {
        let base = self.path.parent().filter(|_| crate::file::exists(self.path))?;
        let folders = search.split(':').filter(|folder| !folder.starts_with('$'));
        let named = |folder: &str| base.join(folder).join(name);
        folders.map(named).find_map(|wished| {
            let stem_known = wished.extension().is_some_and(|e| ENDINGS.iter().any(|known| e == *known));
            let others = ENDINGS.iter().filter(|_| stem_known).map(|ending| wished.with_extension(ending));
            std::iter::once(wished.clone()).chain(others).find(|path| file::exists(path))
        })
    }

    /// Where a model was looked for, in words.
    fn looked(&self, search: &str) -> String {
        let bundles = if search.contains('$') { ", bundles of applications left out" } else { "" };
        let search = if search.is_empty() { "." } else { search };
        format!("a file in `{search}` beside {}{bundles}", self.path.display())
    }
}

fn inputs(spec: &Specification) -> Vec<&str> {
    spec.description.function(None).into_iter().flat_map(|f| &f.inputs).map(|f| f.name.as_str()).collect()
}

fn outputs(spec: &Specification) -> Vec<&str> {
    spec.description.function(None).into_iter().flat_map(|f| &f.outputs).map(|f| f.name.as_str()).collect()
}

/// Puts a prefix before the names of all weight files.
fn rename_all(spec: &mut Specification, prefix: &str) {
    if let Body::Program(program) = &mut spec.body {
        rename_program(program, prefix);
    }
    spec.parts.iter_mut().for_each(|part| rename_all(part, prefix));
}

fn rename_program(program: &mut Program, prefix: &str) {
    program.functions.values_mut().for_each(|function| rename_block(&mut function.block, prefix));
}

fn rename_block(block: &mut Block, prefix: &str) {
    for operation in &mut block.operations {
        operation.attributes.values_mut().for_each(|value| rename_value(value, prefix));
        for argument in operation.inputs.values_mut() {
            let bindings = match argument {
                Argument::One(binding) => std::slice::from_mut(binding),
                Argument::Many(bindings) => bindings,
            };
            for binding in bindings {
                if let Binding::Value(value) = binding {
                    rename_value(value, prefix);
                }
            }
        }
        operation.blocks.iter_mut().for_each(|nested| rename_block(nested, prefix));
    }
}

fn rename_value(value: &mut Value, prefix: &str) {
    match &mut value.data {
        ValueData::Tensor(TensorData::Blob(at)) => {
            *at = BlobRef { file: format!("{prefix}{}", at.file).into(), offset: at.offset };
        }
        ValueData::Tensor(_) => {}
        ValueData::Tuple(all) | ValueData::List(all) => all.iter_mut().for_each(|v| rename_value(v, prefix)),
        ValueData::Dictionary(all) => all.iter_mut().for_each(|(k, v)| {
            rename_value(k, prefix);
            rename_value(v, prefix);
        }),
    }
}

#[cfg(test)]
mod tests {
    use prost::encoding::{WireType, encode_key, encode_varint};

    use super::*;

    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut all);
        encode_varint(content.len() as u64, &mut all);
        all.extend(content);
        all
    }

    /// A pipeline of `count` links to one file.
    fn links(count: usize, name: &str) -> Vec<u8> {
        let name = field(1, name.as_bytes());
        let link = field(556, &field(1, &field(1, &name)));
        field(202, &field(1, &link).repeat(count))
    }

    #[test]
    fn links_that_multiply_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |i: usize| folder.path().join(format!("{i}.mlmodel"));
        for i in 0..4 {
            std::fs::write(file(i), links(8, &format!("{}.mlmodel", i + 1))).expect("written");
        }
        // Identity.
        std::fs::write(file(4), field(900, &[])).expect("written");
        let follow = |i: usize| Model::open(&file(i)).expect("a model").follow_links();
        assert!(follow(2).is_ok(), "72 links: {:?}", follow(2));
        let error = follow(0).expect_err("4,680 links").to_string();
        assert!(error.contains("at most 256 links"), "{error}");
        std::fs::write(file(0), links(1, "0.mlmodel")).expect("written");
        assert!(follow(0).expect_err("a circle").to_string().contains("in a row"));
    }
}
