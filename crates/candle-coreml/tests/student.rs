//! A model as a function from ids to logits.

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_coreml::generation::Sampling;
use candle_coreml::{CoreMLModelWrapper, Error, anemll::Pipeline};

mod engines;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

fn wrapper() -> (CoreMLModelWrapper, Pipeline) {
    let options = engines::options(engines::engine());
    let pipeline = Pipeline::load_with(&folder(), &options).expect("the shipped model");
    let sizes = pipeline.dimensions();
    let wrapper = CoreMLModelWrapper::load_with(folder(), sizes.vocab, sizes.context, &options);
    (wrapper.expect("the same model"), pipeline)
}

#[test]
fn a_batch_gives_the_logits_of_every_position() {
    let (model, pipeline) = wrapper();
    let rows = [[5u32, 60, 7, 80], [9, 10, 11, 12]];
    let ids = Tensor::new(&rows, &Device::Cpu).expect("ids");
    let logits = model.forward(&ids).expect("logits");
    assert_eq!(logits.dims(), [2, 4, pipeline.dimensions().vocab]);
    let logits = logits.to_vec3::<f32>().expect("values");
    for (row, found) in rows.iter().zip(&logits) {
        // The whole prompt at once, through prefill: another path to the same logits. Kernels for batches and for one
        // token sum in different orders over an f16 cache, hence the tolerance of the references.
        let mut session = pipeline.session().expect("a session");
        let expected = pipeline.forward(&mut session, row).expect("logits");
        let worst = expected.iter().zip(&found[3]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.03, "{worst}");
    }
}

#[test]
fn it_generates_and_serves_several_threads() {
    let (model, _) = wrapper();
    let run = || model.generate(&[5, 60, 7], 4, Sampling::default(), &[]).expect("tokens");
    let expected = run();
    assert_eq!(expected.len(), 4);
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        assert_eq!(other.join().expect("no panic"), expected);
    });
    let ended = model.generate(&[5, 60, 7], 4, Sampling::default(), &expected[..1]).expect("tokens");
    assert!(ended.is_empty(), "the first token ends it");
}

#[test]
fn what_does_not_fit_is_rejected() {
    let (model, pipeline) = wrapper();
    let sizes = pipeline.dimensions();
    let ids = |values: &[u32]| Tensor::new(values, &Device::Cpu).expect("ids");
    assert!(matches!(model.forward(&ids(&[])), Err(Error::Input { .. })));
    assert!(matches!(model.forward(&ids(&vec![0; sizes.context + 1])), Err(Error::Input { .. })));
    assert!(matches!(model.forward(&ids(&[sizes.vocab as u32])), Err(Error::UnknownToken { .. })));
    assert!(model.generate(&[], 1, Sampling::default(), &[]).is_err());
    let wrong = CoreMLModelWrapper::load(folder(), sizes.vocab + 1, 8).expect_err("another vocabulary");
    assert!(wrong.to_string().contains("vocabulary"), "{wrong}");
    assert!(CoreMLModelWrapper::load(folder(), sizes.vocab, sizes.context + 1).is_err());
    // An embeddings model returns no logits.
    let part = CoreMLModelWrapper::load(folder().join("qwen_embeddings.mlpackage"), sizes.vocab, 8).expect("loads");
    assert!(matches!(part.forward(&ids(&[1])), Err(Error::Components { .. })));
}
