//! Configuration generated from the packages, and the input tensors built from it.

use std::path::Path;

use candle_core::DType;
use candle_coreml::{Error, ModelConfig, ModelNamingConfig, QwenConfig, QwenModel};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

fn discovered() -> ModelConfig {
    ModelConfig::discover(&folder()).expect("the shipped model is described")
}

#[test]
fn a_configuration_survives_its_file_and_loads_the_model() {
    let config = discovered();
    assert_eq!(config.components.len(), 6, "embeddings, two chunks with two functions, LM head");
    assert_eq!(config.components["ffn_prefill_1"].function, "prefill");
    let folder_ = tempfile::tempdir().expect("a folder");
    let path = folder_.path().join("config.json");
    config.save(&path).expect("saved");
    assert_eq!(ModelConfig::load(&path).expect("loaded"), config);
    let model = QwenModel::load_from_directory(folder(), Some(QwenConfig::from_model_config(config.clone())));
    assert_eq!(model.expect("loaded by its names").pipeline().dimensions().context, config.shapes.context_length);
}

#[test]
fn contradictions_are_named() {
    let message = |change: fn(&mut ModelConfig)| {
        let mut config = discovered();
        change(&mut config);
        config.validate().expect_err("a contradiction").to_string()
    };
    assert!(message(|c| c.shapes.hidden_size += 1).contains("hidden_size"));
    assert!(message(|c| c.shapes.vocab_size += 1).contains("vocab_size"));
    assert!(message(|c| c.shapes.batch_size = 0).contains("batch_size 0"));
    assert!(message(|c| drop(c.components.remove("lm_head"))).contains("`lm_head` is missing"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.json");
    std::fs::write(&path, "{}").expect("written");
    assert!(matches!(ModelConfig::load(&path), Err(Error::File { .. })));
}

#[test]
fn names_that_fit_nothing_are_a_missing_component() {
    let config = QwenConfig { naming: Some(ModelNamingConfig::custom("other", "mlpackage")), ..QwenConfig::default() };
    let error = QwenModel::load_from_directory(folder(), Some(config)).expect_err("no such files");
    assert!(matches!(error, Error::Components { .. }), "{error}");
    assert!(matches!(QwenConfig::for_model_id("no/such/model"), Err(Error::Unavailable(_))));
}

#[test]
fn tensors_have_the_models_shapes() {
    let config = QwenConfig::from_model_config(discovered());
    let shapes = config.shapes().expect("shapes");
    let (batch, context) = (shapes.batch_size, shapes.context_length);
    let ids = config.create_embeddings_input_tensor(&[5, 6]).expect("ids");
    assert_eq!((ids.dims(), ids.dtype()), (&[1, batch][..], DType::I64));
    assert_eq!(ids.flatten_all().and_then(|t| t.to_vec1::<i64>()).expect("values")[..3], [5, 6, 0]);
    assert_eq!(config.create_single_token_embeddings_input(7).expect("one").dims()[0], 1);
    let positions = config.create_position_ids_with_mode_detection(&[3], true).expect("positions");
    let expected: Vec<i64> = (3..3 + batch as i64).collect();
    assert_eq!(positions.to_vec1::<i64>().expect("values"), expected);
    let single = config.create_position_ids_with_mode_detection(&[3], false).expect("position");
    assert_eq!(single.to_vec1::<i64>().expect("values"), [3]);
    let mask = config.create_causal_mask_with_mode_detection(2, context, false).expect("mask");
    assert_eq!(mask.dims(), [1, 1, 1, context]);
    let row: Vec<f32> =
        mask.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("values");
    assert_eq!(row.iter().filter(|&&v| v == 0.0).count(), 3, "columns 0 to 2 are open");
    assert_eq!(config.create_update_mask_tensor(context - 1).expect("mask").dims(), [1, 1, context, 1]);
}

#[test]
fn tensors_that_do_not_fit_are_rejected() {
    let config = QwenConfig::from_model_config(discovered());
    let shapes = config.shapes().expect("shapes");
    assert!(config.create_embeddings_input_tensor(&[]).is_err());
    assert!(config.create_embeddings_input_tensor(&vec![0; shapes.batch_size + 1]).is_err());
    assert!(config.create_position_ids_with_mode_detection(&[0, 1], false).is_err());
    assert!(config.create_position_ids_with_mode_detection(&[-1], true).is_err());
    assert!(config.create_causal_mask_with_mode_detection(0, shapes.context_length + 1, true).is_err());
    assert!(config.create_update_mask_tensor(shapes.context_length).is_err());
    assert!(QwenConfig::default().create_update_mask_tensor(0).is_err(), "no shapes are known");
}
