//! ANEMLL's layout, as its version 0.3.6 writes it: embeddings, chunks of layers with functions over one cache, a head;
//! or all of it in one file.

use std::path::Path;

use coreml_format::program::{Opset, Value};
use coreml_write::builder::{Extents, FunctionBuilder, PackageBuilder, Var};

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Family};
use crate::decoder::{self, Caches, Frame, Local, Output, Tables};
use crate::error::{ConvertError, Result};
use crate::job::Job;
use crate::net::{self, HALF, Matrix};
use crate::weights::{Layer, Lut, Store};

mod meta;

/// Options of ANEMLL's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anemll {
    /// Context length.
    pub context: usize,
    /// Tokens of a prefill.
    pub batch: usize,
    /// Number of files of layers.
    pub chunks: usize,
    /// One file with embeddings, layers and head instead.
    pub monolithic: bool,
    /// The head returns the largest logit of each part and its index, for greedy generation.
    pub argmax: bool,
    /// Tables for the embeddings.
    pub lut_embeddings: Option<Lut>,
    /// Tables for the layers.
    pub lut_ffn: Option<Lut>,
    /// Tables for the head.
    pub lut_head: Option<Lut>,
    /// Prefix of the files; that of the family if omitted.
    pub prefix: Option<String>,
    /// Parts of the logits; those of the family if omitted.
    pub parts: Option<usize>,
    /// Functions that rotate local caches in files of their own.
    pub split_rotate: bool,
    /// One cache for all layers where some are local; the context may not be longer than their window.
    pub single_cache: bool,
    /// Prefill writes the cache rows that an input, `update_mask`, says, as versions before 0.3.5 do.
    pub static_slices: bool,
    /// Tokens of the cache of layers that are not local; the context if omitted.
    pub state_length: Option<usize>,
    /// Shorter contexts, each with functions and caches of its own (`infer_ctx64`, …): state-transition packages.
    pub contexts: Vec<usize>,
}

impl Default for Anemll {
    fn default() -> Self {
        Self {
            context: 512,
            batch: 64,
            chunks: 1,
            monolithic: false,
            argmax: false,
            lut_embeddings: None,
            lut_ffn: None,
            lut_head: None,
            prefix: None,
            parts: None,
            split_rotate: false,
            single_cache: false,
            static_slices: false,
            state_length: None,
            contexts: Vec::new(),
        }
    }
}

fn suffix(lut: Option<Lut>) -> String {
    lut.map_or_else(String::new, |l| format!("_lut{}", l.bits))
}

/// A function of the layers.
struct Task {
    name: String,
    tokens: usize,
    local: Local,
    context: usize,
}

impl Task {
    fn is_prefill(&self) -> bool {
        self.name.starts_with("prefill")
    }

    fn rotates(&self) -> bool {
        self.local == Local::Rotate
    }
}

fn words(lut: Option<Lut>) -> String {
    lut.map_or_else(|| "none".to_owned(), |l| l.bits.to_string())
}

/// A conversion to this layout.
pub(crate) struct Conversion<'a> {
    pub(crate) c: &'a Config,
    pub(crate) from: &'a Checkpoint,
    /// Prefix of the decoder's tensors.
    pub(crate) tensors: &'a str,
    pub(crate) o: &'a Anemll,
}

