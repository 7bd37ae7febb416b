//! Converted encoders against transformers (`tools/encoder_reference.py`).

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::convert::{Encoder, Layout, Lut, convert};
use candle_coreml::encoder::{EncoderInput, TextEncoder};
use candle_coreml::format::model::Model;
use candle_coreml::write::builder::check;
use candle_coreml::{CoreMLModel, FeatureValue};

const ALL: [&str; 7] = [
    "camembert-mean-f16",
    "bert-pooler-f16",
    "bert-mean-shards-f32",
    "roberta-cls-bf16",
    "xlm-roberta-max-f16",
    "distilbert-f16",
    "mpnet-sqrt-f16",
];

const CLASSIFIERS: [&str; 8] = [
    "bert-texts-f16",
    "bert-tokens-bf16",
    "roberta-texts-f16",
    "xlm-roberta-tokens-f16",
    "camembert-texts-f32",
    "distilbert-texts-f16",
    "distilbert-tokens-f16",
    "mpnet-texts-f16",
];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/encoders").join(name)
}

fn converted(from: &Path, o: Encoder) -> (tempfile::TempDir, CoreMLModel) {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("model");
    convert(from, &o.into(), &to).unwrap_or_else(|e| panic!("{e}"));
    let package = to.join("encoder.mlpackage");
    let wrong = check(Model::open(&package).expect("a model").body.program().expect("a program"));
    assert!(wrong.is_empty(), "{wrong:?}");
    let model = CoreMLModel::builder(&package).load().expect("it loads");
    (folder, model)
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("numbers")
}

/// Inputs of some texts, cut to a length.
fn inputs(
    all: &std::collections::HashMap<String, Tensor>,
    texts: std::ops::Range<usize>,
    length: usize,
) -> Vec<(&'static str, Tensor)> {
    [("ids", "input_ids"), ("mask", "attention_mask"), ("types", "token_type_ids")]
        .into_iter()
        .filter_map(|(key, name)| {
            let t = all.get(key)?.narrow(0, texts.start, texts.len()).and_then(|t| t.narrow(1, 0, length));
            Some((name, t.and_then(|t| t.to_dtype(DType::I32)).and_then(|t| t.contiguous()).expect("a part")))
        })
        .collect()
}

