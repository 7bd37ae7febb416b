//! A network with the cache of one conversation.

use candle_core::{DType, Device, Tensor};

use super::checkpoint::Checkpoint;
use super::families::Network;
use crate::error::{Error, Result};
use crate::generation::Decoder;

/// Distance of the snapshot from the end of the prompt: more than a chat template adds after the last message, so that
/// the next prompt of the conversation shares the snapshot's prefix.
const BEFORE_END: usize = 16;

/// The network, its cache and the cached tokens.
///
/// candle-transformers' caches only grow, so a snapshot of an earlier position is kept for rewinding: clones of a
/// network share its tensors, and growing the cache leaves the old tensors unchanged.
pub(super) struct Cached {
    network: Box<dyn Network>,
    empty: Box<dyn Network>,
    remembered: Option<(usize, Box<dyn Network>)>,
    tokens: Vec<u32>,
    context: usize,
    vocab: usize,
    device: Device,
}

impl Cached {
    /// Loads the network of a checkpoint.
    pub(super) fn load(checkpoint: &Checkpoint, device: &Device, dtype: DType, context: usize) -> Result<Self> {
        if context < 2 {
            return Err(Error::Request(format!("a context of {context} tokens: expected at least 2")));
        }
        let empty = checkpoint.network(device, dtype, context)?;
        Ok(Self {
            network: empty.clone(),
            empty,
            remembered: None,
            tokens: Vec::new(),
            context,
            vocab: checkpoint.config.vocab_size,
            device: device.clone(),
        })
    }

    /// The same network, with an empty cache.
    pub(super) fn fork(&self) -> Self {
        Self {
            network: self.empty.clone(),
            empty: self.empty.clone(),
            remembered: None,
            tokens: Vec::new(),
            context: self.context,
            vocab: self.vocab,
            device: self.device.clone(),
        }
    }

    /// Vocabulary size.
    pub(super) fn vocab(&self) -> usize {
        self.vocab
    }

    fn clear(&mut self) {
        self.network = self.empty.clone();
        self.remembered = None;
        self.tokens.clear();
    }

    fn step(&mut self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let input = Tensor::new(ids, &self.device)?.unsqueeze(0)?;
        let logits = self.network.forward(&input, self.tokens.len())?;
        let logits = logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        self.tokens.extend(ids);
        Ok(logits)
    }

    fn run(&mut self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let overwrites = self.network.window().is_some_and(|window| self.tokens.len() + ids.len() > window);
        if overwrites {
            // The snapshot shares the cache.
            self.remembered = None;
        }
        if ids.len() <= BEFORE_END || overwrites {
            return self.step(ids);
        }
        let (first, last) = ids.split_at(ids.len() - BEFORE_END);
        self.step(first)?;
        self.remembered = Some((self.tokens.len(), self.network.clone()));
        self.step(last)
    }
}

impl Decoder for Cached {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn truncate(&mut self, length: usize) -> usize {
        if length < self.tokens.len() {
            match &self.remembered {
                Some((position, network)) if *position <= length => {
                    self.network = network.clone();
                    self.tokens.truncate(*position);
                }
                _ => self.clear(),
            }
        }
        self.tokens.len()
    }

    fn context(&self) -> usize {
        self.context
    }

    fn forward(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let total = self.tokens.len() + ids.len();
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
            return Err(Error::unknown_token(id, self.vocab));
        }
        if total > self.context {
            return Err(Error::PromptTooLong { tokens: total, context: self.context });
        }
        self.run(ids).map_err(|e| {
            // Some layers may have processed the tokens, others not.
            self.clear();
            Error::Candle(e)
        })
    }

    /// Reruns half of the context when it is full.
    fn forward_with_shift(&mut self, id: u32) -> Result<Vec<f32>> {
        if self.tokens.len() < self.context {
            return self.forward(&[id]);
        }
        let mut tail = self.tokens.split_off(self.tokens.len() - self.context / 2);
        tail.push(id);
        self.clear();
        self.forward(&tail)
    }
}
