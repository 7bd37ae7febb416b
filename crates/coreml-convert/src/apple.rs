//! Apple's stateful layout: one file with `inputIds` `[1, 1..=context]`, `causalMask` `[1, 1, tokens, end]`, states
//! `keyCache` and `valueCache` `[layers, 1, kv, context, head]`, and `logits` `[1, tokens, vocab]`.

use std::path::Path;

use coreml_format::description::DimRange;
use coreml_format::dtype::DataType;
use coreml_format::program::{Opset, Value};
use coreml_write::builder::{BuildError, Extents, FunctionBuilder, PackageBuilder, Var};

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Family};
use crate::error::{ConvertError, Result};
use crate::job::Job;
use crate::net::{self, HALF};
use crate::weights::{Layer, Linear, Lut, Store};

/// Options of Apple's stateful layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stateful {
    /// Context length.
    pub context: usize,
    /// Tables for the weights.
    pub lut: Option<Lut>,
}

type Built = std::result::Result<Var, BuildError>;

/// A conversion to this layout.
pub(crate) struct Conversion<'a> {
    pub(crate) c: &'a Config,
    pub(crate) from: &'a Checkpoint,
    pub(crate) tensors: &'a str,
    pub(crate) o: &'a Stateful,
}

/// Values that all layers share.
struct Frame {
    mask: Var,
    local_mask: Option<Var>,
    begin: Var,
    end: Var,
    rope: (Var, Var),
    local_rope: Option<(Var, Var)>,
    keys: net::State,
    values: net::State,
}

