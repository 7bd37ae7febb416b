//! Converted checkpoints against logits from transformers (`tools/candle_reference.py`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use candle_coreml::Task;
use candle_coreml::anemll::Pipeline;
use candle_coreml::convert::{Anemll, Layout, Lut, Stateful, convert};
use candle_coreml::format::model::Model;
use candle_coreml::write::builder::check;

#[path = "convert/encoders.rs"]
mod encoders;
#[path = "convert/rewrites.rs"]
mod rewrites;
#[path = "convert/tasks.rs"]
mod tasks;

/// Absolute tolerance on logits: weights and caches in fp16, arithmetic in f32.
const TOLERANCE: f32 = 0.03;

const ALL: [&str; 5] = ["qwen2.5-shards-f32", "qwen3-tied-bf16", "llama-rope3-f16", "mistral-f16", "gemma3-window-f16"];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/checkpoints").join(name)
}

/// Token ids, and the logits after each.
fn reference(name: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let all = candle_core::safetensors::load(source(name).join("reference.safetensors"), &Device::Cpu).expect("a file");
    let ids = all["ids"].to_dtype(DType::U32).and_then(|t| t.to_vec1()).expect("ids");
    (ids, all["logits"].to_vec2().expect("logits"))
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

fn converted(name: &str, layout: impl Into<Layout>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("model");
    let last = AtomicU64::new(0);
    let layout = layout.into();
    let task = Task::with_progress(move |step| {
        assert!(step.done > last.swap(step.done, Ordering::Relaxed) && step.done <= step.total, "{step}");
    });
    task.run(|| convert(&source(name), &layout, &to)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for entry in std::fs::read_dir(&to).expect("a folder").flatten() {
        if entry.path().is_dir() {
            let model = Model::open(&entry.path()).unwrap_or_else(|e| panic!("{e}"));
            let wrong = check(model.body.program().expect("a program"));
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
        }
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 1, "nothing else is left");
    (folder, to)
}

/// Largest distance of the logits after a prompt of each length.
fn off(name: &str, folder: &Path, lengths: &[usize]) -> f32 {
    let pipeline = Pipeline::load(folder).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (ids, logits) = reference(name);
    let mut worst = 0f32;
    for &n in lengths {
        let mut session = pipeline.session().expect("a session");
        let found = pipeline.forward(&mut session, &ids[..n]).unwrap_or_else(|e| panic!("{name}, {n} tokens: {e}"));
        worst = worst.max(distance(&found, &logits[n - 1]));
    }
    worst
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    for name in ALL {
        let anemll = Anemll { context: 64, batch: 8, ..Anemll::default() };
        let layouts: [Layout; 4] = [
            anemll.clone().into(),
            Anemll { chunks: 2, ..anemll.clone() }.into(),
            Anemll { monolithic: true, ..anemll }.into(),
            Stateful { context: 64, lut: None }.into(),
        ];
        for layout in layouts {
            let (_folder, to) = converted(name, layout.clone());
            // One token, within a batch, across batches, and beyond Gemma's window.
            let worst = off(name, &to, &[1, 5, 8, 21, 48]);
            assert!(worst < TOLERANCE, "{name}, {layout:?}: {worst}");
        }
    }
}

#[test]
fn tables_hold_what_their_bits_allow() {
    let lut = |bits| Some(Lut { bits, group: Some(8) });
    for name in ["qwen3-tied-bf16", "gemma3-window-f16"] {
        let mut last = f32::INFINITY;
        for bits in [4, 6, 8] {
            let o = Anemll {
                context: 64,
                batch: 8,
                lut_ffn: lut(bits),
                lut_head: lut(8),
                lut_embeddings: lut(8),
                ..Anemll::default()
            };
            let (_folder, to) = converted(name, o);
            let worst = off(name, &to, &[5, 48]);
            assert!(worst < last, "{name}: {worst} with {bits} bits, {last} with fewer");
            last = worst;
        }
        assert!(last < 0.25, "{name}: {last} with 8 bits");
    }
}

#[test]
fn argmax_heads_choose_the_largest_logit() {
    for name in ["qwen2.5-shards-f32", "gemma3-window-f16"] {
        let (_folder, to) =
            converted(name, Anemll { context: 64, batch: 8, argmax: true, monolithic: true, ..Anemll::default() });
        let entry = std::fs::read_dir(&to).expect("a folder").flatten().find(|e| e.path().is_dir()).expect("a package");
        let model = candle_coreml::CoreMLModel::builder(entry.path()).function("infer").load().expect("it loads");
        let mut state = model.make_state().expect("a state");
        let (ids, logits) = reference(name);
        let mask: Vec<half::f16> =
            (0..64).map(|i| if i == 0 { half::f16::ZERO } else { half::f16::NEG_INFINITY }).collect();
        let device = Device::Cpu;
        let mask = Tensor::from_vec(mask, (1, 1, 1, 64), &device).expect("a mask");
        let zero = Tensor::new(&[0i32], &device).expect("a position");
        let id = Tensor::new(&[[ids[0] as i32]], &device).expect("an id");
        let inputs = [("input_ids", id), ("position_ids", zero.clone()), ("causal_mask", mask), ("current_pos", zero)];
        let out = model.predict(&inputs, Some(&mut state)).expect("it runs");
        let tensor = |name: &str| out[name].tensor().expect("a tensor");
        let (at, values) = (tensor("argmax_idx"), tensor("argmax_val"));
        let at = at.to_dtype(DType::I64).and_then(|t| t.to_vec1::<i64>()).expect("indices");
        let values = values.to_dtype(DType::F32).and_then(|t| t.to_vec1::<f32>()).expect("values");
        assert_eq!((at.len(), values.len()), (16, 16));
        let best = (0..16).max_by(|&a, &b| values[a].total_cmp(&values[b])).expect("parts");
        // 272 = 16 · 17.
        let token = best * 17 + at[best] as usize;
        let wanted = (0..272).max_by(|&a, &b| logits[0][a].total_cmp(&logits[0][b])).expect("logits");
        assert_eq!(token, wanted, "{name}");
    }
}

/// A copy of a checkpoint with one thing changed.
fn broken(name: &str, change: impl Fn(&Path)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("source");
    std::fs::create_dir(&to).expect("a folder");
    for entry in std::fs::read_dir(source(name)).expect("a folder").flatten() {
        if entry.file_name() != "reference.safetensors" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
    change(&to);
    (folder, to)
}

#[test]
fn wrong_checkpoints_are_refused_by_name_and_leave_nothing_that_looks_complete() {
    let tensors = |folder: &Path, edit: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let file = folder.join("model.safetensors");
        let mut all = candle_core::safetensors::load(&file, &Device::Cpu).expect("a file");
        edit(&mut all);
        candle_core::safetensors::save(&all, &file).expect("written");
    };
    type Change<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, Change<'_>)> = vec![
        (
            "found NaN at 0",
            Box::new(|f| {
                tensors(f, &|all| {
                    let bad = Tensor::new(&[f32::NAN; 64], &Device::Cpu)
                        .and_then(|t| t.to_dtype(DType::F16))
                        .expect("a tensor");
                    all.insert("model.norm.weight".to_owned(), bad);
                })
            }),
        ),
        (
            "tensor `model.layers.1.mlp.up_proj.weight`: expected shape [112, 64], found none",
            Box::new(|f| {
                tensors(f, &|all| {
                    all.remove("model.layers.1.mlp.up_proj.weight");
                })
            }),
        ),
        (
            "expected shape [64], found [63]",
            Box::new(|f| {
                tensors(f, &|all| {
                    let short = Tensor::zeros(63, DType::F16, &Device::Cpu).expect("a tensor");
                    all.insert("model.norm.weight".to_owned(), short);
                })
            }),
        ),
        (
            "found also model.layers.0.self_attn.q_norm.weight",
            Box::new(|f| {
                tensors(f, &|all| {
                    let more = Tensor::zeros(16, DType::F16, &Device::Cpu).expect("a tensor");
                    all.insert("model.layers.0.self_attn.q_norm.weight".to_owned(), more);
                })
            }),
        ),
        (
            "expected safetensors",
            Box::new(|f| std::fs::write(f.join("model.safetensors"), b"no tensors").expect("written")),
        ),
        (
            "files named *.safetensors",
            Box::new(|f| std::fs::remove_file(f.join("model.safetensors")).expect("removed")),
        ),
        ("`model_type`", Box::new(|f| std::fs::write(f.join("config.json"), "{}").expect("written"))),
    ];
    for (part, change) in cases {
        let (folder, from) = broken("llama-rope3-f16", change);
        let to = folder.path().join("model");
        let o = Anemll { context: 64, batch: 8, ..Anemll::default() };
        let error = convert(&from, &o.into(), &to).expect_err(part).to_string();
        assert!(error.contains(part), "expected {part}: {error}");
        assert!(!to.exists(), "{part}");
    }
    for (o, part) in [
        (
            Anemll { batch: 65, context: 64, ..Anemll::default() },
            "the batch: expected 1 to the context of 64, found 65",
        ),
        (Anemll { chunks: 3, context: 64, batch: 8, ..Anemll::default() }, "the chunks: expected 1 to 2, found 3"),
        (Anemll { lut_ffn: Some(Lut { bits: 5, group: None }), ..Anemll::default() }, "found 5"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let error = convert(&source("llama-rope3-f16"), &o.into(), &folder.path().join("m")).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}

#[test]
fn an_interrupted_conversion_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("model");
    let layout: Layout = Anemll { context: 64, batch: 8, chunks: 2, ..Anemll::default() }.into();
    let handle = Task::new();
    let cancel = handle.clone();
    let task = Task::with_progress(move |step| {
        if step.what.contains("02of02") {
            cancel.cancel();
        }
    });
    let stop = handle.run(|| task.run(|| convert(&source("llama-rope3-f16"), &layout, &to))).expect_err("cancelled");
    assert!(stop.kind() == "cancelled" && stop.to_string().ends_with("cancelled") && !to.exists(), "{stop}");
    let partial = folder.path().join(".model.partial");
    let first = partial.join("llama_FFN_PF_chunk_01of02.mlpackage/Manifest.json");
    let before = std::fs::read(&first).expect("finished before");
    convert(&source("llama-rope3-f16"), &layout, &to).expect("it goes on");
    // A manifest has identifiers of its own: the package is the same one.
    let after = std::fs::read(to.join("llama_FFN_PF_chunk_01of02.mlpackage/Manifest.json")).expect("a manifest");
    assert_eq!(before, after);
    assert!(!partial.exists() && !to.join("plan.txt").exists());
    assert!(off("llama-rope3-f16", &to, &[21]) < TOLERANCE);
}
