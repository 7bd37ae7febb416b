//! A decoder layer, and what surrounds the layers, over caches in states.

use std::cell::RefCell;
use std::collections::HashMap;

use coreml_format::dtype::DataType;
use coreml_format::program::Value;
use coreml_write::builder::{BuildError, FunctionBuilder, Var};

use crate::config::{Config, Family};
use crate::net::{self, HALF, Matrix};
use crate::weights::Layer;

/// How a function writes the caches of local layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// At the position of the token, within the window.
    Fill,
    /// At the end, after a shift.
    Rotate,
}

/// Sizes of a function's caches, and how it writes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caches {
    /// Columns of the mask, unless a window is longer.
    pub(crate) context: usize,
    /// Tokens of the cache of layers that are not local.
    pub(crate) length: usize,
    pub(crate) tokens: usize,
    pub(crate) local: Local,
    /// One cache for all layers.
    pub(crate) single: bool,
    /// Rows are written where the input `update_mask` says.
    pub(crate) masked: bool,
}

/// Inputs and caches of a function of ANEMLL's layout.
pub(crate) struct Frame<'a> {
    c: &'a Config,
    tokens: usize,
    local: Local,
    from: Var,
    to: Var,
    update: Option<Var>,
    position_ids: Var,
    tables: Tables,
    lookups: RefCell<net::Lookups>,
    /// Rows of the tables at the positions, of local layers or others.
    ropes: RefCell<HashMap<bool, (Var, Var)>>,
    /// Bounds of updates: a row, and the position from which or up to which it is written.
    bounds: RefCell<HashMap<(usize, bool), Var>>,
    /// Of all layers, or of those that are not local.
    cache: Cache,
    local_cache: Option<Cache>,
}

/// A cache, and the mask of its rows.
struct Cache {
    state: net::State,
    mask: Var,
    layers: usize,
}

/// Tables of rotary embeddings.
#[derive(Clone)]
pub(crate) struct Tables {
    pub(crate) rope: (Value, Value),
    pub(crate) local: Option<(Value, Value)>,
}

impl<'a> Frame<'a> {
    /// Declares the inputs after the first one, and the states.
    pub(crate) fn new(
        f: &mut FunctionBuilder,
        c: &'a Config,
        caches: Caches,
        tables: &Tables,
        lookups: net::Lookups,
    ) -> Result<Self, BuildError> {
        let Caches { context, length, tokens, local, .. } = caches;
        // Masks are as wide as the longest cache.
        let window = c.window.filter(|_| c.locals() > 0);
        let width = window.map_or(context, |w| w.max(context));
        let position_ids = f.input("position_ids", DataType::I32, [tokens])?;
        let mask = f.input("causal_mask", HALF, [1, 1, tokens, width])?;
        let from = f.input("current_pos", DataType::I32, [1])?;
        let update = caches.masked.then(|| f.input("update_mask", HALF, [1, 1, width, tokens])).transpose()?;
        let (locals, all) = (c.locals(), c.layers);
        let cache = |f: &mut FunctionBuilder, name: &str, layers: usize, rows: usize| {
            let shape = [2 * layers.max(1), c.kv, rows, c.head];
            let state = net::State::new(f.state(&format!("model_model_kv_cache_{name}"), HALF, &shape)?);
            let mask = if rows < width { net::last(f, &mask, 0, rows)? } else { mask.clone() };
            Ok::<_, BuildError>(Cache { state, mask, layers })
        };
        let (local_cache, cache) = match window.filter(|_| !caches.single) {
            Some(window) => (Some(cache(f, "local", locals, window)?), cache(f, "global", all - locals, length)?),
            None => (None, cache(f, "0", all, length)?),
        };
        let to = f.op("add").arg("x", &from).arg("y", tokens).done()?;
        let (lookups, tables) = (RefCell::new(lookups), tables.clone());
        let (ropes, bounds) = Default::default();
        Ok(Self {
            c,
            tokens,
            local,
            from,
            to,
            update,
            position_ids,
            tables,
            lookups,
            ropes,
            bounds,
            cache,
            local_cache,
        })
    }

    /// Cosines and sines of the tokens' positions, in the form that the family's rotation takes.
    fn rope(&self, f: &mut FunctionBuilder, is_local: bool) -> Result<(Var, Var), BuildError> {
        let local = self.tables.local.as_ref().filter(|_| is_local);
        let known = self.ropes.borrow().get(&local.is_some()).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let (cos, sin) = local.unwrap_or(&self.tables.rope);
        let mut lookups = self.lookups.borrow_mut();
        // As ANEMLL's functions do: one token is where it is written.
        let mut pair = if self.tokens == 1 {
            let sin = net::positions(f, &mut lookups, sin, &self.from)?;
            (net::positions(f, &mut lookups, cos, &self.from)?, sin)
        } else {
            let cos = net::positions(f, &mut lookups, cos, &self.position_ids)?;
            (cos, net::positions(f, &mut lookups, sin, &self.position_ids)?)
        };
        if self.c.family.is_llama() {
            let half = self.c.head / 2;
            pair = (net::last(f, &pair.0, 0, half)?, net::last(f, &pair.1, 0, half)?);
        }
        self.ropes.borrow_mut().insert(local.is_some(), pair.clone());
        Ok(pair)
    }