impl Conversion<'_> {
    fn prefix(&self) -> &str {
        self.o.prefix.as_deref().unwrap_or(self.c.prefix)
    }

    fn part_count(&self) -> usize {
        self.o.parts.unwrap_or(self.c.parts)
    }

    /// Checks options against the model.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |place: &str, expected: String, found: usize| {
            Err(ConvertError::invalid(&self.from.folder, place, expected, found.to_string()))
        };
        let (o, c) = (self.o, self.c);
        if o.context == 0 || o.context > 1 << 20 {
            return wrong("the context", "1 to 1048576".to_owned(), o.context);
        }
        if o.batch == 0 || o.batch > o.context {
            return wrong("the batch", format!("1 to the context of {}", o.context), o.batch);
        }
        if !(1..=c.layers).contains(&o.chunks) {
            return wrong("the chunks", format!("1 to {}", c.layers), o.chunks);
        }
        if !(1..=64).contains(&self.part_count()) {
            return wrong("the parts of the logits", "1 to 64".to_owned(), self.part_count());
        }
        for lut in [o.lut_embeddings, o.lut_ffn, o.lut_head].into_iter().flatten() {
            if ![1, 2, 3, 4, 6, 8].contains(&lut.bits) || lut.group == Some(0) {
                return wrong("the bits of tables", "1, 2, 3, 4, 6 or 8".to_owned(), lut.bits);
            }
        }
        let local = c.window.filter(|_| c.locals() > 0);
        if let Some(window) = c.window.filter(|w| c.family == Family::Mistral && *w < o.context) {
            // Mistral's window is not kept: it must not matter.
            return wrong("the context", format!("at most the window of {window}"), o.context);
        }
        if let Some(window) = local.filter(|w| o.batch > *w) {
            return wrong("the batch", format!("at most the window of {window}"), o.batch);
        }
        if let Some(window) = local.filter(|w| o.single_cache && o.context > *w) {
            return wrong("the context", format!("at most the window of {window}, with one cache"), o.context);
        }
        if let Some(length) = o.state_length.filter(|n| !(o.batch..=1 << 20).contains(n)) {
            return wrong("the state length", format!("{} to 1048576", o.batch), length);
        }
        if let Some(&shorter) = o.contexts.iter().find(|n| !(o.batch..o.context).contains(n)) {
            return wrong("a shorter context", format!("{} to {}", o.batch, o.context.saturating_sub(1)), shorter);
        }
        if !o.contexts.is_empty() && (local.is_some() || o.monolithic || o.state_length.is_some()) {
            return wrong("the shorter contexts", "none for this model and layout".to_owned(), o.contexts.len());
        }
        Ok(())
    }

    /// Functions of the layers.
    fn functions(&self) -> Vec<Task> {
        let (o, c) = (self.o, self.c);
        let task = |name: &str, tokens, local, context| Task { name: name.to_owned(), tokens, local, context };
        let mut all = Vec::new();
        let mut contexts = o.contexts.clone();
        contexts.sort_unstable();
        contexts.dedup();
        if !contexts.is_empty() {
            contexts.push(o.context);
        }
        for (kind, tokens) in [("infer", 1), ("prefill", o.batch)] {
            all.push(task(kind, tokens, Local::Fill, o.context));
            if c.locals() > 0 && !o.single_cache && c.window.is_some_and(|w| o.context > w) {
                all.push(task(&format!("{kind}_rotate"), tokens, Local::Rotate, o.context));
            }
            all.extend(contexts.iter().map(|&n| task(&format!("{kind}_ctx{n}"), tokens, Local::Fill, n)));
        }
        all
    }

    /// Caches of a function, and the masks that it takes.
    fn caches(&self, task: &Task) -> Caches {
        Caches {
            context: task.context,
            length: self.o.state_length.unwrap_or(task.context),
            tokens: task.tokens,
            local: task.local,
            single: self.o.single_cache,
            masked: self.o.static_slices && task.is_prefill() && !task.rotates(),
        }
    }

    /// Number of weights and packages that are written.
    pub(crate) fn steps(&self) -> usize {
        let copies = if self.splits() { 2 } else { 1 };
        match self.o.monolithic {
            true => self.c.layers + 1,
            false => copies * (self.c.layers + self.o.chunks) + 2,
        }
    }

    /// Whether functions that rotate are in files of their own.
    fn splits(&self) -> bool {
        self.o.split_rotate && !self.o.monolithic && self.functions().iter().any(Task::rotates)
    }

    /// What stands in a name of layers for state transitions.
    fn statex(&self) -> &'static str {
        if self.o.contexts.is_empty() { "" } else { "_statex" }
    }

    fn store<'s>(&'s self, to: &'s mut PackageBuilder, lut: Option<Lut>) -> Store<'s> {
        Store { from: self.from, to, prefix: self.tensors, lut }
    }

    fn tables(&self, store: &mut Store<'_>) -> Result<Tables> {
        let window = self.c.window.filter(|_| self.c.locals() > 0);
        let longest = self.o.context.max(self.o.state_length.unwrap_or(0));
        let positions = 2 * longest.max(window.unwrap_or(0));
        let rope = store.rope(self.c, &self.c.rope, positions)?;
        let local = window.map(|_| store.rope(self.c, &self.c.local_rope, positions)).transpose()?;
        Ok(Tables { rope, local })
    }

    fn embedding_scale(&self) -> Option<f64> {
        (self.c.family == Family::Gemma3).then(|| (self.c.hidden as f64).sqrt())
    }

    /// Metadata of a package.
    fn tag(&self, package: &mut PackageBuilder, lut: Option<Lut>, more: &[(&str, String)]) {
        let user = &mut package.description.metadata.user;
        let mut put = |key: &str, value: String| user.insert(format!("com.anemll.{key}"), value);
        put("info", "Converted with candle-coreml".to_owned());
        put("context_length", self.o.context.to_string());
        if let Some(lut) = lut {
            put("lut_bits", lut.bits.to_string());
        }
        for (key, value) in more {
            put(key, value.clone());
        }
    }

    fn head_tags(&self) -> Vec<(&'static str, String)> {
        let sizes: Vec<String> =
            decoder::parts(self.c.vocab, self.part_count()).iter().map(|p| p.len().to_string()).collect();
        let mut tags = vec![("vocab_size", self.c.vocab.to_string()), ("lm_head_chunk_sizes", sizes.join(","))];
        if self.o.argmax {
            tags.push(("argmax_in_model", "true".to_owned()));
        }
        tags
    }

    fn head_matrices(&self, store: &mut Store<'_>) -> Result<Vec<Matrix>> {
        decoder::parts(self.c.vocab, self.part_count()).into_iter().map(|rows| store.head(self.c, rows, 4)).collect()
    }

    fn output(&self) -> Output {
        // As ANEMLL's converters of the families do.
        let reduced = self.c.family == Family::Gemma3;
        if self.o.argmax { Output::Argmax { reduced } } else { Output::Logits }
    }

    /// Writes every package and `meta.yaml` into the folder of a job.
    pub(crate) fn run(&self, job: &mut Job) -> Result<()> {
        if self.o.monolithic {
            self.whole(job)?
        } else {
            self.chunked(job)?
        }
        job.text("meta.yaml", &self.meta(job.name()))
    }

    fn chunked(&self, job: &mut Job) -> Result<()> {
        let (o, c, p) = (self.o, self.c, self.prefix());
        job.package(&format!("{p}_embeddings{}", suffix(o.lut_embeddings)), |path, _| self.embeddings(path))?;
        for (i, layers) in decoder::parts(c.layers, o.chunks).into_iter().enumerate() {
            let (lut, x) = (suffix(o.lut_ffn), self.statex());
            let name = format!("{p}_FFN_PF{lut}{x}_chunk_{:02}of{:02}", i + 1, o.chunks);
            let every: &dyn Fn(&Task) -> bool = if self.splits() { &|t| !t.rotates() } else { &|_| true };
            job.package(&name, |path, progress| self.chunk(path, i, layers.clone(), every, progress))?;
            if self.splits() {
                let name = format!("{name}_rot");
                job.package(&name, |path, progress| self.chunk(path, i, layers.clone(), &Task::rotates, progress))?;
            }
        }
        job.package(&format!("{p}_lm_head{}", suffix(o.lut_head)), |path, _| self.lm_head(path))
    }

    fn embeddings(&self, path: &Path) -> Result<()> {
        let mut package = PackageBuilder::create(path)?;
        let table = self.store(&mut package, self.o.lut_embeddings).embeddings(self.c)?;
        let mut f = FunctionBuilder::new(Opset::Ios18);
        let shapes = if self.o.batch == 1 { vec![vec![1, 1]] } else { vec![vec![1, 1], vec![1, self.o.batch]] };
        let ids = f.input("input_ids", coreml_format::dtype::DataType::I32, Extents::Enumerated(shapes))?;
        let x = net::embed(
            &mut f,
            &mut net::Lookups::new(self.o.lut_embeddings.is_some()),
            &table,
            &ids,
            self.embedding_scale(),
        )?;
        f.output("hidden_states", &x)?;
        self.tag(&mut package, self.o.lut_embeddings, &[]);
        package.add("main", f)?;
        Ok(package.finish()?)
    }

    fn lm_head(&self, path: &Path) -> Result<()> {
        let mut package = PackageBuilder::create(path)?;
        let matrices = self.head_matrices(&mut self.store(&mut package, self.o.lut_head))?;
        let mut f = FunctionBuilder::new(Opset::Ios18);
        let x = f.input("hidden_states", HALF, [1, 1, self.c.hidden])?;
        decoder::head(&mut f, &x, &matrices, self.output())?;
        self.tag(&mut package, self.o.lut_head, &self.head_tags());
        package.add("main", f)?;
        Ok(package.finish()?)
    }

    fn layers(
        &self,
        store: &mut Store<'_>,
        layers: std::ops::Range<usize>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Layer>> {
        layers
            .map(|i| {
                let layer = store.layer(self.c, i, 4);
                progress(i);
                layer
            })
            .collect()
    }

    fn chunk(
        &self,
        path: &Path,
        number: usize,
        layers: std::ops::Range<usize>,
        wanted: &dyn Fn(&Task) -> bool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let (o, c) = (self.o, self.c);
        let last = layers.end == c.layers;
        let mut package = PackageBuilder::create(path)?;
        let mut store = self.store(&mut package, o.lut_ffn);
        let tables = self.tables(&mut store)?;
        let weights = self.layers(&mut store, layers.clone(), progress)?;
        let norm = if last { Some(store.final_norm(c)?) } else { None };
        for task in self.functions().iter().filter(|t| wanted(t)) {
            let mut f = FunctionBuilder::new(Opset::Ios18);
            let mut x = f.input("hidden_states", HALF, [1, task.tokens, c.hidden])?;
            f.keep_inputs();
            let frame = Frame::new(&mut f, c, self.caches(task), &tables, net::Lookups::new(o.lut_ffn.is_some()))?;
            let prefill = task.is_prefill();
            for layer in &weights {
                x = frame.layer(&mut f, &x, layer, self.ends(task, layer))?;
            }
            if let Some(norm) = norm.as_ref().filter(|_| !prefill) {
                x = net::rms_norm(&mut f, &x, norm, c.eps)?;
            }
            x = frame.touch(&mut f, &x, false)?;
            if last && prefill && task.tokens > 1 {
                // No one reads what the last chunk makes of a prompt but its caches.
                x = net::part(&mut f, &x, &[0, 0, 0], &[1, 1, c.hidden])?;
            }
            f.output("output_hidden_states", &x)?;
            package.add(&task.name, f)?;
        }
        let tags = [
            ("num_chunks", o.chunks.to_string()),
            ("chunk_no", (number + 1).to_string()),
            ("batch_size", o.batch.to_string()),
        ];
        self.tag(&mut package, o.lut_ffn, &tags);
        Ok(package.finish()?)
    }

    /// Whether a function needs no more of a layer than its caches: the last one of a prompt, as ANEMLL's Llama has it.
    fn ends(&self, task: &Task, layer: &Layer) -> bool {
        self.c.family.is_llama() && task.is_prefill() && layer.index + 1 == self.c.layers
    }

    fn whole(&self, job: &mut Job) -> Result<()> {
        let name = format!("{}_monolithic_full{}", self.prefix(), suffix(self.o.lut_ffn));
        job.package(&name, |path, progress| self.monolithic(path, progress))
    }

    fn monolithic(&self, path: &Path, progress: &mut dyn FnMut(usize)) -> Result<()> {
        let (o, c) = (self.o, self.c);
        let mut package = PackageBuilder::create(path)?;
        let mut store = self.store(&mut package, o.lut_embeddings);
        let embeddings = store.embeddings(c)?;
        store.lut = o.lut_ffn;
        let tables = self.tables(&mut store)?;
        let weights = self.layers(&mut store, 0..c.layers, progress)?;
        let norm: Value = store.final_norm(c)?;
        store.lut = o.lut_head;
        let head = self.head_matrices(&mut store)?;
        for task in &self.functions() {
            let tokens = task.tokens;
            let mut f = FunctionBuilder::new(Opset::Ios18);
            let ids = f.input("input_ids", coreml_format::dtype::DataType::I32, [1, tokens])?;
            f.keep_inputs();
            let any = [o.lut_embeddings, o.lut_ffn, o.lut_head].iter().any(Option::is_some);
            let mut lookups = net::Lookups::new(any);
            let mut x = net::embed(&mut f, &mut lookups, &embeddings, &ids, self.embedding_scale())?;
            let frame = Frame::new(&mut f, c, self.caches(task), &tables, lookups)?;
            for layer in &weights {
                x = frame.layer(&mut f, &x, layer, self.ends(task, layer))?;
            }
            x = frame.touch(&mut f, &x, true)?;
            let (prefill, gemma, llama) = (task.is_prefill(), c.family == Family::Gemma3, c.family.is_llama());
            // No one reads what Llama and Gemma make of a prompt: the caches are what it is for.
            let first = |f: &mut FunctionBuilder, x: &Var| net::part(f, x, &[0, 0, 0], &[1, 1, c.hidden]);
            if prefill && llama {
                x = if tokens > 1 { first(&mut f, &x)? } else { x };
            } else {
                x = net::rms_norm(&mut f, &x, &norm, c.eps)?;
            }
            if prefill && gemma {
                x = if tokens > 1 { first(&mut f, &x)? } else { x };
                f.output("output_hidden_states", &x)?;
            } else {
                decoder::head(&mut f, &x, &head, if prefill { Output::Logits } else { self.output() })?;
            }
            package.add(&task.name, f)?;
        }
        let mut tags = self.head_tags();
        tags.push(("batch_size", o.batch.to_string()));
        self.tag(&mut package, o.lut_ffn, &tags);
        Ok(package.finish()?)
    }
}
