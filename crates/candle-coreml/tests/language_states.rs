//! States of language models: small networks built operation by operation, whose logits are sums that can be written down
//! in a few lines. Recurrent states, states of each chunk's own, several contexts, and everything that must be refused.

use std::path::Path;

use candle_coreml::anemll::{Pipeline, Session};
use candle_coreml::format::dtype::DataType;
use candle_coreml::format::program::{Opset, Value};
use candle_coreml::write::builder::{BuildError, Extents, FunctionBuilder, PackageBuilder, Var};

const WIDTH: usize = 4;
const VOCAB: usize = 6;
const CONTEXT: usize = 12;
const HALF: DataType = DataType::F16;
/// Absolute: sums of a few halves, kept in fp16.
const TOLERANCE: f32 = 0.01;

/// Element `j` of the embedding of a token.
fn embedding(token: u32, j: usize) -> f32 {
    ((token as usize * 7 + j * 5) % 11) as f32 / 8.0 - 0.5
}

fn table() -> Value {
    let numbers = (0..VOCAB as u32).flat_map(|t| (0..WIDTH).map(move |j| embedding(t, j)));
    let bytes = numbers.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect();
    Value::tensor(HALF, &[VOCAB, WIDTH], bytes)
}

/// What a chunk adds to its input.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// The mean of all rows up to this token, kept in a row of a cache: state, rows of its first dimension, the one that is
    /// written, tokens.
    Mean(&'static str, usize, usize, usize),
    /// s ← s / 2 + x.
    Decay(&'static str),
}

/// A function of a chunk: name, tokens, columns of the mask.
#[derive(Debug, Clone, Copy)]
struct Task(&'static str, usize, usize);

/// A package with one network, the way that a test wants it.
struct Chunk<'a> {
    memory: Memory,
    tasks: &'a [Task],
    /// Takes `update_mask`, and writes where it says.
    masked: bool,
    output: &'a str,
    more: &'a dyn Fn(&mut FunctionBuilder, &Var) -> Result<(), BuildError>,
}

impl Default for Chunk<'_> {
    fn default() -> Self {
        Self {
            memory: Memory::Mean("model_model_kv_cache_0", 2, 0, CONTEXT),
            tasks: &[Task("infer", 1, CONTEXT), Task("prefill", 4, CONTEXT)],
            masked: false,
            output: "output_hidden_states",
            more: &|_, _| Ok(()),
        }
    }
}

fn part(f: &mut FunctionBuilder, x: &Var, begin: &[usize], end: &[usize]) -> Result<Var, BuildError> {
    f.op("slice_by_index").arg("x", x).arg("begin", begin).arg("end", end).done()
}

