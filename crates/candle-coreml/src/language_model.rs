//! [`LanguageModel`]: a language model with its tokenizer and one conversation.

use std::path::{Path, PathBuf};

use crate::anemll::model_config::ModelConfig;
use crate::anemll::{ModelNamingConfig, Pipeline, Session, discovery};
use crate::engine::{ComputeUnits, EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::generation::{Generation, Message, Options, Sampling, Step, Summary, Tokenizer};

mod tensors;

/// Settings of a [`LanguageModel`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LanguageModelConfig {
    /// Path of the tokenizer; `None`: beside the packages.
    pub tokenizer: Option<PathBuf>,
    /// Value of the chat template's `enable_thinking`.
    pub thinking: Option<bool>,
    /// File-name patterns of the model; `None`: the only model in its folder.
    pub naming: Option<ModelNamingConfig>,
    /// Components and dimensions; used to build input tensors.
    pub model: Option<ModelConfig>,
    /// The engine that runs the model.
    pub engine: EngineChoice,
    /// Processors that the native engine may use.
    pub compute_units: ComputeUnits,
}

impl LanguageModelConfig {
    /// Settings for a known configuration.
    pub fn from_model_config(model: ModelConfig) -> Self {
        Self { naming: Some(model.naming.clone()), model: Some(model), ..Self::default() }
    }

    /// Settings for a model in a folder or, with the feature `hub`, a repository name; discovered from its files.
    ///
    /// # Errors
    /// If the identifier is neither, or the download fails; same as [`ModelConfig::discover`].
    pub fn for_model_id(id: &str) -> Result<Self> {
        let folder = Path::new(id);
        if coreml_format::file::exists(folder) {
            return ModelConfig::discover(folder).map(Self::from_model_config);
        }
        #[cfg(feature = "hub")]
        if crate::hub::ModelId::parse(id).is_ok() {
            return crate::UnifiedModelLoader::new()?.generate_config(id).map(Self::from_model_config);
        }
        Err(Error::Unavailable(format!("`{id}` is not a folder with a model")))
    }

    /// Settings for files with the standard names of Qwen conversions; shapes stay unset.
    #[deprecated(note = "use `from_model_config` with `ModelConfig::discover`, which reads names and shapes")]
    pub fn for_standard_qwen() -> Self {
        Self { naming: Some(ModelNamingConfig::standard_qwen()), ..Self::default() }
    }
}

/// A multi-component language model with its tokenizer and one conversation. Supports Qwen 3, Qwen 2.5 and Llama
/// layouts.
///
/// ```
/// # std::env::set_current_dir("../..")?;
/// let mut model = candle_coreml::LanguageModel::load_from_directory("models/tiny-qwen3", None)?;
/// println!("{}", model.generate("2 + 2 =", 8, 0.0)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LanguageModel {
    pipeline: Pipeline,
    tokenizer: Tokenizer,
    session: Session,
    config: LanguageModelConfig,
}

impl LanguageModel {
    /// Loads the model in a folder.
    ///
    /// # Errors
    /// If components or the tokenizer are missing or malformed.
    pub fn load_from_directory(folder: impl AsRef<Path>, config: Option<LanguageModelConfig>) -> Result<Self> {
        let config = config.unwrap_or_default();
        let folder = folder.as_ref();
        let components = match &config.naming {
            Some(naming) => discovery::discover_named(folder, naming)?,
            None => discovery::discover(folder)?,
        };
        let options =
            EngineOptions { choice: config.engine, compute_units: config.compute_units, ..EngineOptions::default() };
        let pipeline = Pipeline::from_components_with(&components, &options)?;
        let tokenizer = Tokenizer::load(config.tokenizer.as_deref().unwrap_or(folder))?;
        let session = pipeline.session()?;
        Ok(Self { pipeline, tokenizer, session, config })
    }

    /// Loads a model from the hub, `org/name` or `org/name@revision`; downloads it if it is not cached.
    ///
    /// # Errors
    /// [`Error::Hub`]; those of [`LanguageModel::load_from_directory`].
    #[cfg(feature = "hub")]
    pub fn load_from_hub(id: &str) -> Result<Self> {
        Self::load_from_directory(crate::hub::ensure_model_downloaded(id)?, None)
    }

    /// Replaces the model configuration; does not reload.
    #[cfg(feature = "hub")]
    pub(crate) fn set_config(&mut self, config: LanguageModelConfig) {
        self.config = config;
    }

    /// The settings.
    pub fn config(&self) -> &LanguageModelConfig {
        &self.config
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokenizes a text as it is, such as one that the chat template made; special tokens in it are recognised, none are
    /// added.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// Clears the conversation and allocates a new cache.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn initialize_states(&mut self) -> Result<()> {
        self.session = self.pipeline.session()?;
        Ok(())
    }

    /// Clears the conversation; keeps the cache's memory.
    pub fn reset_states(&mut self) {
        self.session.truncate(0);
    }

    /// The most likely token after a text; special tokens such as BOS are added.
    ///
    /// # Errors
    /// If the text is empty or exceeds the context, or the engine fails.
    pub fn forward_text(&mut self, text: &str) -> Result<u32> {
        let ids = self.tokenizer.encode_with_special(text)?;
        self.reset_states();
        let logits = self.pipeline.forward(&mut self.session, &ids)?;
        Ok(crate::generation::Sampler::new(Sampling::default()).choose(&logits, &[]))
    }

    /// Continues a text, without a chat template; special tokens such as BOS are added.
    ///
    /// # Errors
    /// Same as [`LanguageModel::forward_text`].
    pub fn generate(&mut self, prompt: &str, max_tokens: usize, temperature: f32) -> Result<String> {
        let sampling = Sampling { temperature, ..Sampling::default() };
        let options = Options { max_tokens, sampling, ..Options::default() };
        let ids = self.tokenizer.encode_with_special(prompt)?;
        self.generate_tokens(&ids, options, |_| {}).map(|s| s.text)
    }

    /// Answers a conversation through the model's chat template; reuses the cached prefix.
    ///
    /// # Errors
    /// Same as [`LanguageModel::forward_text`], or if the model has no chat template.
    pub fn chat(&mut self, messages: &[Message], options: Options, on_token: impl FnMut(&Step)) -> Result<Summary> {
        let text = self.render(messages, options.thinking.or(self.config.thinking))?;
        let ids = self.tokenize(&text)?;
        self.generate_tokens(&ids, options, on_token)
    }

    /// Renders a conversation with the chat template.
    ///
    /// # Errors
    /// If the model has no chat template, or the template raises an error.
    pub fn chat_text(&self, messages: &[Message]) -> Result<String> {
        self.render(messages, self.config.thinking)
    }

    fn render(&self, messages: &[Message], thinking: Option<bool>) -> Result<String> {
        self.tokenizer.needed_template()?.render(messages, thinking)
    }

    /// Generates after a prompt of token ids and calls `on_token` for every token.
    ///
    /// # Errors
    /// Same as [`LanguageModel::forward_text`].
    pub fn generate_tokens(
        &mut self,
        prompt: &[u32],
        options: Options,
        on_token: impl FnMut(&Step),
    ) -> Result<Summary> {
        Generation::new(&self.pipeline, &self.tokenizer, &mut self.session, prompt, options).run(on_token)
    }

    /// [`generate_tokens`](Self::generate_tokens) as an iterator.
    pub fn stream(&mut self, prompt: &[u32], options: Options) -> Generation<'_> {
        Generation::new(&self.pipeline, &self.tokenizer, &mut self.session, prompt, options)
    }
}
