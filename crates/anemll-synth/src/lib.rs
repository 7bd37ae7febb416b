//! Benchmark models in ANEMLL's layout: real Qwen 3 dimensions with random weights, written in seconds with the
//! project's own package writer. Their output is meaningless, their speed realistic.

use std::path::Path;

use coreml_format::description::{
    FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use coreml_format::dtype::DataType;
use coreml_format::program::{NamedType, Program, TensorType, Value, ValueType};
use coreml_format::write::PackageWriter;

mod body;
mod weights;

use body::Body;
use weights::Random;

/// Dimensions of a model.
#[derive(Debug, Clone)]
pub struct Dimensions {
    /// Hidden size.
    pub hidden: usize,
    /// Intermediate (MLP) size.
    pub intermediate: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Head dimension.
    pub head_dim: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Context length.
    pub context: usize,
    /// Tokens per prefill call.
    pub batch: usize,
    /// Index bits of the lookup tables, one per 8 output channels; `None`: fp16 weights.
    pub lut: Option<u32>,
}

impl Dimensions {
    /// Dimensions of Qwen3-0.6B, from its `config.json`.
    pub fn qwen3_0_6b() -> Self {
        Self {
            hidden: 1024,
            intermediate: 3072,
            layers: 28,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            vocab: 151_936,
            context: 512,
            batch: 64,
            lut: Some(6),
        }
    }
}

fn array(name: &str, dtype: DataType, shape: &[usize], constraint: ShapeConstraint) -> FeatureDescription {
    let ty = FeatureType::MultiArray { dtype, shape: shape.to_vec(), constraint, default: None };
    FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
}

fn description(functions: Vec<(&str, FunctionDescription)>) -> ModelDescription {
    ModelDescription {
        specification_version: 9,
        default_function: functions.first().map(|f| f.0.to_owned()).unwrap_or_default(),
        functions: functions.into_iter().map(|(n, f)| (n.to_owned(), f)).collect(),
        ..Default::default()
    }
}

fn typed(name: &str, dtype: DataType, shape: &[usize]) -> NamedType {
    NamedType { name: name.to_owned(), ty: ValueType::Tensor(TensorType::fixed(dtype, shape)) }
}

/// Writes embeddings, one FFN_PF chunk and an LM head of 16 parts to a folder.
///
/// # Errors
/// If the folder cannot be written or already contains these packages.
pub fn write(folder: &Path, d: &Dimensions) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut random = Random::new();
    embeddings(folder, d, &mut random)?;
    head(folder, d, &mut random)?;
    ffn(folder, d, &mut random)
}

fn embeddings(folder: &Path, d: &Dimensions, random: &mut Random) -> std::io::Result<()> {
    let mut writer = PackageWriter::create(&folder.join("qwen_embeddings.mlpackage"))?;
    let mut body = Body::default();
    let table = body.weight(random.dense(&mut writer, &[d.vocab, d.hidden])?);
    let any = [coreml_format::program::Dim::Fixed(1), coreml_format::program::Dim::Unknown];
    let out = body.gather(&table, "input_ids", d.hidden);
    let ids = NamedType {
        name: "input_ids".to_owned(),
        ty: ValueType::Tensor(TensorType { dtype: DataType::I32, shape: any.to_vec() }),
    };
    let mut program = Program::default();
    program.functions.insert("main".to_owned(), body.function(vec![ids], &[(&out, "hidden_states")]));
    let shapes = ShapeConstraint::Enumerated(vec![vec![1, 1], vec![1, d.batch]]);
    let function = FunctionDescription {
        inputs: vec![array("input_ids", DataType::I32, &[1, 1], shapes)],
        outputs: vec![array("hidden_states", DataType::F16, &[], ShapeConstraint::Unspecified)],
        ..Default::default()
    };
    writer.finish(&description(vec![("main", function)]), &program)
}

