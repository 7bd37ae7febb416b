//! Finds the components of a model in a folder.
//!
//! What a package is, it says itself: an embeddings model takes token ids, an FFN chunk has states, an LM
//! head takes hidden states and gives logits, a monolithic model has states and takes token ids and positions, a model of
//! another exporter takes token ids and gives logits. Names only order chunks,
//! tell `prefill` and `_rotate` from `infer` where each has one function, and choose among variants; `meta.yaml` decides
//! which variant, when there is one. Parts of language models of other kinds are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coreml_format::description::{FeatureDescription, FeatureType};
use coreml_format::file;
use coreml_format::model::Model;

use super::{Meta, ModelNamingConfig, head, meta};
use crate::engine::EngineOptions;
use crate::engine::proof::Place;
use crate::error::{Error, Result};
use crate::{engine, files, single_file};

/// A function of an open package: the package and the function's name (`None`: the default).
pub type FunctionOf = (Arc<Model>, Option<String>);

/// One FFN chunk, or the whole of a monolithic model.
#[derive(Debug, Clone)]
pub struct ChunkFiles {
    /// Decodes one token.
    pub infer: FunctionOf,
    /// Processes a batch of prompt tokens.
    pub prefill: FunctionOf,
    /// Decodes one token beyond the window of local layers.
    pub rotate: Option<FunctionOf>,
}

/// The components of a model.
#[derive(Debug, Clone)]
pub struct Components {
    /// Token ids to hidden states; none where the chunks take token ids (monolithic models).
    pub embeddings: Option<Arc<Model>>,
    /// Transformer layers, in order.
    pub chunks: Vec<ChunkFiles>,
    /// Hidden states to logits; none where the chunk gives them (monolithic models).
    pub lm_head: Option<Arc<Model>>,
    /// The whole model, in a layout of other exporters; the others are then empty.
    pub single_file: Option<Arc<Model>>,
    /// What `meta.yaml` says.
    pub meta: Meta,
}

impl Components {
    /// Where it is kept that these run on Core ML together.
    pub(crate) fn place(&self, options: &EngineOptions, system: String) -> Place {
        let chunks = self.chunks.iter().flat_map(|c| [&c.infer, &c.prefill].into_iter().chain(&c.rotate));
        let all =
            self.embeddings.iter().chain(chunks.map(|(model, _)| model)).chain(&self.lm_head).chain(&self.single_file);
        let mut files: Vec<&Path> = Vec::new();
        for model in all {
            if !files.contains(&&*model.path) {
                files.push(&model.path);
            }
        }
        let folder =
            files.first().and_then(|f| f.parent()).filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Place::new(folder, files.iter().copied(), None, options, system)
    }
}

/// What a function over a cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Infer,
    Prefill,
    InferRotate,
    /// Lets the tokens of a batch see later ones of it, so it is never run.
    PrefillRotate,
}

const TASKS: [(&str, Task); 4] = [
    ("infer", Task::Infer),
    ("prefill", Task::Prefill),
    ("infer_rotate", Task::InferRotate),
    ("prefill_rotate", Task::PrefillRotate),
];

/// What a function does by its name, and the context that it is for where there are several of them, as in
/// `infer_ctx512`.
fn task(name: &str) -> Option<(Task, Option<usize>)> {
    let (kind, context) = match name.rsplit_once("_ctx") {
        Some((kind, digits)) => (kind, Some(digits.parse().ok().filter(|&n| n > 0)?)),
        None => (name, None),
    };
    TASKS.iter().find(|(known, _)| *known == kind).map(|(_, task)| (*task, context))
}

/// Whether functions of these names are for several contexts.
pub(super) fn has_contexts<'n>(mut names: impl Iterator<Item = &'n str>) -> bool {
    names.any(|name| task(name).is_some_and(|(_, context)| context.is_some()))
}

/// One function for each task: where there are several contexts the one of the longest, which is also the one without a
/// context in its name.
fn tasks<'n>(names: impl Iterator<Item = &'n String>) -> Vec<(Task, Option<String>)> {
    let mut found: Vec<(Task, Option<usize>, &String)> = Vec::new();
    for name in names {
        let Some((kind, context)) = task(name) else { continue };
        match found.iter_mut().find(|(known, ..)| *known == kind) {
            Some(known) if known.1.is_some_and(|n| context.is_none_or(|c| c > n)) => *known = (kind, context, name),
            Some(_) => {}
            None => found.push((kind, context, name)),
        }
    }
    found.into_iter().map(|(kind, _, name)| (kind, Some(name.clone()))).collect()
}