    fn bound(&self, f: &mut FunctionBuilder, row: usize, is_end: bool) -> Result<Var, BuildError> {
        let known = self.bounds.borrow().get(&(row, is_end)).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let new = net::bound(f, row, if is_end { &self.to } else { &self.from })?;
        self.bounds.borrow_mut().insert((row, is_end), new.clone());
        Ok(new)
    }

    /// Writes `x` `[1, kv, tokens, head]` to a row of a cache; returns the new content.
    fn keep(
        &self,
        f: &mut FunctionBuilder,
        cache: &Cache,
        is_local: bool,
        x: &Var,
        row: usize,
    ) -> Result<Var, BuildError> {
        match &self.update {
            _ if is_local && self.local == Local::Rotate => net::append(f, &cache.state, x, row),
            Some(update) => net::blend(f, &cache.state, x, row, update),
            None => {
                let (begin, end) = (self.bound(f, row, false)?, self.bound(f, row + 1, true)?);
                net::write(f, &cache.state, x, &begin, &end)
            }
        }
    }

    fn project(
        &self,
        f: &mut FunctionBuilder,
        x: &Var,
        w: &crate::weights::Linear,
        name: &str,
        heads: usize,
    ) -> Result<Var, BuildError> {
        let weight = net::matrix(f, name, &w.weight)?;
        let y = net::conv(f, x, &weight, w.bias.as_ref())?;
        if self.tokens == 1 {
            return net::reshape(f, &y, &[1, heads, 1, self.c.head]);
        }
        let y = net::reshape(f, &y, &[1, heads, self.c.head, self.tokens])?;
        net::transpose(f, &y, &[0, 1, 3, 2])
    }

    /// A layer: `[1, tokens, hidden]` to the same. Without its MLP where only its caches are wanted.
    pub(crate) fn layer(
        &self,
        f: &mut FunctionBuilder,
        x: &Var,
        w: &Layer,
        caches_only: bool,
    ) -> Result<Var, BuildError> {
        let (c, llama) = (self.c, self.c.family.is_llama());
        let name = |part: &str| format!("model_model_layers_{}_{part}_weight", w.index);
        let is_local = c.local[w.index];
        let normed = net::rms_norm(f, x, &w.input_norm, c.eps)?;
        let wide = net::channels_first(f, &normed)?;
        let mut q = self.project(f, &wide, &w.q, &name("self_attn_q_proj"), c.heads)?;
        let mut k = self.project(f, &wide, &w.k, &name("self_attn_k_proj"), c.kv)?;
        let v = self.project(f, &wide, &w.v, &name("self_attn_v_proj"), c.kv)?;
        if let Some(gain) = &w.q_norm {
            q = net::rms_norm(f, &q, gain, c.eps)?;
        }
        if let Some(gain) = &w.k_norm {
            k = net::rms_norm(f, &k, gain, c.eps)?;
        }
        let (cos, sin) = self.rope(f, is_local)?;
        let rotate = if llama { net::rotate_halves } else { net::rotate };
        let q = rotate(f, &q, &cos, &sin, c.head)?;
        let k = rotate(f, &k, &cos, &sin, c.head)?;
        // Keys first, then values; rows count the layers of a cache.
        let before = c.local[..w.index].iter().filter(|l| **l == is_local).count();
        let own = self.local_cache.as_ref().filter(|_| is_local);
        let cache = own.unwrap_or(&self.cache);
        let row = if self.local_cache.is_some() { before } else { w.index };
        self.keep(f, cache, own.is_some(), &k, row)?;
        let content = self.keep(f, cache, own.is_some(), &v, cache.layers + row)?;
        // A cache may have more rows than the mask has columns.
        let keys = net::repeated(f, &content, row, c.heads, false)?;
        let keys = net::as_long_as(f, &keys, &cache.mask)?;
        let row = cache.layers + row;
        let values = if self.tokens == 1 {
            let values = net::repeated(f, &content, row, c.heads, false)?;
            net::as_long_as(f, &values, &cache.mask)?
        } else {
            net::flat_values(f, &content, row, c.heads, &cache.mask, c.joins_reshapes(&w.gate.weight))?
        };
        let attended = net::attention(f, &q, &keys, &values, c.scale, &cache.mask, llama)?;
        let attended = net::transpose(f, &attended, &[0, 2, 1, 3])?;
        let attended = net::reshape(f, &attended, &[1, self.tokens, c.heads * c.head])?;
        let mut y = if llama {
            net::linear(f, &attended, &w.o, &name("self_attn_o_proj"))?
        } else {
            let attended = net::transpose(f, &attended, &[0, 2, 1])?;
            let o = net::matrix(f, &name("self_attn_o_proj"), &w.o.weight)?;
            let y = net::conv(f, &attended, &o, None)?;
            net::transpose(f, &y, &[0, 2, 1])?
        };
        if w.mlp_norms.is_some() {
            y = net::rms_norm(f, &y, &w.post_norm, c.eps)?;
        }
        let x = f.op("add").arg("x", x).arg("y", &y).done()?;
        if caches_only {
            return Ok(x);
        }
        let before = w.mlp_norms.as_ref().map_or(&w.post_norm, |norms| &norms.0);
        let y = net::rms_norm(f, &x, before, c.eps)?;
        let y = net::channels_first(f, &y)?;
        let (gate, up) = (
            net::matrix(f, &name("mlp_gate_proj"), &w.gate.weight)?,
            net::matrix(f, &name("mlp_up_proj"), &w.up.weight)?,
        );
        let down = net::matrix(f, &name("mlp_down_proj"), &w.down.weight)?;
        let (gate, up) = (net::conv(f, &y, &gate, None)?, net::conv(f, &y, &up, None)?);
        let gate = if c.family == Family::Gemma3 {
            f.op("gelu").arg("x", &gate).arg("mode", "TANH_APPROXIMATION").done()?
        } else {
            f.op("silu").arg("x", &gate).done()?
        };
        let y = f.op("mul").arg("x", &gate).arg("y", &up).done()?;
        let y = net::conv(f, &y, &down, None)?;
        let mut y = net::tokens_first(f, &y)?;
        if let Some((_, after)) = &w.mlp_norms {
            y = net::rms_norm(f, &y, after, c.eps)?;
        }
        f.op("add").arg("x", &x).arg("y", &y).done()
    }