fn head(folder: &Path, d: &Dimensions, random: &mut Random) -> std::io::Result<()> {
    let mut writer = PackageWriter::create(&folder.join("qwen_lm_head.mlpackage"))?;
    let mut body = Body::default();
    let x = body.channels_first("hidden_states", d.hidden, 1);
    let mut outputs = Vec::new();
    let mut described = Vec::new();
    for part in 0..16 {
        let rows = d.vocab / 16 + usize::from(part < d.vocab % 16);
        let weight = random.matrix(&mut writer, &mut body, rows, d.hidden, d.lut)?;
        let y = body.conv(&x, &weight, rows, 1);
        let name = format!("logits{}", part + 1);
        outputs.push((body.tokens_first(&y, rows, 1), name.clone()));
        described.push(array(&name, DataType::F16, &[1, 1, rows], ShapeConstraint::Fixed));
    }
    let outputs: Vec<(&str, &str)> = outputs.iter().map(|(v, n)| (v.as_str(), n.as_str())).collect();
    let input = typed("hidden_states", DataType::F16, &[1, 1, d.hidden]);
    let mut program = Program::default();
    program.functions.insert("main".to_owned(), body.function(vec![input], &outputs));
    let function = FunctionDescription {
        inputs: vec![array("hidden_states", DataType::F16, &[1, 1, d.hidden], ShapeConstraint::Fixed)],
        outputs: described,
        ..Default::default()
    };
    writer.finish(&description(vec![("main", function)]), &program)
}

const STATE: &str = "model_model_kv_cache_0";

fn ffn(folder: &Path, d: &Dimensions, random: &mut Random) -> std::io::Result<()> {
    let mut writer = PackageWriter::create(&folder.join("qwen_FFN_PF_chunk_01of01.mlpackage"))?;
    let mut layers = Vec::new();
    for _ in 0..d.layers {
        layers.push(Layer::new(&mut writer, random, d)?);
    }
    let tables = random.rope(&mut writer, d)?;
    let state = [2 * d.layers, d.kv_heads, d.context, d.head_dim];
    let mut program = Program::default();
    let mut functions = Vec::new();
    for (name, tokens) in [("infer", 1), ("prefill", d.batch)] {
        let mut body = Body::default();
        let mut hidden = "hidden_states".to_owned();
        let rope = (body.rope_rows(&tables.0, tokens, d.head_dim), body.rope_rows(&tables.1, tokens, d.head_dim));
        let end = body.add_int("current_pos", tokens);
        for (index, layer) in layers.iter().enumerate() {
            hidden = layer.build(&mut body, d, &hidden, tokens, index, (&rope.0, &rope.1), &end);
        }
        let shape = [1, tokens, d.hidden];
        let inputs = vec![
            typed("hidden_states", DataType::F16, &shape),
            typed("position_ids", DataType::I32, &[tokens]),
            typed("causal_mask", DataType::F16, &[1, 1, tokens, d.context]),
            typed("current_pos", DataType::I32, &[1]),
            NamedType {
                name: STATE.to_owned(),
                ty: ValueType::State(Box::new(ValueType::Tensor(TensorType::fixed(DataType::F16, &state)))),
            },
        ];
        let hidden = body.identity(&hidden, &shape);
        program.functions.insert(name.to_owned(), body.function(inputs, &[(&hidden, "output_hidden_states")]));
        let fixed = || ShapeConstraint::Fixed;
        functions.push((
            name,
            FunctionDescription {
                inputs: vec![
                    array("hidden_states", DataType::F16, &shape, fixed()),
                    array("position_ids", DataType::I32, &[tokens], fixed()),
                    array("causal_mask", DataType::F16, &[1, 1, tokens, d.context], fixed()),
                    array("current_pos", DataType::I32, &[1], fixed()),
                ],
                outputs: vec![array("output_hidden_states", DataType::F16, &shape, fixed())],
                states: vec![FeatureDescription {
                    name: STATE.to_owned(),
                    description: String::new(),
                    ty: FeatureType::State { dtype: DataType::F16, shape: state.to_vec() },
                    optional: false,
                }],
                ..Default::default()
            },
        ));
    }
    writer.finish(&description(functions), &program)
}