fn predict(model: &CoreMLModel, inputs: &[(&'static str, Tensor)]) -> (Tensor, Option<Tensor>) {
    let out = model.predict(inputs, None).unwrap_or_else(|e| panic!("{e}"));
    let tensor = |name: &str| out.get(name).and_then(FeatureValue::tensor).cloned();
    let states = tensor("last_hidden_state").expect("states");
    (states, tensor("sentence_embedding").or_else(|| tensor("pooler_output")))
}

fn far(a: f32, b: f32) -> f32 {
    if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() }
}

/// Largest distance of states of tokens.
fn off_states(
    name: &str,
    all: &std::collections::HashMap<String, Tensor>,
    texts: std::ops::Range<usize>,
    length: usize,
    states: &Tensor,
) -> f32 {
    let part =
        |key: &str| all[key].narrow(0, texts.start, texts.len()).and_then(|t| t.narrow(1, 0, length)).expect("a part");
    let (wanted, mask) = (part("states"), numbers(&part("mask")));
    let width = wanted.dims()[2];
    let (found, wanted) = (numbers(states), numbers(&wanted));
    assert_eq!(found.len(), wanted.len(), "{name}");
    let pairs = found.iter().zip(&wanted).enumerate().filter(|(i, _)| mask[i / width] > 0.0);
    pairs.map(|(_, (a, b))| far(*a, *b)).fold(0f32, f32::max)
}

/// Largest distance of states of tokens, and of vectors, for texts of these rows cut to a length.
fn off(name: &str, model: &CoreMLModel, texts: std::ops::Range<usize>, length: usize) -> f32 {
    let all = candle_core::safetensors::load(source(name).join("reference.safetensors"), &Device::Cpu).expect("a file");
    let (states, pooled) = predict(model, &inputs(&all, texts.clone(), length));
    let mut worst = off_states(name, &all, texts.clone(), length, &states);
    assert_eq!(pooled.is_some(), all.contains_key("pooled"), "{name}");
    if let Some(pooled) = pooled {
        let wanted = all["pooled"].narrow(0, texts.start, texts.len()).expect("rows");
        assert_eq!(pooled.dims(), wanted.dims(), "{name}");
        worst = numbers(&pooled).iter().zip(numbers(&wanted)).map(|(a, b)| far(*a, b)).fold(worst, f32::max);
    }
    worst
}

/// Tolerance on states, vectors of pooling included: weights in fp16, arithmetic in f32.
const TOLERANCE: f32 = 0.03;

#[test]
fn every_family_gives_the_states_and_vectors_of_transformers() {
    for name in ALL {
        let (_folder, model) = converted(&source(name), Encoder::default());
        // All texts with padding, then each alone without.
        for (texts, length) in [(0..3, 39), (0..1, 1), (1..2, 7), (2..3, 39)] {
            let worst = off(name, &model, texts.clone(), length);
            assert!(worst < TOLERANCE, "{name}, {texts:?} of {length} tokens: {worst}");
        }
    }
}

/// Absolute tolerance on logits: weights in fp16, arithmetic in f32.
const LOGITS: f32 = 0.01;

#[test]
fn classifiers_give_the_logits_of_transformers() {
    for name in CLASSIFIERS {
        let (folder, model) = converted(&source(name), Encoder::default());
        let all =
            candle_core::safetensors::load(source(name).join("reference.safetensors"), &Device::Cpu).expect("a file");
        assert_eq!(model.input_names().contains(&"token_type_ids".to_owned()), all.contains_key("types"), "{name}");
        assert_eq!(model.output_names(), ["logits", "last_hidden_state"], "{name}");
        for (texts, length) in [(0..3, 39), (0..1, 1), (1..2, 7), (2..3, 39)] {
            let out =
                model.predict(&inputs(&all, texts.clone(), length), None).unwrap_or_else(|e| panic!("{name}: {e}"));
            let part = |key: &str| all[key].narrow(0, texts.start, texts.len()).expect("rows");
            let mut wanted = part("logits");
            let mut seen = vec![1.0; texts.len()];
            if name.contains("-tokens-") {
                wanted = wanted.narrow(1, 0, length).expect("tokens");
                seen = numbers(&part("mask").narrow(1, 0, length).expect("tokens"));
            }
            let found = out["logits"].tensor().expect("logits");
            assert_eq!((found.dims(), found.dtype()), (wanted.dims(), DType::F32), "{name}");
            let labels = wanted.dims()[wanted.rank() - 1];
            let (found, wanted) = (numbers(found), numbers(&wanted));
            for (i, (a, b)) in found.iter().zip(&wanted).enumerate().filter(|(i, _)| seen[i / labels] > 0.0) {
                assert!(far(*a, *b) < LOGITS, "{name}, {texts:?} of {length} tokens: {a} for {b} at {i}");
            }
            let worst =
                off_states(name, &all, texts.clone(), length, out["last_hidden_state"].tensor().expect("states"));
            assert!(worst < TOLERANCE, "{name}, {texts:?} of {length} tokens: {worst}");
        }
        let config = std::fs::read(folder.path().join("model/config.json")).expect("a configuration");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        let package = Model::open(&folder.path().join("model/encoder.mlpackage")).expect("a model");
        let labels: serde_json::Value =
            serde_json::from_str(&package.description.metadata.user["id2label"]).expect("JSON");
        assert!(labels.as_object().is_some_and(|l| !l.is_empty()) && labels == config["id2label"], "{name}: {labels}");
    }
}

#[test]
fn labels_without_names_have_those_of_transformers() {
    let folder = tempfile::tempdir().expect("a folder");
    let from = folder.path().join("source");
    copy(&source("distilbert-texts-f16"), &from);
    let file = from.join("config.json");
    let text = std::fs::read_to_string(&file).expect("text");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let keys = config.as_object_mut().expect("an object");
    keys.remove("id2label");
    keys.insert("num_labels".to_owned(), 4.into());
    std::fs::write(&file, config.to_string()).expect("written");
    let (to, _) = converted(&from, Encoder::default());
    let package = Model::open(&to.path().join("model/encoder.mlpackage")).expect("a model");
    let labels = r#"{"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2", "3": "LABEL_3"}"#;
    assert_eq!(package.description.metadata.user["id2label"], labels);
}

#[test]
fn wrong_heads_are_refused_by_name() {
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let heads = "…ForSequenceClassification, …ForTokenClassification, found";
    let cases: [(&str, String, Change<'_>); 11] = [
        ("bert-texts-f16", format!("{heads} BertForQuestionAnswering"), &|c| {
            c["architectures"] = serde_json::json!(["BertForQuestionAnswering"]);
        }),
        ("bert-texts-f16", format!("{heads} BertForNextSentencePrediction"), &|c| {
            c["architectures"] = serde_json::json!(["BertForNextSentencePrediction"]);
        }),
        ("bert-texts-f16", format!("{heads} JinaBertModel"), &|c| {
            c["architectures"] = serde_json::json!(["JinaBertModel"]);
        }),
        ("bert-texts-f16", format!("{heads} \"BertModel\""), &|c| c["architectures"] = "BertModel".into()),
        // Its head's tensors are left over.
        ("bert-texts-f16", "found also classifier.bias, classifier.weight".to_owned(), &|c| {
            c["architectures"] = serde_json::json!(["BertModel"]);
        }),
        ("roberta-texts-f16", "found also classifier.dense.bias".to_owned(), &|c| {
            c.as_object_mut().expect("an object").remove("architectures");
        }),
        (
            "distilbert-tokens-f16",
            "tensor `pre_classifier.weight`: expected shape [24, 24], found none".to_owned(),
            &|c| {
                c["architectures"] = serde_json::json!(["DistilBertForSequenceClassification"]);
            },
        ),
        ("mpnet-texts-f16", "expected shape [2, 24], found [3, 24]".to_owned(), &|c| {
            c["id2label"] = serde_json::json!({"0": "x", "1": "y"});
        }),
        (
            "mpnet-texts-f16",
            "`id2label`: expected names of 1 to 65536 labels from 0 on, found 2 labels, but no name of 1".to_owned(),
            &|c| {
                c["id2label"] = serde_json::json!({"0": "x", "2": "y"});
            },
        ),
        ("mpnet-texts-f16", "`id2label`".to_owned(), &|c| c["id2label"] = serde_json::json!({})),
        ("mpnet-texts-f16", "found 16777216 labels".to_owned(), &|c| {
            c["id2label"] = serde_json::Value::Null;
            c["num_labels"] = (1 << 24).into();
        }),
    ];
    for (name, part, change) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("source"), folder.path().join("model"));
        copy(&source(name), &from);
        let text = std::fs::read_to_string(from.join("config.json")).expect("text");
        let mut config = serde_json::from_str(&text).expect("JSON");
        change(&mut config);
        std::fs::write(from.join("config.json"), config.to_string()).expect("written");
        let error = convert(&from, &Encoder::default().into(), &to).expect_err(&part).to_string();
        assert!(error.contains(&part), "expected {part}: {error}");
        assert!(!to.exists(), "{part}");
    }
}