    /// Reads both caches, as Core ML wants every state used and layers may be of one kind; adds nothing. A function of all
    /// layers has some of both kinds, unless the model has not.
    pub(crate) fn touch(&self, f: &mut FunctionBuilder, x: &Var, is_whole: bool) -> Result<Var, BuildError> {
        let Some(local) = self.local_cache.as_ref() else { return Ok(x.clone()) };
        if is_whole && (1..self.c.layers).contains(&self.c.locals()) {
            return Ok(x.clone());
        }
        let (a, b) = (net::nothing(f, &local.state)?, net::nothing(f, &self.cache.state)?);
        let zero = f.op("add").arg("x", &a).arg("y", &b).done()?;
        let zero = net::reshape(f, &zero, &[1, 1, 1])?;
        f.op("add").arg("x", x).arg("y", &zero).done()
    }
}

/// Parts of the logits: rows of each, the first ones one more.
pub(crate) fn parts(vocab: usize, count: usize) -> Vec<std::ops::Range<usize>> {
    let (each, more) = (vocab / count, vocab % count);
    let mut at = 0;
    (0..count)
        .map(|i| {
            let from = at;
            at += each + usize::from(i < more);
            from..at
        })
        .collect()
}

/// What a head returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// `logits1` ….
    Logits,
    /// `argmax_idx` within each part, and `argmax_val`: gathered where it was found, or the maximum.
    Argmax {
        /// The maximum.
        reduced: bool,
    },
}

/// The head: `[1, tokens, hidden]`, normed, to logits or their maxima.
pub(crate) fn head(f: &mut FunctionBuilder, x: &Var, matrices: &[Matrix], output: Output) -> Result<(), BuildError> {
    let wide = net::channels_first(f, x)?;
    let narrow = matrices.iter().all(|m| net::is_narrow(m.rows()));
    let (mut indices, mut values) = (Vec::new(), Vec::new());
    for (i, m) in matrices.iter().enumerate() {
        let weight = net::matrix(f, &format!("lm_head_{}_weight", i + 1), m)?;
        let y = net::conv(f, &wide, &weight, None)?;
        let y = net::tokens_first(f, &y)?;
        match output {
            Output::Logits if matrices.len() == 1 => f.output("logits", &y)?,
            Output::Logits => f.output(&format!("logits{}", i + 1), &y)?,
            Output::Argmax { reduced } => {
                let at = f.op("reduce_argmax").arg("x", &y).arg("axis", -1).arg("keep_dims", true).done()?;
                values.push(if reduced {
                    f.op("reduce_max").arg("x", &y).arg("axes", [-1]).arg("keep_dims", true).done()?
                } else {
                    let narrow = match i {
                        _ if !narrow => at.clone(),
                        0 => net::cast(f, &at, "uint16")?,
                        _ => net::cast(f, &at, "int16")?,
                    };
                    f.op("gather_along_axis").arg("x", &y).arg("indices", &narrow).arg("axis", -1).done()?
                });
                indices.push(at);
            }
        }
    }
    let Output::Argmax { reduced } = output else { return Ok(()) };
    for (name, all) in [("argmax_idx", indices), ("argmax_val", values)] {
        let mut x = f.op("concat").arg("values", all).arg("axis", -1).arg("interleave", false).done()?;
        let narrow = narrow && name == "argmax_idx";
        if narrow {
            x = net::cast(f, &x, if reduced { "uint16" } else { "int16" })?;
        }
        for _ in 0..2 {
            x = f.op("squeeze").arg("x", &x).arg("axes", [0]).done()?;
        }
        if narrow {
            x = net::cast(f, &x, "int32")?;
        }
        f.output(name, &x)?;
    }
    Ok(())
}