/// Weights of one layer, as literals shared by both functions.
struct Layer {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A matrix in the weight file.
#[derive(Clone)]
pub(crate) enum Matrix {
    Dense(Value),
    Lut { indices: Value, lut: Value, shape: [usize; 4] },
}

impl Layer {
    fn new(writer: &mut PackageWriter, random: &mut Random, d: &Dimensions) -> std::io::Result<Self> {
        let (q, kv) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
        let mut matrix = |rows, cols| random.stored(writer, rows, cols, d.lut);
        Ok(Self {
            q: matrix(q, d.hidden)?,
            k: matrix(kv, d.hidden)?,
            v: matrix(kv, d.hidden)?,
            o: matrix(d.hidden, q)?,
            gate: matrix(d.intermediate, d.hidden)?,
            up: matrix(d.intermediate, d.hidden)?,
            down: matrix(d.hidden, d.intermediate)?,
        })
    }

    #[allow(clippy::too_many_arguments, reason = "what a layer is made of")]
    fn build(
        &self,
        b: &mut Body,
        d: &Dimensions,
        hidden: &str,
        tokens: usize,
        index: usize,
        rope: (&str, &str),
        end: &str,
    ) -> String {
        let normed = b.rms_norm(hidden, &[1, tokens, d.hidden]);
        let x = b.channels_first(&normed, d.hidden, tokens);
        let project = |b: &mut Body, m: &Matrix, heads: usize| {
            let w = b.matrix(m);
            let y = b.conv(&x, &w, heads * d.head_dim, tokens);
            b.heads(&y, heads, d.head_dim, tokens)
        };
        let (q, k) = (project(b, &self.q, d.heads), project(b, &self.k, d.kv_heads));
        let v = project(b, &self.v, d.kv_heads);
        let q = b.rms_norm(&q, &[1, d.heads, tokens, d.head_dim]);
        let k = b.rms_norm(&k, &[1, d.kv_heads, tokens, d.head_dim]);
        let q = b.rotate(&q, rope, &[1, d.heads, tokens, d.head_dim]);
        let k = b.rotate(&k, rope, &[1, d.kv_heads, tokens, d.head_dim]);
        let state = [2 * d.layers, d.kv_heads, d.context, d.head_dim];
        b.update_state(STATE, &k, index, end, &state);
        b.update_state(STATE, &v, d.layers + index, end, &state);
        let keys = b.cached(STATE, index, d.heads, &state);
        let values = b.cached(STATE, d.layers + index, d.heads, &state);
        let attended = b.attention(&q, &keys, &values, d.heads, tokens, d.context, d.head_dim);
        let w = b.matrix(&self.o);
        let y = b.conv(&attended, &w, d.hidden, tokens);
        let y = b.tokens_first(&y, d.hidden, tokens);
        let hidden = b.binary("add", hidden, &y, &[1, tokens, d.hidden]);
        let normed = b.rms_norm(&hidden, &[1, tokens, d.hidden]);
        let x = b.channels_first(&normed, d.hidden, tokens);
        let (gate, up) = (b.matrix(&self.gate), b.matrix(&self.up));
        let (gate, up) = (b.conv(&x, &gate, d.intermediate, tokens), b.conv(&x, &up, d.intermediate, tokens));
        let wide = [1, d.intermediate, 1, tokens];
        let gate = b.unary("silu", &gate, &wide);
        let y = b.binary("mul", &gate, &up, &wide);
        let down = b.matrix(&self.down);
        let y = b.conv(&y, &down, d.hidden, tokens);
        let y = b.tokens_first(&y, d.hidden, tokens);
        b.binary("add", &hidden, &y, &[1, tokens, d.hidden])
    }
}
