//! Long work tells its task of its steps, and ends without anything that looks complete when that is cancelled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};
use candle_coreml::compress::{Options, Scheme, compress};
use candle_coreml::convert::{Anemll, convert};
use candle_coreml::format::model::Model;
use candle_coreml::generation::{self, StopReason};
use candle_coreml::write::compile;
use candle_coreml::write::edit::{self, Source};
use candle_coreml::{CoreMLModel, EngineChoice, ErrorKind, FeatureRow, LanguageModel, Task, sensitivity};

/// Work that writes into a folder, and the kind of its error.
type Work = dyn Fn(&Path) -> Result<(), String>;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn intent() -> PathBuf {
    models().join("tiny-intent/intent.mlpackage")
}

fn of_edit<T>(result: edit::Result<T>) -> Result<(), String> {
    result.map(drop).map_err(|e| e.kind().to_owned())
}

fn of_library<T>(result: candle_coreml::Result<T>) -> Result<(), String> {
    let kind =
        |e: candle_coreml::Error| if e.kind() == ErrorKind::Cancelled { "cancelled".to_owned() } else { e.to_string() };
    result.map(drop).map_err(kind)
}

/// Runs work until its n-th step, or to its end; how many steps it told of.
fn until(step: u64, work: impl FnOnce() -> Result<(), String>) -> (Result<(), String>, u64) {
    let (handle, steps) = (Task::new(), Arc::new(AtomicU64::new(0)));
    let (cancel, count) = (handle.clone(), steps.clone());
    let task = Task::with_progress(move |s| {
        assert!(s.total == 0 || s.done <= s.total, "{s}");
        if count.fetch_add(1, Ordering::Relaxed) + 1 == step {
            cancel.cancel();
        }
    });
    if step == 0 {
        handle.cancel();
    }
    let result = handle.run(|| task.run(work));
    (result, steps.load(Ordering::Relaxed))
}

fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).expect("a folder").flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| !n.starts_with('.')).collect()
}

#[test]
fn cancelled_writers_leave_nothing_that_looks_complete() {
    let chunk = std::fs::read_dir(models().join("tiny-qwen3")).expect("a folder").flatten().map(|e| e.path());
    let chunk = chunk.filter(|p| p.to_string_lossy().contains("FFN_PF")).min().expect("a chunk");
    let open = |path: &Path| Model::open(path).expect("a model");
    let compiled = tempfile::tempdir().expect("a folder");
    let folder = compiled.path().join("intent.mlmodelc");
    compile::compile(&open(&intent()), &folder).expect("compiled");
    let all: Vec<(&str, Box<Work>)> = vec![
        ("convert", {
            let source = super::source("llama-rope3-f16");
            let layout = Anemll { context: 64, batch: 8, chunks: 2, ..Anemll::default() }.into();
            Box::new(move |to| convert(&source, &layout, &to.join("m")).map_err(|e| e.kind().to_owned()))
        }),
        ("compress", {
            let options = Options::new(Scheme::Palette { bits: 4, group: None, vector: 1 });
            Box::new(move |to| of_edit(compress(&open(&intent()), &options, &to.join("m.mlpackage"))))
        }),
        ("compile", Box::new(move |to| of_edit(compile::compile(&open(&intent()), &to.join("m.mlmodelc"))))),
        ("edit", Box::new(move |to| of_edit(edit::deduplicate(&open(&intent()), &to.join("m.mlpackage"))))),
        ("decompress", {
            let chunk = chunk.clone();
            Box::new(move |to| of_edit(edit::decompress(&open(&chunk), &to.join("m.mlpackage"))))
        }),
        ("merge", {
            let chunk = chunk.clone();
            Box::new(move |to| {
                let model = open(&chunk);
                let source = |n: &str| Source { name: n.to_owned(), model: &model, function: Some(n.to_owned()) };
                of_edit(edit::merge(&[source("infer"), source("prefill")], "infer", &to.join("m.mlpackage")))
            })
        }),
        ("split", Box::new(move |to| of_edit(edit::split(&open(&chunk), to, "m")))),
    ];
    for (name, work) in &all {
        let folder = tempfile::tempdir().expect("a folder");
        let (done, steps) = until(u64::MAX, || work(folder.path()));
        assert_eq!(done, Ok(()), "{name}");
        assert!(steps > 0 && !names(folder.path()).is_empty(), "{name}: {steps} steps");
        let whole = names(folder.path()).len();
        for step in [0, 1, steps / 2] {
            let folder = tempfile::tempdir().expect("a folder");
            let (done, seen) = until(step, || work(folder.path()));
            assert_eq!(done, Err("cancelled".to_owned()), "{name}, step {step} of {steps}");
            assert!(seen <= step.max(1), "{name}: went on for {seen} steps after {step}");
            // The parts of a model that were finished before are models.
            let left = names(folder.path());
            assert!(left.len() < whole && left.iter().all(|n| Model::open(&folder.path().join(n)).is_ok()), "{left:?}");
            assert!(*name == "split" || left.is_empty(), "{name}: {left:?}");
            for path in left {
                std::fs::remove_dir_all(folder.path().join(path)).expect("removed");
            }
            // Nothing is in the way of another attempt.
            assert_eq!(work(folder.path()), Ok(()), "{name}");
        }
    }
    // A compiled model's files are copied back without steps of their own.
    let to = tempfile::tempdir().expect("a folder");
    let back = || of_edit(compile::decompile(&open(&folder), &to.path().join("m.mlpackage")));
    assert_eq!((until(0, back).0, names(to.path()).len()), (Err("cancelled".to_owned()), 0));
}