/// Texts through a tokenizer of SentencePiece's kind: ids and vectors of transformers, alone and together.
#[test]
fn texts_of_camembert_become_the_vectors_of_transformers() {
    let (folder, _) = converted(&source("camembert-mean-f16"), Encoder::default());
    let encoder = TextEncoder::load(folder.path().join("model")).unwrap_or_else(|e| panic!("{e}"));
    let texts = std::fs::read(source("camembert-mean-f16").join("texts.json")).expect("texts");
    let texts: serde_json::Value = serde_json::from_slice(&texts).expect("JSON");
    let texts = texts.as_array().expect("a list");
    let floats = |v: &serde_json::Value| -> Vec<f64> {
        v.as_array().expect("numbers").iter().map(|n| n.as_f64().expect("a number")).collect()
    };
    let wanted: Vec<Vec<f64>> = texts.iter().map(|t| floats(&t["vector"])).collect();
    let count: usize = texts.iter().map(|t| floats(&t["ids"]).len()).sum();
    let close = |found: &[Vec<f32>], wanted: &[Vec<f64>]| {
        assert_eq!(found.len(), wanted.len());
        for (a, b) in found.iter().flatten().zip(wanted.iter().flatten()) {
            assert!((f64::from(*a) - b).abs() < 2e-3, "{a} for {b}");
        }
    };
    let given = |t: &serde_json::Value| EncoderInput::Text(t["text"].as_str().expect("a text").to_owned());
    let all = encoder.embed(&texts.iter().map(given).collect::<Vec<_>>()).expect("vectors");
    assert_eq!(all.tokens, count);
    close(&all.vectors, &wanted);
    for (text, wanted) in texts.iter().zip(&wanted) {
        let ids: Vec<u32> = floats(&text["ids"]).into_iter().map(|n| n as u32).collect();
        let alone = encoder.embed(&[given(text)]).expect("a vector");
        assert_eq!(alone.tokens, ids.len());
        close(&alone.vectors, std::slice::from_ref(wanted));
        assert_eq!(encoder.embed(&[EncoderInput::Tokens(ids)]).expect("a vector"), alone);
    }
}

