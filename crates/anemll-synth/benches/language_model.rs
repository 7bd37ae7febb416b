//! Load, prefill and decode of a model with Qwen3-0.6B's dimensions, and of the shipped model.
//!
//! `cargo bench -p anemll-synth`; writes the benchmark models (up to 0.9 GB each) to the temporary folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anemll_synth::Dimensions;
use candle_coreml::anemll::Pipeline;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Position at which decoding is measured.
const POSITION: usize = 64;

fn measure(c: &mut Criterion, name: &str, folder: &Path) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.bench_function("load", |b| b.iter(|| Pipeline::load(folder).expect("the model loads")));
    let pipeline = Pipeline::load(folder).expect("the model loads");
    let prompt: Vec<u32> = (0..POSITION as u32).map(|i| i * 7919 % pipeline.dimensions().vocab as u32).collect();
    let mut session = pipeline.session().expect("a session");
    group.throughput(Throughput::Elements(POSITION as u64));
    group.bench_function("prefill 64", |b| {
        b.iter(|| {
            session.truncate(0);
            pipeline.forward(&mut session, &prompt).expect("prefill")
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode at 64", |b| {
        b.iter(|| {
            session.truncate(POSITION);
            pipeline.forward(&mut session, &[11]).expect("a token")
        });
    });
    group.finish();
}

fn language_models(c: &mut Criterion) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3");
    measure(c, "tiny-qwen3", &shipped);
    for lut in [Some(4), Some(6), Some(8), None] {
        let name = lut.map_or("0.6B f16".to_owned(), |bits| format!("0.6B lut{bits}"));
        let scratch = tempfile::tempdir().expect("a folder");
        let folder: PathBuf = scratch.path().join("model");
        anemll_synth::write(&folder, &Dimensions { lut, ..Dimensions::qwen3_0_6b() }).expect("written");
        measure(c, &name, &folder);
    }
}

criterion_group!(benches, language_models);
criterion_main!(benches);