fn function(chunk: &Chunk<'_>, &Task(_, tokens, columns): &Task) -> Result<FunctionBuilder, BuildError> {
    let mut f = FunctionBuilder::new(Opset::Ios18);
    let f = &mut f;
    let x = f.input("hidden_states", HALF, [1, tokens, WIDTH])?;
    let mask = f.input("causal_mask", HALF, [1, 1, tokens, columns])?;
    let at = f.input("current_pos", DataType::I32, [1])?;
    let update = chunk.masked.then(|| f.input("update_mask", HALF, [1, 1, columns, tokens])).transpose()?;
    let sum = match chunk.memory {
        Memory::Decay(name) => {
            let state = f.state(name, HALF, &[1, 1, 1, WIDTH])?;
            let content = f.read_state(&state)?;
            let mut s = f.op("reshape").arg("x", &content).arg("shape", [1, 1, WIDTH]).done()?;
            let mut all = Vec::new();
            for t in 0..tokens {
                let token = part(f, &x, &[0, t, 0], &[1, t + 1, WIDTH])?;
                let half = f.op("mul").arg("x", &s).arg("y", 0.5).done()?;
                s = f.op("add").arg("x", &half).arg("y", &token).done()?;
                all.push(s.clone());
            }
            let new = f.op("reshape").arg("x", &s).arg("shape", [1, 1, 1, WIDTH]).done()?;
            f.write_state(&state, &new)?;
            match all.as_slice() {
                [one] => one.clone(),
                _ => f.op("concat").arg("values", all).arg("axis", 1).arg("interleave", false).done()?,
            }
        }
        Memory::Mean(name, first, row, length) => {
            let state = f.state(name, HALF, &[first, 1, length, WIDTH])?;
            let content = f.read_state(&state)?;
            let new = f.op("reshape").arg("x", &x).arg("shape", [1, 1, tokens, WIDTH]).done()?;
            let call = match &update {
                Some(update) => {
                    let placed = f.op("matmul").arg("x", update).arg("y", &new);
                    let placed = placed.arg("transpose_x", false).arg("transpose_y", false).done()?;
                    let old = part(f, &content, &[row, 0, 0, 0], &[row + 1, 1, length, WIDTH])?;
                    let sum = f.op("add").arg("x", &old).arg("y", &placed).done()?;
                    let call = f.op("slice_update").arg("x", &content).arg("update", &sum);
                    call.arg("begin", [row, 0, 0, 0]).arg("end", [row + 1, 1, length, WIDTH])
                }
                None => {
                    let to = f.op("add").arg("x", &at).arg("y", tokens).done()?;
                    let zero = f.shared("zero", Value::ints(&[0]));
                    let mut bound = |row: usize, at: &Var| {
                        let row = f.shared("row", Value::ints(&[row as i32]));
                        let call = f.op("concat").arg("values", [&row, &zero, at, &zero]);
                        call.arg("axis", 0).arg("interleave", false).done()
                    };
                    let (begin, end) = (bound(row, &at)?, bound(row + 1, &to)?);
                    let call = f.op("slice_update").arg("x", &content).arg("update", &new);
                    call.arg("begin", &begin).arg("end", &end).arg("end_mask", [false, true, false, true])
                }
            };
            let new = call.done()?;
            f.write_state(&state, &new)?;
            let content = f.read_state(&state)?;
            let rows = length.min(columns);
            let values = part(f, &content, &[row, 0, 0, 0], &[row + 1, 1, rows, WIDTH])?;
            let mask = if rows < columns { part(f, &mask, &[0; 4], &[1, 1, tokens, rows])? } else { mask.clone() };
            let weights = f.op("softmax").arg("x", &mask).arg("axis", -1).done()?;
            let mean = f.op("matmul").arg("x", &weights).arg("y", &values);
            let mean = mean.arg("transpose_x", false).arg("transpose_y", false).done()?;
            f.op("reshape").arg("x", &mean).arg("shape", [1, tokens, WIDTH]).done()?
        }
    };
    let out = f.op("add").arg("x", &x).arg("y", &sum).done()?;
    f.output(chunk.output, &out)?;
    (chunk.more)(f, &out)?;
    Ok(std::mem::replace(f, FunctionBuilder::new(Opset::Ios18)))
}

fn package(path: &Path, functions: Vec<(&str, FunctionBuilder)>) {
    let mut package = PackageBuilder::create(path).expect("a package");
    for (name, function) in functions {
        package.add(name, function).expect("a function");
    }
    package.finish().expect("written");
}