#[test]
fn kinds_of_tokens_may_be_left_out() {
    let name = "bert-pooler-f16";
    let (_folder, model) = converted(&source(name), Encoder::default());
    let all = candle_core::safetensors::load(source(name).join("reference.safetensors"), &Device::Cpu).expect("a file");
    let mut given = inputs(&all, 0..3, 39);
    given[2].1 = given[2].1.zeros_like().expect("zeros");
    let (with, _) = predict(&model, &given);
    given.truncate(2);
    assert_eq!(numbers(&predict(&model, &given).0), numbers(&with));
}

#[test]
fn tables_and_limits_are_those_asked_for() {
    let lut = Some(Lut { bits: 8, group: Some(8) });
    let o = Encoder { length: Some(39), batch: 3, lut, lut_embeddings: lut };
    let (_folder, model) = converted(&source("bert-mean-shards-f32"), o);
    assert!(off("bert-mean-shards-f32", &model, 0..3, 39) < 0.1);
    let description = format!("{:?}", model.description());
    assert!(description.contains("max: Some(39)") && description.contains("max: Some(3)"), "{description}");
}

#[test]
fn wrong_encoders_are_refused_by_name_and_leave_nothing() {
    type Change<'a> = Box<dyn Fn(&Path) + 'a>;
    let config = |folder: &Path, from: &str, to: &str| {
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file).expect("text");
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).expect("written");
    };
    let cases: Vec<(&str, Encoder, Change<'_>)> = vec![
        (
            "`model_type`: expected one of bert, roberta",
            Encoder::default(),
            Box::new(|f| config(f, "\"bert\"", "\"gpt2\"")),
        ),
        ("`is_decoder`", Encoder::default(), Box::new(|f| config(f, "\"is_decoder\": false", "\"is_decoder\": true"))),
        ("`hidden_act`", Encoder::default(), Box::new(|f| config(f, "\"gelu_new\"", "\"sine\""))),
        (
            "expected shape [97, 32]",
            Encoder::default(),
            Box::new(|f| config(f, "\"vocab_size\": 96", "\"vocab_size\": 97")),
        ),
        (
            "model-00002-of-00002.safetensors",
            Encoder::default(),
            Box::new(|f| std::fs::remove_file(f.join("model-00002-of-00002.safetensors")).expect("removed")),
        ),
        (
            "expected safetensors",
            Encoder::default(),
            Box::new(|f| std::fs::write(f.join("model-00002-of-00002.safetensors"), b"no").expect("written")),
        ),
        (
            "the pooling: expected one of pooling_mode_cls_token",
            Encoder::default(),
            Box::new(|f| {
                std::fs::write(f.join("1_Pooling/config.json"), "{\"pooling_mode_lasttoken\": true}").expect("written");
            }),
        ),
        (
            "module 2: expected Transformer",
            Encoder::default(),
            Box::new(|f| {
                let text = std::fs::read_to_string(f.join("modules.json")).expect("text");
                std::fs::write(f.join("modules.json"), text.replace("Normalize", "LSTM")).expect("written");
            }),
        ),
        (
            "the length: expected 1 to the 40 positions",
            Encoder { length: Some(41), ..Encoder::default() },
            Box::new(|_| {}),
        ),
    ];
    for (part, o, change) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("source");
        copy(&source("bert-mean-shards-f32"), &from);
        change(&from);
        let to = folder.path().join("model");
        let layout: Layout = o.into();
        let error = convert(&from, &layout, &to).expect_err(part).to_string();
        assert!(error.contains(part), "expected {part}: {error}");
        assert!(!to.exists(), "{part}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
