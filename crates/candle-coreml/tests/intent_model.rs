//! The shipped encoder: correct on sentences outside its training data, and in agreement with PyTorch.

use std::path::Path;

use candle_core::{D, Device, Tensor};
use candle_coreml::Error;

#[path = "../examples/support/encoder.rs"]
mod encoder;

use encoder::{Encoder, SHIPPED};

#[derive(serde::Deserialize)]
struct Row {
    text: String,
    intent: String,
}

fn shipped() -> Encoder {
    Encoder::load(Path::new(SHIPPED)).expect("the shipped encoder loads")
}

#[test]
fn held_out_sentences_are_named_right() {
    let text = std::fs::read_to_string(Path::new(SHIPPED).join("heldout.jsonl")).expect("sentences");
    let rows: Vec<Row> = text.lines().map(|l| serde_json::from_str(l).expect("a sentence")).collect();
    assert!(rows.len() >= 400);
    let encoder = shipped();
    let mut right = 0;
    // The package accepts at most 32.
    for rows in rows.chunks(32) {
        let texts: Vec<&str> = rows.iter().map(|r| r.text.as_str()).collect();
        let logits = encoder.output("logits", &texts).expect("logits");
        let named = logits.argmax(D::Minus1).and_then(|t| t.to_vec1::<u32>()).expect("labels");
        right += rows.iter().zip(named).filter(|(r, n)| r.intent == encoder.labels[*n as usize]).count();
    }
    println!("{right} of {} right", rows.len());
    assert!(right as f64 >= 0.95 * rows.len() as f64, "{right} of {} right", rows.len());
}

#[test]
fn results_agree_with_pytorch() {
    let encoder = shipped();
    let file = Path::new(SHIPPED).join("reference.safetensors");
    let reference = candle_core::safetensors::load(file, &Device::Cpu).expect("a reference");
    for batch in ["one", "four", "twelve"] {
        let given = |name: &str| &reference[&format!("{batch}.{name}")];
        let outputs = encoder.forward(given("input_ids"), given("attention_mask")).expect("outputs");
        assert_eq!(outputs.len(), 2);
        for (name, found) in outputs {
            assert_eq!(found.dims(), given(&name).dims(), "{batch} {name}");
            let difference = found.sub(given(&name)).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
            // fp16 weights on both sides; summation order and fp16 constants remain.
            let difference = difference.expect("a number");
            assert!(difference < 2e-2, "{batch} {name}: {difference}");
        }
    }
}

#[test]
fn neither_padding_nor_neighbours_change_a_sentence() {
    let encoder = shipped();
    let texts = ["Hi there, Ada!", "Add a meeting with Clara on Friday at 9.", "Play jazz for dinner."];
    let together = encoder.output("logits", &texts).expect("logits").to_vec2::<f32>().expect("rows");
    for (text, expected) in texts.iter().zip(&together) {
        let alone = encoder.output("logits", &[text]).expect("logits").to_vec2::<f32>().expect("a row");
        let worst = alone[0].iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{text}: {worst}");
    }
}

#[test]
fn what_does_not_fit_is_rejected() {
    let encoder = shipped();
    let tensor = |shape: (usize, usize)| Tensor::ones(shape, candle_core::DType::I64, &Device::Cpu).expect("ones");
    for shape in [(33, 4), (1, 49), (0, 4)] {
        let error = encoder.forward(&tensor(shape), &tensor(shape)).expect_err("outside the declared range");
        assert!(matches!(&error, Error::Input { name, .. } if name == "input_ids"), "{shape:?}: {error}");
    }
    let message = encoder.forward(&tensor((1, 49)), &tensor((1, 49))).expect_err("too long").to_string();
    assert_eq!(message, "input `input_ids`: expected a shape within [1..=32, 1..=48], found I64 [1, 49]");
    // Both match the description, but not each other.
    assert!(encoder.forward(&tensor((2, 4)), &tensor((3, 4))).is_err());
    assert!(encoder.output("probabilities", &["Hi"]).is_err());
    // Longer texts are truncated as the tokenizer is configured.
    let (ids, _) = encoder.batch(&["word ".repeat(500).as_str()]).expect("ids");
    assert_eq!(ids.dims(), [1, 48]);

    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(Encoder::load(folder.path()), Err(Error::File { .. })), "no tokenizer");
    std::fs::copy(Path::new(SHIPPED).join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("copied");
    assert!(matches!(Encoder::load(folder.path()), Err(Error::File { .. })), "no package");
}
