//! API names that users of similar crates already write: all of these calls compile and work.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_coreml::{Config, CoreMLModel, CoreMLModelBuilder, CoreMLModelWrapper, QwenConfig, QwenModel, Result};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[test]
fn a_model_file_loads_by_every_asked_for_name() -> Result<()> {
    let path = models().join("tiny-intent/intent.mlpackage");
    let config = Config {
        input_names: vec!["input_ids".to_owned(), "attention_mask".to_owned()],
        output_name: "logits".to_owned(),
        max_sequence_length: 48,
        vocab_size: 600,
        model_type: "bert".to_owned(),
    };
    let function = CoreMLModel::load(&path)?.function().to_owned();
    let ids = Tensor::new(&[[2i64, 40, 41, 3]], &Device::Cpu)?;
    let mask = ids.ones_like()?;
    let expected = CoreMLModel::builder(&path).config(config.clone()).load()?.forward(&[&ids, &mask])?;
    for model in [
        CoreMLModel::load_from_file(&path, &config)?,
        CoreMLModel::load_with_function(&path, &config, &function)?,
        CoreMLModelBuilder::new(&path, config.clone()).function(&function).build_model()?,
    ] {
        assert_eq!(model.config(), &config);
        let logits = model.forward(&[&ids, &mask])?;
        assert_eq!(logits.to_vec2::<f32>()?, expected.to_vec2::<f32>()?);
    }
    Ok(())
}

#[test]
fn a_language_model_answers_by_its_asked_for_names() -> Result<()> {
    let folder = models().join("tiny-qwen3");
    let config = QwenConfig { thinking: Some(false), ..QwenConfig::default() };
    let mut model: QwenModel = QwenModel::load_from_directory(&folder, Some(config))?;
    let ids = model.tokenize("2 + 2 =")?;
    let first = model.forward_text("2 + 2 =")?;
    model.initialize_states()?;
    model.reset_states();
    let text = model.generate("2 + 2 =", 1, 0.0)?;
    assert_eq!(text, model.tokenizer().decode(&[first])?);
    let wrapper = CoreMLModelWrapper::load(&folder, 272, 256)?;
    let logits = wrapper.forward(&Tensor::new(vec![ids.clone()], &Device::Cpu)?)?;
    assert_eq!(logits.dims(), [1, ids.len(), 272]);
    Ok(())
}