/// Columns of the mask of a function, which tell its context.
fn columns((model, function): &FunctionOf) -> Option<usize> {
    match &model.description.function(function.as_deref())?.input("causal_mask")?.ty {
        FeatureType::MultiArray { shape, .. } => shape.last().copied(),
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    Embeddings,
    /// Functions over a cache; whether they take token ids.
    Layers(Vec<(Task, Option<String>)>, bool),
    Head,
    /// A whole model in a layout of other exporters.
    Single,
    /// No part of a language model.
    Other,
}

/// Inputs that only parts of language models take.
const PARTS: [&str; 6] =
    ["hidden_states", "causal_mask", "current_pos", "update_mask", "per_layer_inputs", "position_one_hot"];

fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn names(features: &[FeatureDescription]) -> String {
    features.iter().map(|f| format!("`{}`", f.name)).collect::<Vec<_>>().join(", ")
}

/// What a package is, by its functions, inputs, outputs and states; why it can't be run when it is a part of a language
/// model of another kind.
fn role(model: &Model) -> std::result::Result<Role, String> {
    let functions = &model.description.functions;
    let takes = |input: &str| functions.values().filter(|f| f.input(input).is_some()).count();
    let known = functions.keys().filter(|name| task(name).is_some()).count();
    if functions.len() > 1 || known > 0 {
        if known == 0 && PARTS.iter().all(|part| takes(part) == 0) {
            return Ok(Role::Other);
        }
        let unknown: Vec<String> = functions.keys().filter(|n| task(n).is_none()).map(|n| format!("`{n}`")).collect();
        if !unknown.is_empty() {
            return Err(format!("its functions {} are not supported", unknown.join(", ")));
        }
        let ids = takes("input_ids") == functions.len();
        if !ids && takes("hidden_states") != functions.len() {
            return Err("not all of its functions take `hidden_states`, or `input_ids`".to_owned());
        }
        return Ok(Role::Layers(tasks(functions.keys()), ids));
    }
    let Some(main) = model.description.function(None) else { return Ok(Role::Other) };
    let stateful = !main.states.is_empty()
        || engine::program(model)
            .iter()
            .flat_map(|program| program.functions.values())
            .any(|f| f.inputs.iter().any(|i| matches!(i.ty, coreml_format::program::ValueType::State(_))));
    let ids = main.input("input_ids").is_some();
    if main.input("current_pos").is_none() && single_file::looks_like_one(main) {
        return Ok(Role::Single);
    }
    if stateful && (ids || main.input("hidden_states").is_some()) {
        let name = stem(&model.path).to_lowercase();
        let tokens = main.input(if ids { "input_ids" } else { "hidden_states" });
        let many = tokens.is_some_and(|f| match &f.ty {
            FeatureType::MultiArray { shape, .. } => shape.get(1).is_some_and(|&n| n > 1),
            _ => false,
        });
        let task = match (many || name.contains("prefill"), name.contains("_rotate")) {
            (false, false) => Task::Infer,
            (true, false) => Task::Prefill,
            (false, true) => Task::InferRotate,
            (true, true) => Task::PrefillRotate,
        };
        return Ok(Role::Layers(vec![(task, None)], ids));
    }
    let head = head::is_head(main.outputs.iter().map(|o| o.name.as_str()));
    match main.inputs.as_slice() {
        [one] if one.name == "input_ids" && !head => match main.outputs.as_slice() {
            [_] => Ok(Role::Embeddings),
            _ => Err(format!("an embeddings model has one output, this one has {}", names(&main.outputs))),
        },
        [one] if head && one.name != "input_ids" => Ok(Role::Head),
        inputs if inputs.iter().any(|i| PARTS.contains(&i.name.as_str())) => {
            Err(format!("a model without states that takes {} is not supported", names(inputs)))
        }
        _ => Ok(Role::Other),
    }
}

/// The numbers in `…chunk_02of03`, else those in the metadata that the converter writes.
fn chunk_number(model: &Model) -> (usize, Option<usize>) {
    let name = stem(&model.path);
    let after = name.rsplit_once("chunk_").map(|(_, rest)| rest);
    if let Some((number, of)) = after.and_then(|r| r.split_once("of")) {
        let of: String = of.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(number) = number.parse() {
            return (number, of.parse().ok());
        }
    }
    let user = &model.description.metadata.user;
    let read = |key: &str| user.get(key).and_then(|v| v.trim().parse().ok());
    (read("com.anemll.chunk_no").unwrap_or(1), read("com.anemll.num_chunks"))
}

/// All models directly in a folder, opened. Keeps the first error, to report if a component is missing.
fn open_all(folder: &Path, keep: &dyn Fn(&str) -> bool) -> Result<(Vec<Arc<Model>>, Option<Error>)> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    if files::is_model(folder) {
        return Ok((vec![Arc::new(open(folder)?)], None));
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in file::entries(folder).map_err(io)? {
        let path = entry.map_err(io)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if files::is_model(&path) && keep(&name) {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut models, mut failure): (Vec<Arc<Model>>, _) = (Vec::new(), None);
    for path in paths {
        // A compiled model and the package that it was made of are one model.
        if models.iter().any(|m| stem(&m.path) == stem(&path)) {
            continue;
        }
        match open(&path) {
            Ok(model) => models.push(Arc::new(model)),
            Err(e) => {
                tracing::warn!("skipped: {e}");
                failure.get_or_insert(e);
            }
        }
    }
    Ok((models, failure))
}

/// Opens a model and checks that it can be lowered to a program.
fn open(path: &Path) -> Result<Model> {
    let model = Model::open(path)?;
    coreml_lower::lower(&model).map_err(|source| Error::Lower { path: path.to_owned(), source })?;
    Ok(model)
}

/// Finds the components in a folder.
///
/// # Errors
/// [`Error::Components`] naming the missing or ambiguous component; if one is missing and a package can't be opened,
/// that package's error.
pub fn discover(folder: &Path) -> Result<Components> {
    among(folder, &|_| true)
}

/// Finds the components among the files that `naming` matches, in a folder that holds several models.
///
/// # Errors
/// Same as [`discover`].
pub fn discover_named(folder: &Path, naming: &ModelNamingConfig) -> Result<Components> {
    among(folder, &|name| naming.matches(name))
}

fn among(folder: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Components> {
    crate::folder::expect_packages(folder)?;
    let (mut models, mut failure) = open_all(folder, keep)?;
    let meta = Meta::of_folder(&files::beside(folder));
    // The file of a chunk stands for the variant that it is of.
    let mut chosen = None;
    if let [one] = models.as_slice()
        && files::is_model(folder)
        && matches!(role(one), Ok(Role::Layers(_, false)))
    {
        chosen = Some(meta::base(&stem(&one.path)).to_owned());
        (models, failure) = open_all(&files::beside(folder), keep)?;
    }
    let fail = |message: String| Error::Components { path: folder.to_owned(), message };
    let mut roles = Vec::with_capacity(models.len());
    for model in &models {
        match role(model) {
            Ok(role) => roles.push((model.clone(), role)),
            Err(reason) => {
                let of = meta.architecture.as_ref().map(|a| format!(" (architecture {a})")).unwrap_or_default();
                return Err(Error::Components { path: model.path.clone(), message: format!("{reason}{of}") });
            }
        }
    }
    let of = |wanted: &Role| -> Vec<Arc<Model>> {
        roles.iter().filter(|(_, role)| role == wanted).map(|(m, _)| m.clone()).collect()
    };
    let mut missing = |what: &str| {
        failure.take().unwrap_or_else(|| {
            let found: Vec<String> = models.iter().map(|m| stem(&m.path)).collect();
            fail(format!(
                "no {what} among its models ({})",
                if found.is_empty() { "none".into() } else { found.join(", ") }
            ))
        })
    };
    let one = |candidates: Vec<Arc<Model>>, what: &str| -> Result<Option<Arc<Model>>> {
        if candidates.len() > 1 {
            let chosen = candidates.iter().find(|m| meta.files.iter().any(|f| *f == stem(&m.path)));
            return match chosen {
                Some(m) => Ok(Some(m.clone())),
                None => {
                    let names: Vec<String> = candidates.iter().map(|m| stem(&m.path)).collect();
                    let key = what.to_lowercase().replace(' ', "_");
                    Err(fail(format!(
                        "several {what} models ({}): keep one, or name it in meta.yaml (`{key}`)",
                        names.join(", ")
                    )))
                }
            };
        }
        Ok(candidates.into_iter().next())
    };
    let single = of(&Role::Single);
    if !single.is_empty() && !roles.iter().any(|(_, role)| matches!(role, Role::Layers(..))) {
        let names: Vec<String> =
            single.iter().filter_map(|m| m.path.file_name()?.to_str().map(str::to_owned)).collect();
        let [one] = single.as_slice() else {
            let message = format!("it has several language models: {}. Name the file of one of them", names.join(", "));
            return Err(fail(message));
        };
        let (embeddings, lm_head, chunks) = (None, None, Vec::new());
        return Ok(Components { embeddings, chunks, lm_head, single_file: Some(one.clone()), meta });
    }
    let any = |wanted: bool| roles.iter().any(|(_, role)| matches!(role, Role::Layers(_, ids) if *ids == wanted));
    let monolithic = match (any(true), any(false)) {
        (true, true) => meta.monolithic.ok_or_else(|| {
            fail("it has a monolithic model and FFN chunks, and no meta.yaml that says which".to_owned())
        })?,
        (monolithic, _) => monolithic,
    };
    let ordered = |wanted: Task| -> Result<Vec<FunctionOf>> {
        let mut all: Vec<FunctionOf> = Vec::new();
        for (model, role) in &roles {
            let Role::Layers(tasks, ids) = role else { continue };
            let found = tasks.iter().filter(|(task, _)| *task == wanted && *ids == monolithic);
            all.extend(found.map(|(_, name)| (model.clone(), name.clone())));
        }
        let of_file = |test: &dyn Fn(&str, &str) -> bool| -> Vec<FunctionOf> {
            let named = |m: &FunctionOf| meta.files.iter().any(|f| test(meta::base(&stem(&m.0.path)), f));
            all.iter().filter(|m| named(m)).cloned().collect()
        };
        let of_chosen = |m: &&FunctionOf| chosen.as_deref() == Some(meta::base(&stem(&m.0.path)));
        let mut named: Vec<FunctionOf> = all.iter().filter(of_chosen).cloned().collect();
        if named.is_empty() {
            named = of_file(&|base, file| base == file);
        }
        if named.is_empty() {
            named = of_file(&|base, file| base.starts_with(file));
        }
        if !named.is_empty() {
            let stages = all.iter().filter(|m| is_stage(m) && !named.iter().any(|n| n.0.path == m.0.path));
            let stages: Vec<FunctionOf> = stages.filter(|_| meta.float32_stages).cloned().collect();
            all = named;
            all.extend(stages);
        }
        // A stage in float32 takes the place of the chunk with its number.
        let staged: Vec<usize> = all.iter().filter(|m| is_stage(m)).map(|m| chunk_number(&m.0).0).collect();
        all.retain(|m| is_stage(m) || !staged.contains(&chunk_number(&m.0).0));
        all.sort_by_key(|m| chunk_number(&m.0).0);
        check_numbers(&all, folder)?;
        Ok(all)
    };
    let (embeddings, lm_head) = if monolithic {
        (None, None)
    } else {
        let embeddings = one(of(&Role::Embeddings), "embeddings")?.ok_or_else(|| missing("embeddings model"))?;
        (Some(embeddings), Some(one(of(&Role::Head), "LM head")?.ok_or_else(|| missing("LM head"))?))
    };
    let (infer, mut prefill) = (ordered(Task::Infer)?, ordered(Task::Prefill)?);
    if infer.is_empty() {
        return Err(missing("FFN chunk"));
    }
    let several = |all: &[FunctionOf]| {
        all.iter().any(|(model, _)| has_contexts(model.description.functions.keys().map(String::as_str)))
    };
    if (several(&infer) || several(&prefill)) && prefill.iter().zip(&infer).any(|(p, i)| columns(p) != columns(i)) {
        tracing::info!("prefill is for another context than infer: prompts run token by token");
        prefill.clear();
    }
    let rotate = ordered(Task::InferRotate)?;
    for (other, what) in [(&prefill, "prefill"), (&rotate, "rotate")] {
        if !other.is_empty() && other.len() != infer.len() {
            return Err(fail(format!("{} FFN chunks but {} {what} chunks", infer.len(), other.len())));
        }
    }
    let chunks = infer.iter().enumerate().map(|(i, function)| ChunkFiles {
        infer: function.clone(),
        prefill: prefill.get(i).unwrap_or(function).clone(),
        rotate: rotate.get(i).cloned(),
    });
    Ok(Components { embeddings, chunks: chunks.collect(), lm_head, single_file: None, meta })
}

/// Whether a file is a chunk with attention in float32, to be run in place of the chunk with its number.
fn is_stage((model, _): &FunctionOf) -> bool {
    stem(&model.path).contains("_attn_fp32")
}

/// Chunks must be numbered 1, 2, … up to the count that they name, each once.
fn check_numbers(chunks: &[FunctionOf], folder: &Path) -> Result<()> {
    let twice = chunks.windows(2).find(|two| chunk_number(&two[0].0).0 == chunk_number(&two[1].0).0);
    if let Some([(one, _), (other, _)]) = twice {
        let message = format!(
            "several variants of chunk {} ({}, {}): name the file of one as the model, or keep one, or name it in meta.yaml (`ffn`)",
            chunk_number(one).0,
            stem(&one.path),
            stem(&other.path)
        );
        return Err(Error::Components { path: folder.to_owned(), message });
    }
    for (i, (chunk, _)) in chunks.iter().enumerate() {
        let (number, of) = chunk_number(chunk);
        let count = of.unwrap_or(chunks.len());
        if number != i + 1 || count != chunks.len() {
            return Err(Error::Components {
                path: folder.to_owned(),
                message: format!(
                    "chunk {} of {} is missing: {} is number {number} of {count}, and there are {} chunks",
                    i + 1,
                    count,
                    stem(&chunk.path),
                    chunks.len()
                ),
            });
        }
    }
    Ok(())
}
