//! Converts Hugging Face checkpoints to Core ML packages.
//!
//! Checkpoints are folders with `config.json` and `.safetensors` (F32, F16, BF16; one file or shards) of the families in
//! [`Family`]. Weights are streamed from the mapped files into fp16 or tables. The output folder has its name when it is
//! complete; an interrupted conversion goes on with the packages that it finished.

mod anemll;
mod apple;
mod checkpoint;
mod config;
mod decoder;
mod encoder;
mod error;
mod job;
mod net;
mod weights;

use std::path::Path;

pub use anemll::Anemll;
pub use apple::Stateful;
pub use config::Family;
pub use encoder::Encoder;
pub use error::{ConvertError, Result};
pub use weights::Lut;

use checkpoint::Checkpoint;
use config::Config;
use job::Job;

/// A layout and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// ANEMLL's.
    Anemll(Anemll),
    /// Apple's stateful one.
    Stateful(Stateful),
    /// An encoder of texts.
    Encoder(Encoder),
}

impl From<Encoder> for Layout {
    fn from(o: Encoder) -> Self {
        Self::Encoder(o)
    }
}

impl From<Anemll> for Layout {
    fn from(o: Anemll) -> Self {
        Self::Anemll(o)
    }
}

impl From<Stateful> for Layout {
    fn from(o: Stateful) -> Self {
        Self::Stateful(o)
    }
}

/// Files that go with a model.
const FILES: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Prefixes of the decoder's tensors in checkpoints.
const PREFIXES: [&str; 3] = ["model.", "language_model.model.", "model.language_model."];

/// Converts a checkpoint into a folder that does not exist yet.
///
/// A [task](coreml_format::task::Task) is told of every package with the number of layers and packages that are written. When
/// it is cancelled, the folder is not there, and the next conversion goes on behind the packages that were finished.
///
/// # Errors
/// [`ConvertError`] with the file and the key, tensor or option: unknown families and settings, tensors that are missing,
/// left over, of another shape, not finite or beyond fp16; options that don't fit; a full disk.
pub fn convert(source: &Path, layout: &Layout, to: &Path) -> Result<()> {
    if let Layout::Encoder(o) = layout {
        return encode(source, o, to);
    }
    let c = Config::open(source)?;
    let from = Checkpoint::open(source)?;
    let prefix = PREFIXES.into_iter().find(|p| from.has(&format!("{p}embed_tokens.weight")));
    let prefix = prefix.ok_or_else(|| {
        ConvertError::invalid(
            source,
            "tensor `model.embed_tokens.weight`",
            format!("shape [{}, {}]", c.vocab, c.hidden),
            "none",
        )
    })?;
    let place = source.canonicalize().map_err(ConvertError::io(source))?;
    let plan = format!("{layout:?}\n{c:?}\n{}\n{}", place.display(), from.identity());
    // Checked before the folder is made.
    let steps = match layout {
        Layout::Anemll(o) => {
            let conversion = anemll::Conversion { c: &c, from: &from, tensors: prefix, o };
            conversion.check()?;
            conversion.steps()
        }
        Layout::Stateful(o) => {
            apple::Conversion { c: &c, from: &from, tensors: prefix, o }.check()?;
            c.layers + 1
        }
        Layout::Encoder(_) => return Ok(()),
    };
    let mut job = Job::start(to, &plan, steps)?;
    match layout {
        Layout::Anemll(o) => anemll::Conversion { c: &c, from: &from, tensors: prefix, o }.run(&mut job)?,
        Layout::Stateful(o) => apple::Conversion { c: &c, from: &from, tensors: prefix, o }.run(&mut job)?,
        Layout::Encoder(_) => {}
    }
    // Rotary frequencies follow from the configuration, a tied head is the embeddings, images have no place here.
    let spare = |name: &str| {
        name.ends_with("rotary_emb.inv_freq")
            || (c.tied && name.ends_with("lm_head.weight"))
            || ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."]
                .iter()
                .any(|p| name.starts_with(p))
    };
    finish(job, source, &from, &spare, &FILES)
}

/// Converts an encoder.
fn encode(source: &Path, o: &Encoder, to: &Path) -> Result<()> {
    let c = encoder::Config::open(source)?;
    let modules = encoder::Modules::open(source, c.hidden)?;
    let from = Checkpoint::open(source)?;
    let words = "embeddings.word_embeddings.weight";
    let prefix = c.prefixes().find(|p| from.has(&format!("{p}{words}"))).ok_or_else(|| {
        let expected = format!("shape [{}, {}]", c.vocab, c.hidden);
        ConvertError::invalid(source, format!("tensor `{words}`"), expected, "none")
    })?;
    let place = source.canonicalize().map_err(ConvertError::io(source))?;
    let plan = format!("{o:?}\n{c:?}\n{modules:?}\n{}\n{}", place.display(), from.identity());
    let conversion = encoder::Conversion { c: &c, from: &from, prefix, modules: modules.as_ref(), o };
    conversion.check()?;
    let mut job = Job::start(to, &plan, c.layers + 1)?;
    conversion.run(&mut job)?;
    finish(job, source, &from, &encoder::spare, &[&FILES[..], &encoder::FILES[..]].concat())
}

/// Refuses tensors that nothing read, copies the small files and gives the folder its name.
fn finish(job: Job, source: &Path, from: &Checkpoint, spare: &dyn Fn(&str) -> bool, files: &[&str]) -> Result<()> {
    if !job.resumed()
        && let Err(e) = from.all_used(spare)
    {
        job.discard();
        return Err(e);
    }
    job.copy(source, files)?;
    job.finish()
}