#[test]
fn loading_predicting_and_answering_can_be_cancelled() {
    let load = || CoreMLModel::builder(intent()).engine(EngineChoice::Portable).load();
    let (done, steps) = until(u64::MAX, || of_library(load()));
    assert!(done.is_ok() && steps > 20, "{done:?}, {steps} operations");
    for step in [0, 1, steps / 2] {
        let (done, seen) = until(step, || of_library(load()));
        assert!(done == Err("cancelled".to_owned()) && seen == step.max(1), "{done:?} after {seen} of {step}");
    }

    let model = load().expect("it loads");
    let ids = Tensor::new(&[[2i64, 40, 41, 3]], &Device::Cpu).expect("ids");
    let mask = ids.ones_like().expect("a mask");
    let row: FeatureRow = vec![("input_ids".to_owned(), ids.into()), ("attention_mask".to_owned(), mask.into())];
    let inputs: Vec<_> = row.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    assert_eq!(until(0, || of_library(model.predict_values(&inputs, None))).0, Err("cancelled".to_owned()));
    // Rows come in parts of sixteen.
    let rows = vec![row; 40];
    let (done, steps) = until(u64::MAX, || of_library(model.predict_batch(&rows)));
    assert_eq!((done, steps), (Ok(()), 3));
    let (done, steps) = until(1, || of_library(model.predict_batch(&rows)));
    assert_eq!((done, steps), (Err("cancelled".to_owned()), 1));

    let options = Options::new(Scheme::Linear { bits: 8, block: None, symmetric: true });
    let forms = [Scheme::Linear { bits: 4, block: None, symmetric: true }];
    let sample = rows[0].iter().filter_map(|(n, v)| Some((n.clone(), v.tensor()?.clone()))).collect();
    let (done, steps) =
        until(2, || of_library(sensitivity::measure(&intent(), None, &options, &forms, std::slice::from_ref(&sample))));
    assert_eq!((done, steps), (Err("cancelled".to_owned()), 2));

    let mut model = LanguageModel::load_from_directory(models().join("tiny-qwen3"), None).expect("the shipped model");
    let prompt = model.tokenize("2 + 2 =").expect("tokens");
    let options = generation::Options { force: vec![1; 12], ..Default::default() };
    let mut answer =
        |task: &Task| task.run(|| model.generate_tokens(&prompt, options.clone(), |_| {})).expect("an answer");
    assert_eq!(answer(&Task::new()).tokens.len(), 13);
    let handle = Task::new();
    let cancel = handle.clone();
    let task = Task::with_progress(move |s| {
        if s.what == "answer" && s.done == 3 {
            cancel.cancel()
        }
    });
    let found = handle.run(|| answer(&task));
    assert_eq!((found.stop_reason, found.tokens.len()), (StopReason::Cancelled, 3));
}