/// A model of these chunks, in files of these names.
fn model(chunks: &[(&str, Chunk<'_>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let ends = || -> Result<_, BuildError> {
        let mut e = FunctionBuilder::new(Opset::Ios18);
        let ids = e.input("input_ids", DataType::I32, Extents::Enumerated(vec![vec![1, 1], vec![1, 4]]))?;
        let rows = e.constant("table", table())?;
        let x = e.op("gather").arg("x", &rows).arg("indices", &ids).arg("axis", 0).done()?;
        e.output("hidden_states", &x)?;
        let mut h = FunctionBuilder::new(Opset::Ios18);
        let x = h.input("hidden_states", HALF, [1, 1, WIDTH])?;
        let rows = h.constant("table", table())?;
        let y =
            h.op("matmul").arg("x", &x).arg("y", &rows).arg("transpose_x", false).arg("transpose_y", true).done()?;
        h.output("logits", &y)?;
        Ok((e, h))
    };
    let (embeddings, head) = ends().expect("built");
    package(&folder.path().join("x_embeddings.mlpackage"), vec![("main", embeddings)]);
    package(&folder.path().join("x_lm_head.mlpackage"), vec![("main", head)]);
    for (name, chunk) in chunks {
        let functions = chunk.tasks.iter().map(|t| (t.0, function(chunk, t).expect("built"))).collect();
        package(&folder.path().join(format!("{name}.mlpackage")), functions);
    }
    folder
}

/// Logits after the last of these tokens.
fn wanted(memories: &[Memory], ids: &[u32]) -> Vec<f32> {
    let mut rows: Vec<Vec<f32>> = ids.iter().map(|&t| (0..WIDTH).map(|j| embedding(t, j)).collect()).collect();
    for memory in memories {
        let mut sum = [0f32; WIDTH];
        for (t, row) in rows.iter_mut().enumerate() {
            for (s, x) in sum.iter_mut().zip(row) {
                *s = if matches!(memory, Memory::Decay(_)) { *s / 2.0 + *x } else { *s + *x };
                *x += if matches!(memory, Memory::Decay(_)) { *s } else { *s / (t + 1) as f32 };
            }
        }
    }
    let last = rows.last().expect("a token");
    (0..VOCAB as u32).map(|t| (0..WIDTH).map(|j| last[j] * embedding(t, j)).sum()).collect()
}

const IDS: [u32; CONTEXT] = [3, 1, 4, 1, 5, 2, 2, 0, 5, 3, 5, 1];

#[track_caller]
fn agree(got: &[f32], memories: &[Memory], ids: &[u32], at: &str) {
    let want = wanted(memories, ids);
    let off = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
    assert!(got.len() == want.len() && off <= TOLERANCE, "{at}: {got:?}, expected {want:?}");
}

/// Every length at once, one by one, from every other length, and after tokens that are taken back.
#[track_caller]
fn exact(folder: &Path, memories: &[Memory], context: usize) {
    let pipeline = Pipeline::load(folder).expect("it loads");
    assert_eq!(pipeline.dimensions().context, context);
    let run = |session: &mut Session, ids: &[u32]| pipeline.forward(session, ids).expect("it runs");
    let mut session = pipeline.session().expect("a session");
    for n in 1..=context {
        session.truncate(0);
        agree(&run(&mut session, &IDS[..n]), memories, &IDS[..n], &format!("{n} at once"));
        for kept in (0..n).rev() {
            session.truncate(kept);
            let known = session.tokens().len();
            assert!(known <= kept);
            agree(&run(&mut session, &IDS[known..n]), memories, &IDS[..n], &format!("{n} from {kept}"));
        }
        session.truncate(0);
        for (i, id) in IDS[..n].iter().enumerate() {
            agree(&run(&mut session, &[*id]), memories, &IDS[..=i], &format!("token {i}, one by one"));
        }
    }
    // What doesn't fit changes nothing.
    let mut session = pipeline.session().expect("a session");
    run(&mut session, &IDS[..context - 1]);
    let error = pipeline.forward(&mut session, &[1, 2]).expect_err("too long").to_string();
    assert!(error.contains("context"), "{error}");
    agree(&run(&mut session, &IDS[context - 1..context]), memories, &IDS[..context], "after a refusal");
    assert!(pipeline.forward(&mut session, &[1]).is_err(), "the context is full");
}

const CACHE: Memory = Memory::Mean("model_model_kv_cache_0", 2, 0, CONTEXT);
const SECOND: Memory = Memory::Mean("model_model_kv_cache_0", 2, 1, CONTEXT);
const DELTA: Memory = Memory::Decay("model_model_delta_0");

#[test]
fn one_chunk_with_a_cache() {
    let folder = model(&[("x_FFN_PF_chunk_01of01", Chunk::default())]);
    exact(folder.path(), &[CACHE], CONTEXT);
    let masked = Chunk { masked: true, ..Chunk::default() };
    // Each row is written once here: the network adds to what is there.
    let folder = model(&[("x_FFN_PF_chunk_01of01", masked)]);
    let pipeline = Pipeline::load(folder.path()).expect("it loads");
    for n in 1..=CONTEXT {
        let got = pipeline.forward(&mut pipeline.session().expect("a session"), &IDS[..n]).expect("it runs");
        if (n - 1) % 4 == 0 {
            agree(&got, &[CACHE], &IDS[..n], &format!("{n} tokens"));
        }
    }
}

#[test]
fn recurrent_states_are_zeroed_and_run_every_token_once() {
    let decay = || Chunk { memory: DELTA, ..Chunk::default() };
    let folder = model(&[("x_FFN_PF_chunk_01of01", decay())]);
    exact(folder.path(), &[DELTA], CONTEXT);
    let pipeline = Pipeline::load(folder.path()).expect("it loads");
    assert!(pipeline.layout().contains("recurrent"), "{}", pipeline.layout());
    let mut session = pipeline.session().expect("a session");
    pipeline.forward(&mut session, &IDS[..9]).expect("it runs");
    session.truncate(8);
    assert!(session.tokens().is_empty(), "there is no way back but to the beginning");
    // Without prefill, and with the mask of Qwen 3.5.
    let one = Chunk { tasks: &[Task("infer", 1, CONTEXT)], masked: true, ..decay() };
    let folder = model(&[("x_FFN_PF_chunk_01of01", one)]);
    exact(folder.path(), &[DELTA], CONTEXT);
}

#[test]
fn chunks_with_unlike_states_have_their_own() {
    let memories = [DELTA, Memory::Mean("kv_key_1", 1, 0, CONTEXT), Memory::Decay("model_model_conv_2")];
    let chunk = |i: usize| Chunk { memory: memories[i], ..Chunk::default() };
    let folder = model(&[
        ("x_FFN_PF_chunk_01of03", chunk(0)),
        ("x_FFN_PF_chunk_02of03", chunk(1)),
        ("x_FFN_PF_chunk_03of03", chunk(2)),
    ]);
    exact(folder.path(), &memories, CONTEXT);
}

/// Chunks of early versions each have a cache of their own layers, under the same name.
#[test]
fn chunks_with_states_of_one_name_share_them_only_where_they_can() {
    let other_shape = Memory::Mean("model_model_kv_cache_0", 4, 3, CONTEXT);
    let other_length = Memory::Mean("model_model_kv_cache_0", 2, 0, CONTEXT + 3);
    for memories in [[CACHE, SECOND], [CACHE, CACHE], [CACHE, other_shape], [other_length, CACHE]] {
        let chunk = |i: usize| Chunk { memory: memories[i], ..Chunk::default() };
        let folder = model(&[("x_FFN_PF_chunk_01of02", chunk(0)), ("x_FFN_PF_chunk_02of02", chunk(1))]);
        exact(folder.path(), &memories, CONTEXT);
    }
}

#[test]
fn caches_shorter_and_longer_than_the_mask() {
    for (length, context) in [(7, 7), (CONTEXT - 1, CONTEXT - 1), (CONTEXT + 1, CONTEXT), (40, CONTEXT)] {
        let memory = Memory::Mean("model_model_kv_cache_0", 2, 1, length);
        let folder = model(&[("x_FFN_PF_chunk_01of01", Chunk { memory, ..Chunk::default() })]);
        exact(folder.path(), &[memory], context);
    }
}

/// Functions for several contexts, with and without those that have no context in their names, in one file and in two.
#[test]
fn of_several_contexts_the_longest_runs() {
    let all = [
        Task("infer_ctx8", 1, 8),
        Task("infer_ctx12", 1, CONTEXT),
        Task("prefill_ctx8", 4, 8),
        Task("prefill_ctx12", 4, CONTEXT),
        Task("infer", 1, CONTEXT),
        Task("prefill", 4, CONTEXT),
    ];
    let of = |tasks: &'static [Task]| Chunk { tasks, ..Chunk::default() };
    let leak = |tasks: &[Task]| -> &'static [Task] { Vec::leak(tasks.to_vec()) };
    for tasks in [leak(&all), leak(&all[..4]), leak(&[all[0], all[1], all[3]])] {
        let folder = model(&[("x_FFN_PF_statex_chunk_01of01", of(tasks))]);
        let pipeline = Pipeline::load(folder.path()).expect("it loads");
        assert!(pipeline.layout().contains("the longest, 12"), "{}", pipeline.layout());
        assert!(pipeline.layout().contains("batches of 4"), "{}", pipeline.layout());
        exact(folder.path(), &[CACHE], CONTEXT);
    }
    // Prefill for a shorter context alone can't be used.
    let folder = model(&[("x_FFN_PF_statex_chunk_01of01", of(leak(&all[..3])))]);
    let pipeline = Pipeline::load(folder.path()).expect("it loads");
    assert!(pipeline.layout().contains("token by token"), "{}", pipeline.layout());
    exact(folder.path(), &[CACHE], CONTEXT);
    let (infer, prefill) = (of(leak(&all[..2])), of(leak(&all[2..4])));
    let folder = model(&[("x_FFN_statex_chunk_01of01", infer), ("x_prefill_statex_chunk_01of01", prefill)]);
    exact(folder.path(), &[CACHE], CONTEXT);
}

/// A stage in float32 runs in place of the chunk with its number; here it computes something else, to tell them apart.
#[test]
fn a_stage_in_float32_takes_the_place_of_its_chunk() {
    let of = |memory, tasks| Chunk { memory, tasks, ..Chunk::default() };
    let one: &[Task] = &[Task("infer_ctx12", 1, CONTEXT)];
    let batch: &[Task] = &[Task("prefill_ctx12", 4, CONTEXT)];
    let files = || {
        [
            ("x_FFN_statex_chunk_01of01", of(CACHE, one)),
            ("x_prefill_statex_chunk_01of01", of(DELTA, batch)),
            ("x_FFN_attn_fp32_statex_chunk_01of01", of(DELTA, one)),
        ]
    };
    let folder = model(&files());
    exact(folder.path(), &[DELTA], CONTEXT);
    // A meta.yaml that names the other files decides whether stages run.
    let meta = |enabled: bool| {
        format!(
            "model_info:\n  parameters:\n    ffn: x_FFN_statex_chunk_01of01.mlmodelc\n    ffn_prefill: \
             x_prefill_statex_chunk_01of01.mlmodelc\n    state_transition_chunk1_fp32_enabled: {enabled}\n"
        )
    };
    std::fs::write(folder.path().join("meta.yaml"), meta(true)).expect("written");
    exact(folder.path(), &[DELTA], CONTEXT);
    std::fs::write(folder.path().join("meta.yaml"), meta(false)).expect("written");
    let pipeline = Pipeline::load(folder.path()).expect("it loads");
    let got = pipeline.forward(&mut pipeline.session().expect("a session"), &IDS[..1]).expect("it runs");
    agree(&got, &[CACHE], &IDS[..1], "the ordinary chunk");
}

#[track_caller]
fn refused(chunks: &[(&str, Chunk<'_>)], parts: &[&str]) {
    let folder = model(chunks);
    let meta = "model_info:\n  architecture: gemma3n\n";
    std::fs::write(folder.path().join("meta.yaml"), meta).expect("written");
    let error = Pipeline::load(folder.path()).expect_err("refused").to_string();
    for part in parts.iter().chain(&["x_FFN_PF", "(architecture gemma3n)"]) {
        assert!(error.contains(part), "expected `{part}` in: {error}");
    }
}

#[test]
fn unknown_outputs_functions_inputs_and_states_are_refused_by_name() {
    const NAME: &str = "x_FFN_PF_chunk_01of01";
    let with = |chunk| [(NAME, chunk)];
    let also: &dyn Fn(&mut FunctionBuilder, &Var) -> Result<(), BuildError> = &|f, x| f.output("per_layer_combined", x);
    refused(&with(Chunk { more: also, ..Chunk::default() }), &["per_layer_combined", "output"]);
    let memory = Memory::Decay("model_model_ssm_0");
    refused(&with(Chunk { memory, ..Chunk::default() }), &["model_model_ssm_0", "[1, 1, 1, 4]"]);
    for name in ["prefill_ctx", "infer_ctx0", "infer_context12", "init", "length_12"] {
        let tasks = Vec::leak(vec![Task("infer", 1, CONTEXT), Task(name, 4, CONTEXT)]);
        refused(&with(Chunk { tasks, ..Chunk::default() }), &[name, "function"]);
    }
    let other: &dyn Fn(&mut FunctionBuilder, &Var) -> Result<(), BuildError> =
        &|f, _| f.input("valid_len", DataType::I32, [1]).map(drop);
    refused(&with(Chunk { more: other, ..Chunk::default() }), &["valid_len", "input"]);
    // Masks of another context, batches of another number.
    let tasks = &[Task("infer", 1, CONTEXT), Task("prefill", 4, CONTEXT - 1)];
    refused(&with(Chunk { tasks, ..Chunk::default() }), &["causal_mask", "11", "12"]);
    let tasks = &[Task("infer", 2, CONTEXT), Task("prefill", 4, CONTEXT)];
    refused(&with(Chunk { tasks, ..Chunk::default() }), &["number of tokens", "2"]);
}

/// A chunk whose only output is no hidden state: as wide as the vocabulary.
#[test]
fn outputs_of_another_width_are_refused() {
    let folder = model(&[("x_FFN_PF_chunk_01of02", Chunk::default())]);
    let odd = |tokens: usize| -> Result<FunctionBuilder, BuildError> {
        let mut f = FunctionBuilder::new(Opset::Ios18);
        let x = f.input("hidden_states", HALF, [1, tokens, WIDTH])?;
        f.input("causal_mask", HALF, [1, 1, tokens, CONTEXT])?;
        let state = f.state("model_model_kv_cache_0", HALF, &[2, 1, CONTEXT, WIDTH])?;
        let content = f.read_state(&state)?;
        f.write_state(&state, &content)?;
        let y = f.op("concat").arg("values", [&x, &x]).arg("axis", -1).arg("interleave", false).done()?;
        f.output("output_hidden_states", &y)?;
        Ok(f)
    };
    let functions = vec![("infer", odd(1).expect("built")), ("prefill", odd(4).expect("built"))];
    package(&folder.path().join("x_FFN_PF_chunk_02of02.mlpackage"), functions);
    let error = Pipeline::load(folder.path()).expect_err("refused").to_string();
    assert!(error.contains("[1, 1, 8]") && error.contains("hidden states [1, tokens, 4]"), "{error}");
}