impl Conversion<'_> {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |expected: String| {
            Err(ConvertError::invalid(&self.from.folder, "the context", expected, self.o.context.to_string()))
        };
        match self.c.window {
            _ if self.o.context == 0 || self.o.context > 1 << 20 => wrong("1 to 1048576".to_owned()),
            Some(window) if self.c.family == Family::Mistral && window < self.o.context => {
                wrong(format!("at most the window of {window}"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn run(&self, job: &mut Job) -> Result<()> {
        job.package("StatefulModel", |path, progress| self.write(path, progress))
    }

    fn write(&self, path: &Path, progress: &mut dyn FnMut(usize)) -> Result<()> {
        let (c, context) = (self.c, self.o.context);
        let mut package = PackageBuilder::create(path)?;
        let mut store = Store { from: self.from, to: &mut package, prefix: self.tensors, lut: self.o.lut };
        let embeddings = store.embeddings(c)?;
        let rope = store.rope(c, &c.rope, context)?;
        let local = (c.locals() > 0).then(|| store.rope(c, &c.local_rope, context)).transpose()?;
        let mut layers = Vec::new();
        for i in 0..c.layers {
            layers.push(store.layer(c, i, 2)?);
            progress(i);
        }
        let norm = store.final_norm(c)?;
        let head = if c.tied { embeddings.clone() } else { store.head(c, 0..c.vocab, 2)? };

        let mut f = FunctionBuilder::new(Opset::Ios18);
        let (one, up) = (DimRange { min: 1, max: Some(1) }, DimRange { min: 1, max: Some(context) });
        let ids = f.input("inputIds", DataType::I32, Extents::Ranges(vec![one, up], vec![1, 1]))?;
        let mask = f.input("causalMask", HALF, Extents::Ranges(vec![one, one, up, up], vec![1; 4]))?;
        let shape = [c.layers, 1, c.kv, context, c.head];
        let keys = net::State::new(f.state("keyCache", HALF, &shape)?);
        let values = net::State::new(f.state("valueCache", HALF, &shape)?);
        let scale = (c.family == Family::Gemma3).then(|| (c.hidden as f64).sqrt());
        let mut x = net::embed(&mut f, &mut net::Lookups::new(self.o.lut.is_some()), &embeddings, &ids, scale)?;
        // The mask ends where the new tokens end.
        let tokens = f.op("shape").arg("x", &ids).done()?;
        let extents = f.op("shape").arg("x", &mask).done()?;
        let (count, end) = (net::element(&mut f, &tokens, 1)?, net::element(&mut f, &extents, 3)?);
        let begin = f.op("sub").arg("x", &end).arg("y", &count).done()?;
        let rope = self.rows(&mut f, &rope, &begin, &end)?;
        let local_rope = local.map(|t| self.rows(&mut f, &t, &begin, &end)).transpose()?;
        let local_mask = c
            .window
            .filter(|&w| c.locals() > 0 && w < context)
            .map(|w| window_mask(&mut f, &mask, &begin, w, context))
            .transpose()?;
        let frame = Frame { mask, local_mask, begin, end, rope, local_rope, keys, values };
        for layer in &layers {
            x = self.layer(&mut f, &frame, &x, layer)?;
        }
        let x = net::rms_norm(&mut f, &x, &norm, c.eps)?;
        // A tied head is a second constant of the same weights.
        let weight = net::matrix(&mut f, "lm_head_weight", &head)?;
        let logits = f.op("linear").arg("x", &x).arg("weight", &weight).done()?;
        f.output("logits", &logits)?;
        package.add("main", f)?;
        package.description.metadata.description = "Converted with candle-coreml".to_owned();
        Ok(package.finish()?)
    }

    /// Rows `begin..end` of the tables.
    fn rows(
        &self,
        f: &mut FunctionBuilder,
        (cos, sin): &(Value, Value),
        begin: &Var,
        end: &Var,
    ) -> std::result::Result<(Var, Var), BuildError> {
        let zero = f.shared("zero", Value::ints(&[0]));
        let bound = |f: &mut FunctionBuilder, at: &Var| {
            f.op("concat").arg("values", [&zero, at, &zero]).arg("axis", 0).arg("interleave", false).done()
        };
        let (from, to) = (bound(f, begin)?, bound(f, end)?);
        let rows = |f: &mut FunctionBuilder, table: &Value| {
            let table = f.shared("rope", table.clone());
            let call = f.op("slice_by_index").arg("x", &table).arg("begin", &from).arg("end", &to);
            call.arg("begin_mask", [true, false, true]).arg("end_mask", [true, false, true]).done()
        };
        Ok((rows(f, cos)?, rows(f, sin)?))
    }

    /// Writes the new tokens to a layer of a cache; returns all of the layer up to their end, `[1, kv, end, head]`.
    fn cached(&self, f: &mut FunctionBuilder, frame: &Frame, cache: &net::State, x: &Var, layer: usize) -> Built {
        let c = self.c;
        let content = cache.read(f)?;
        let at = |f: &mut FunctionBuilder, row: usize, position: &Var| {
            let row = f.shared("row", Value::ints(&[row as i32]));
            let zero = f.shared("zero", Value::ints(&[0]));
            f.op("concat")
                .arg("values", [&row, &zero, &zero, position, &zero])
                .arg("axis", 0)
                .arg("interleave", false)
                .done()
        };
        let (begin, end) = (at(f, layer, &frame.begin)?, at(f, layer + 1, &frame.end)?);
        let wide = f.op("expand_dims").arg("x", x).arg("axes", [0]).done()?;
        let call = f.op("slice_update").arg("x", &content).arg("update", &wide).arg("begin", &begin).arg("end", &end);
        let call = call.arg("stride", [1; 5].map(|n: i32| n)).arg("begin_mask", [false; 5]);
        let new = call.arg("end_mask", [false, true, true, false, true]).arg("squeeze_mask", [false; 5]).done()?;
        let content = cache.write(f, &new)?;
        let (from, to) = ([layer, 0, 0, 0, 0], [layer + 1, 1, c.kv, self.o.context, c.head]);
        let row = f.op("slice_by_index").arg("x", &content).arg("begin", from).arg("end", to);
        let row = row.arg("squeeze_mask", [true, false, false, false, false]).done()?;
        let zero = f.shared("zero", Value::ints(&[0]));
        let stop = f
            .op("concat")
            .arg("values", [&zero, &zero, &frame.end, &zero])
            .arg("axis", 0)
            .arg("interleave", false)
            .done()?;
        let call = f.op("slice_by_index").arg("x", &row).arg("begin", [0; 4].map(|n: i32| n)).arg("end", &stop);
        call.arg("end_mask", [true, true, false, true]).done()
    }

    /// Heads of keys or values, repeated for the query heads that share them.
    fn repeat(&self, f: &mut FunctionBuilder, x: &Var) -> Built {
        let c = self.c;
        let share = c.heads / c.kv;
        if share == 1 {
            return Ok(x.clone());
        }
        let wide = f.op("expand_dims").arg("x", x).arg("axes", [2]).done()?;
        let tiled = f.op("tile").arg("x", &wide).arg("reps", [1, 1, share, 1, 1]).done()?;
        let shape = [1, c.heads as i32, -1, c.head as i32];
        f.op("reshape").arg("x", &tiled).arg("shape", shape).done()
    }

    fn layer(&self, f: &mut FunctionBuilder, frame: &Frame, x: &Var, w: &Layer) -> Built {
        let c = self.c;
        let name = |part: &str| format!("model_layers_{}_{part}_weight", w.index);
        let is_local = c.local[w.index];
        let y = net::rms_norm(f, x, &w.input_norm, c.eps)?;
        let heads = |f: &mut FunctionBuilder, l: &Linear, part: &str, count: usize, gain: Option<&Value>| {
            let y = net::linear(f, &y, l, &name(part))?;
            let mut y = f.op("reshape").arg("x", &y).arg("shape", [1, -1, count as i32, c.head as i32]).done()?;
            if let Some(gain) = gain {
                y = net::rms_norm(f, &y, gain, c.eps)?;
            }
            net::transpose(f, &y, &[0, 2, 1, 3])
        };
        let q = heads(f, &w.q, "self_attn_q_proj", c.heads, w.q_norm.as_ref())?;
        let k = heads(f, &w.k, "self_attn_k_proj", c.kv, w.k_norm.as_ref())?;
        let v = heads(f, &w.v, "self_attn_v_proj", c.kv, None)?;
        let (cos, sin) = frame.local_rope.as_ref().filter(|_| is_local).unwrap_or(&frame.rope);
        let q = net::rotate(f, &q, cos, sin, c.head)?;
        let k = net::rotate(f, &k, cos, sin, c.head)?;
        let keys = self.cached(f, frame, &frame.keys, &k, w.index)?;
        let values = self.cached(f, frame, &frame.values, &v, w.index)?;
        let (keys, values) = (self.repeat(f, &keys)?, self.repeat(f, &values)?);
        let mask = frame.local_mask.as_ref().filter(|_| is_local).unwrap_or(&frame.mask);
        // The operation scales by the root of the head's size: queries bring the rest.
        let rest = c.scale * (c.head as f64).sqrt();
        let q = if (rest - 1.0).abs() < 1e-9 { q } else { f.op("mul").arg("x", &q).arg("y", rest).done()? };
        let call = f.op("scaled_dot_product_attention").arg("query", &q).arg("key", &keys).arg("value", &values);
        let y = call.arg("attn_mask", mask).done()?;
        let y = net::transpose(f, &y, &[0, 2, 1, 3])?;
        let y = f.op("reshape").arg("x", &y).arg("shape", [1, -1, (c.heads * c.head) as i32]).done()?;
        let mut y = net::linear(f, &y, &w.o, &name("self_attn_o_proj"))?;
        if w.mlp_norms.is_some() {
            y = net::rms_norm(f, &y, &w.post_norm, c.eps)?;
        }
        let x = f.op("add").arg("x", x).arg("y", &y).done()?;
        let y = net::rms_norm(f, &x, w.mlp_norms.as_ref().map_or(&w.post_norm, |n| &n.0), c.eps)?;
        let (gate, up) =
            (net::linear(f, &y, &w.gate, &name("mlp_gate_proj"))?, net::linear(f, &y, &w.up, &name("mlp_up_proj"))?);
        let gate = if c.family == Family::Gemma3 {
            f.op("gelu").arg("x", &gate).arg("mode", "TANH_APPROXIMATION").done()?
        } else {
            f.op("silu").arg("x", &gate).done()?
        };
        let y = f.op("mul").arg("x", &gate).arg("y", &up).done()?;
        let mut y = net::linear(f, &y, &w.down, &name("mlp_down_proj"))?;
        if let Some((_, after)) = &w.mlp_norms {
            y = net::rms_norm(f, &y, after, c.eps)?;
        }
        f.op("add").arg("x", &x).arg("y", &y).done()
    }
}

/// The mask of layers that see the last `window` positions only: query i at begin + i sees keys j > begin + i − window.
fn window_mask(f: &mut FunctionBuilder, mask: &Var, begin: &Var, window: usize, context: usize) -> Built {
    let count = |f: &mut FunctionBuilder, axes: [i32; 3]| {
        let numbers: Vec<i32> = (0..context as i32).collect();
        let all = f.shared("positions", Value::ints(&numbers));
        f.op("expand_dims").arg("x", &all).arg("axes", axes).done()
    };
    // Of all queries and keys, those of the mask's extents.
    let (rows, columns) = (count(f, [0, 1, 3])?, count(f, [0, 1, 2])?);
    let extents = f.op("shape").arg("x", mask).done()?;
    let (tokens, end) = (net::element(f, &extents, 2)?, net::element(f, &extents, 3)?);
    let zero = f.shared("zero", Value::ints(&[0]));
    let stop = |f: &mut FunctionBuilder, a: &Var, b: &Var| {
        f.op("concat").arg("values", [&zero, &zero, a, b]).arg("axis", 0).arg("interleave", false).done()
    };
    let (row_end, column_end) = (stop(f, &tokens, &zero)?, stop(f, &zero, &end)?);
    let cut = |f: &mut FunctionBuilder, x: &Var, to: &Var, open: [bool; 4]| {
        f.op("slice_by_index")
            .arg("x", x)
            .arg("begin", [0; 4].map(|n: i32| n))
            .arg("end", to)
            .arg("end_mask", open)
            .done()
    };
    let rows = cut(f, &rows, &row_end, [true, true, false, true])?;
    let columns = cut(f, &columns, &column_end, [true, true, true, false])?;
    let rows = f.op("add").arg("x", &rows).arg("y", begin).done()?;
    let age = f.op("sub").arg("x", &rows).arg("y", &columns).done()?;
    let old = f.op("greater_equal").arg("x", &age).arg("y", window).done()?;
    // As far below as fp16 goes, so that sums stay finite where both masks close.
    let old = f.op("cast").arg("x", &old).arg("dtype", "fp16").done()?;
    let closed = f.op("mul").arg("x", &old).arg("y", -30000.0).done()?;
    f.op("add").arg("x", mask).arg("y", &closed).done()
}
