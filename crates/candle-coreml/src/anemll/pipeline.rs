//! [`Pipeline`]: a language model of Core ML files, whatever their layout, and its forward pass.

use std::path::Path;

use super::chunked::Chunked;
use super::{Components, Session, discovery};
use crate::engine::proof::{self, Choice};
use crate::engine::{EngineChoice, EngineOptions, native_is_available, native_system};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, PassSet};
use crate::single_file::{Caches, SingleFile};

/// Dimensions of a pipeline, read from its packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Dimensions {
    /// Tokens in the KV cache and the mask.
    pub context: usize,
    /// Width of the hidden states; 0 where a monolithic model does not say.
    pub hidden: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Tokens per prefill call.
    pub batch: usize,
}

/// A loaded language model: components, as ANEMLL lays them out, or one file in a layout of other exporters.
#[derive(Debug)]
pub struct Pipeline {
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Chunked(Box<Chunked>),
    SingleFile(Box<SingleFile>),
}

impl Pipeline {
    /// Loads the model in a folder.
    ///
    /// # Errors
    /// If a component is missing, components disagree on a dimension, or a package can't be loaded.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_with(folder, &EngineOptions::default())
    }

    /// Loads the model in a folder on a given engine.
    ///
    /// # Errors
    /// Same as [`Pipeline::load`], or if the native engine is requested but unavailable.
    pub fn load_with(folder: &Path, options: &EngineOptions) -> Result<Self> {
        Self::from_components_with(&discovery::discover(folder)?, options)
    }

    /// Loads given components on the portable engine, with the given passes.
    ///
    /// # Errors
    /// Same as [`Pipeline::load`].
    pub fn from_components(components: &Components, passes: &PassSet) -> Result<Self> {
        let options = EngineOptions { passes: passes.clone(), ..EngineOptions::default() };
        Self::on_one_engine(components, &options.with_choice(EngineChoice::Portable))
    }

    /// Loads given components on a given engine. All components run on the same engine, since they share a state:
    /// `Auto` chooses the native engine only if Core ML loads every component and runs them once
    /// ([`proof`](crate::engine::proof)).
    ///
    /// # Errors
    /// Same as [`Pipeline::load_with`].
    pub fn from_components_with(components: &Components, options: &EngineOptions) -> Result<Self> {
        if options.choice != EngineChoice::Auto || !native_is_available() {
            return Self::on_one_engine(components, options);
        }
        let place = components.place(options, native_system());
        let native = || Self::on_one_engine(components, &options.with_choice(EngineChoice::Native));
        let (loaded, reason) = match proof::choose(&place, || place.in_child(options), native, Some(&Self::trial)) {
            Choice::Native(pipeline, reason) => (pipeline, reason),
            Choice::Portable(reason, _) => {
                tracing::warn!(reason, "not on Core ML");
                (Self::on_one_engine(components, &options.with_choice(EngineChoice::Portable))?, reason)
            }
        };
        Ok(loaded.because(&reason))
    }

    /// Records why this engine runs the components.
    fn because(mut self, reason: &str) -> Self {
        match &mut self.layout {
            Layout::Chunked(chunked) => chunked.models_mut().for_each(|m| m.set_engine_reason(reason.to_owned())),
            Layout::SingleFile(single) => single.model_mut().set_engine_reason(reason.to_owned()),
        }
        self
    }

    fn on_one_engine(components: &Components, options: &EngineOptions) -> Result<Self> {
        let layout = match &components.single_file {
            Some(package) => Layout::SingleFile(Box::new(SingleFile::load(package, options)?)),
            None => Layout::Chunked(Box::new(Chunked::load(components, options)?)),
        };
        Ok(Self { layout })
    }

    /// Runs one prefill, one step and the head, and a step beyond the window if there is one, on a state of its own.
    ///
    /// # Errors
    /// If a function fails.
    pub(crate) fn trial(&self) -> Result<()> {
        if let Some(chunked) = self.chunked() {
            chunked.trial_beyond_window()?;
        }
        let Dimensions { context, batch, .. } = self.dimensions();
        let mut session = self.session()?;
        let logits = self.forward(&mut session, &vec![0; (batch + 1).min(context)])?;
        if logits.is_empty() {
            let path = self.first().path().to_owned();
            return Err(Error::Components { path, message: "a trial gave no logits".to_owned() });
        }
        Ok(())
    }

    /// The model that gives the logits of decoding, or the first chunk of it.
    fn first(&self) -> &CoreMLModel {
        match &self.layout {
            Layout::Chunked(chunked) => &chunked.chunks[0].infer,
            Layout::SingleFile(single) => single.model(),
        }
    }

    /// Name of the engine that runs the components.
    pub fn engine(&self) -> &'static str {
        self.first().engine()
    }

    /// Reason for the choice of engine.
    pub fn engine_reason(&self) -> &str {
        self.first().engine_reason()
    }

    pub(super) fn chunked(&self) -> Option<&Chunked> {
        match &self.layout {
            Layout::Chunked(chunked) => Some(chunked),
            Layout::SingleFile(_) => None,
        }
    }

    /// Dimensions.
    pub fn dimensions(&self) -> Dimensions {
        match &self.layout {
            Layout::Chunked(chunked) => chunked.dimensions(),
            Layout::SingleFile(single) => single.dimensions(),
        }
    }

    /// How the model is laid out and driven, in one sentence.
    pub fn layout(&self) -> String {
        let sizes = self.dimensions();
        match &self.layout {
            Layout::SingleFile(single) => match single.caches() {
                Caches::States => format!(
                    "one file with its caches as states: up to {} tokens of the prompt at once, then one by one",
                    sizes.batch
                ),
                Caches::Passed => format!(
                    "one file whose caches go in and come out: up to {} tokens of the prompt at once, then one by one",
                    sizes.batch
                ),
                Caches::None => "one file without caches: every token runs the whole conversation again".to_owned(),
            },
            Layout::Chunked(chunked) => {
                let parts = match &chunked.embeddings {
                    None => "monolithic".to_owned(),
                    Some(_) => format!("embeddings, {} chunk(s) of layers, LM head", chunked.chunks.len()),
                };
                let head = if chunked.greedy_only() { ", argmax head (greedy only)" } else { "" };
                let prompt = if chunked.batches() {
                    format!("prompts in batches of {}", sizes.batch)
                } else {
                    "prompts token by token".to_owned()
                };
                let longest = chunked.longest().map_or_else(String::new, |n| {
                    format!("; of its several contexts the longest, {n}, from the start")
                });
                let states = if chunked.is_recurrent() {
                    "; recurrent states: no token runs twice, and going back starts anew"
                } else {
                    ""
                };
                let window = chunked
                    .window()
                    .map_or_else(String::new, |window| format!("; from token {window} on `infer_rotate`, one by one"));
                format!("ANEMLL, {parts}{head}: {prompt}{window}{longest}{states}")
            }
        }
    }

    /// Whether the model says which token is best, but not how likely others are: only greedy choices are possible.
    pub fn greedy_only(&self) -> bool {
        self.chunked().is_some_and(Chunked::greedy_only)
    }

    /// All components, in the order in which a token passes them.
    pub fn components(&self) -> impl Iterator<Item = &CoreMLModel> {
        let single = match &self.layout {
            Layout::SingleFile(single) => Some(single.model()),
            Layout::Chunked(_) => None,
        };
        self.chunked().into_iter().flat_map(Chunked::components).chain(single)
    }

    /// All loaded functions: the components, and the prefill and rotate functions of the chunks.
    pub fn functions(&self) -> impl Iterator<Item = &CoreMLModel> {
        self.components().chain(self.chunked().into_iter().flat_map(Chunked::others))
    }

    /// Starts a conversation with an empty cache.
    ///
    /// # Errors
    /// If allocation fails, or chunks declare one state with different shapes.
    pub fn session(&self) -> Result<Session> {
        match &self.layout {
            Layout::Chunked(chunked) => chunked.session(),
            Layout::SingleFile(single) => single.session(),
        }
    }

    /// Appends tokens to the conversation and returns the logits `[vocab]` after the last one.
    ///
    /// # Errors
    /// If `ids` is empty or has ids outside the vocabulary, exceeds the context, or the engine fails.
    pub fn forward(&self, session: &mut Session, ids: &[u32]) -> Result<Vec<f32>> {
        let logits = self.forward_chunked(session, ids, &mut |_| true)?;
        logits.ok_or(Error::Cancelled)
    }

    /// [`Pipeline::forward`] that calls `more` after every batch with the number of `ids` run so far; stops and returns
    /// `None` if `more` returns false. The session then holds the tokens that have run.
    ///
    /// # Errors
    /// Same as [`Pipeline::forward`].
    pub fn forward_chunked(
        &self,
        session: &mut Session,
        ids: &[u32],
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<f32>>> {
        match &self.layout {
            Layout::Chunked(chunked) => chunked.forward_chunked(session, ids, more),
            Layout::SingleFile(single) => single.forward_chunked(session, ids, more),
        }
    }

    /// Appends each token, given with the index of its conversation, and returns the logits after each; the weights are
    /// read once for all of them. The same as [`Pipeline::forward_with_shift`] one after the other, to the bit. `None` where
    /// the layout, the engine or full contexts forbid it: nothing has then changed.
    ///
    /// # Errors
    /// If the engine fails. Conversations then have the tokens that they had.
    pub fn forward_together(
        &self,
        sessions: &mut [&mut Session],
        tokens: &[(usize, u32)],
    ) -> Option<Result<Vec<Vec<f32>>>> {
        self.chunked()?.forward_together(sessions, tokens)
    }

    /// [`Pipeline::forward`] for one token; when the window is full, its most recent part is rerun from position 0 and the
    /// rest is dropped.
    ///
    /// # Errors
    /// Same as [`Pipeline::forward`].
    pub fn forward_with_shift(&self, session: &mut Session, id: u32) -> Result<Vec<f32>> {
        let logits = match &self.layout {
            Layout::Chunked(chunked) => chunked.forward_with_shift(session, id)?,
            Layout::SingleFile(single) => single.forward_with_shift(session, id)?,
        };
        logits.ok_or(Error::Cancelled)
    }
}
